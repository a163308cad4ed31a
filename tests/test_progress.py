"""What a run shows while it goes on: on a terminal, in a pipe, and when it is stopped."""

import fcntl
import itertools
import os
import re
import signal
import struct
import sys
import termios
import threading

import pytest
from training import plain_config, trainer_of

import train
from utils.drawing.text import duration
from utils.errors import guard
from utils.run.log import log_to_console
from utils.run.progress import progress
from utils.run.stopwatch import Forecast, Stopwatch


class Terminal:
    """A pseudo terminal, and what stands on its screen."""

    def __init__(self, columns):
        self.columns = columns
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.file = os.fdopen(slave, "w", encoding="utf-8")
        self._received = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        try:
            while data := os.read(self._master, 4096):
                self._received.append(data)
        except OSError:  # the other side is closed
            return

    def close(self):
        """All that was written."""
        self.file.close()
        self._reader.join()
        os.close(self._master)
        return b"".join(self._received).decode()

    def screen(self, text):
        """The lines that are seen after a text was written, as long ones wrap."""
        rows, row, column = [""], 0, 0
        for character in text:
            if character == "\r":
                column = 0
                continue
            if character == "\n" or column == self.columns:
                row, column = row + 1, column * (character == "\n")
                rows += [""] * (row == len(rows))
            if character != "\n":
                line = rows[row].ljust(column)
                rows[row], column = line[:column] + character + line[column + 1 :], column + 1
        return [line.rstrip() for line in rows]


@pytest.fixture
def terminal(monkeypatch):
    """Make stderr a terminal of so many columns."""

    def make(columns):
        made = Terminal(columns)
        monkeypatch.setattr(sys, "stderr", made.file)
        return made

    return make


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (80, ["loss", "Mean_IoU", "waiting"]),
        (120, ["loss", "Mean_IoU", "waiting", "images/s", "Pixel_Accuracy"]),
    ],
)
def test_the_progress_line_has_the_score_and_the_waiting(terminal, tmp_path, columns, shown):
    screen = terminal(columns)
    trainer = trainer_of(plain_config(tmp_path, log_per_iter=1, epochs=9))
    trainer.train_epoch(1)
    # Beside the epoch the time until the run's end, beside the iteration that until the epoch's.
    frames = re.findall(r"TRAIN 1/9 <[\dsm]+ 2/3 <[\d:]+, [^\r]*", screen.close())
    assert frames
    line = frames[-1][: columns - 1]
    numbers = r"  ".join(rf"{name} ([\d.]+(?: ?%)?)" for name in shown)
    found = re.match(rf"TRAIN 1/9 <([\dsm]+) 2/3 <[\d:]+, {numbers} ", line)
    assert found
    # Room for an epoch such as 100/300 with 4h05m to go and iterations such as 1234/2345.
    longest = len("100/300 4h05m 1234/2345")
    assert found.end() - len(f"1/9 {found[1]} 2/3") + longest <= columns + 1
    assert 0 <= float(found[3].removesuffix(" %")) <= 100


@pytest.mark.parametrize(("seconds", "seen"), [(0.1, False), (1.5, True)])
def test_what_takes_over_two_seconds_shows_how_far_it_is(terminal, monkeypatch, seconds, seen):
    clock = itertools.count(0, seconds)
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
    screen = terminal(80)
    assert list(progress(iter("abcde"), "statistics", 5)) == list("abcde")
    shown = screen.close()
    assert bool(re.search(r"statistics: +\d+%.* \d/5 ", shown)) is seen
    assert screen.screen(shown)[-1] == ""  # nothing is left of it


def test_in_a_pipe_there_is_no_bar(capsys, monkeypatch):
    clock = itertools.count(0, 1.5)
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
    assert list(progress("ab", "statistics", 2)) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_ctrl_c_leaves_a_clean_line_that_says_how_to_go_on(
    terminal, write_config, run_folder, monkeypatch
):
    from trainer import Trainer

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what runs in background
    screen = terminal(80)
    real = Trainer.train_iteration

    def interrupted(self, batches):
        real(self, batches)
        if self.position.step == 2:
            screen.file.write("^C")  # a terminal's echo
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "train_iteration", interrupted)
    assert guard(train.main, ["--config", str(write_config(log_per_iter=1))]) == 130
    lines = screen.screen(screen.close())
    (stopped,) = (index for index, line in enumerate(lines) if "stopped" in line)
    assert lines[stopped] == "stopped: SIGINT at iteration 2: saved"
    command = "".join(lines[stopped + 1 :])
    assert re.fullmatch(rf"  go on with: \S+ \S*train\.py --resume {run_folder()}", command)
    logged = (run_folder() / "train.log").read_text(encoding="utf-8")
    assert re.search(r"TRAIN 1/2  1/3  loss .*  waiting \d+%", logged)  # as the bar showed
    assert "SIGINT at iteration 2: saved" in logged


def test_in_a_pipe_an_epoch_has_one_line_at_its_end(tmp_path, capsys):
    log_to_console()
    trainer = trainer_of(plain_config(tmp_path, log_per_iter=1))
    trainer.train_epoch(1)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("TRAIN")]
    assert [line.split("  ")[:2] for line in lines[:2]] == [
        ["TRAIN 1/2", "1/3"],
        ["TRAIN 1/2", "2/3"],
    ]
    (end,) = lines[2:]
    numbers = "loss .*  Mean_IoU .*  waiting .*%  images/s .*  Pixel_Accuracy .*"
    assert re.fullmatch(rf"TRAIN 1/2  {numbers}", end)


def test_the_time_left_follows_the_pace_since_the_first_look(monkeypatch, caplog):
    clock = iter([50.0, 60.0, 90.0, 190.0, 300.0])
    monkeypatch.setattr("utils.run.stopwatch.time.perf_counter", lambda: next(clock))
    forecast = Forecast(1000, shown=True)
    with caplog.at_level("INFO", "segmentation"):
        assert forecast.left(20) == ""  # at 50: what came before is no pace
        assert forecast.left(20) == ""
        assert forecast.left(60) == "16m"  # 40 s for 40 iterations: 940 s
        assert forecast.left(90) == "30m"  # 140 s for 70: 1820 s
        assert forecast.left(1000) == ""
    assert caplog.messages == ["expected    about 16m to go"]  # once


def test_a_time_has_its_two_largest_units():
    known = {0: "0s", 99.4: "99s", 100: "2m", 5999: "100m", 6000: "1h40m", 39900: "11h05m"}
    known |= {172799: "47h59m", 172800: "2d00h", 1e6: "11d13h"}
    assert {seconds: duration(seconds) for seconds in known} == known


def test_waiting_is_measured_since_the_last_reading_and_over_the_epoch(monkeypatch):
    clock = iter([-1.0, 0.0, 1.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0])
    monkeypatch.setattr("utils.run.stopwatch.time.perf_counter", lambda: next(clock))
    watch = Stopwatch()  # at -1
    batches = watch.waiting(["a", "b"])
    next(batches)  # the epoch begins at 0; this waits from 1 to 3
    watch.count(8)
    assert watch.read() == (2.0, 0.5)  # at 4
    next(batches)  # from 5 to 6
    watch.count(4)
    assert watch.read() == (1.0, 0.25)  # at 8
    assert watch.read(epoch=True) == (1.2, 0.3)  # at 10

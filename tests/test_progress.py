"""What a run shows while it goes on: on a terminal, in a pipe, and when it is stopped."""

import fcntl
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
from utils.errors import guard
from utils.run.log import log_to_console
from utils.run.stopwatch import Stopwatch


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
    frames = re.findall(r"TRAIN 1/9 2/3 <[\d:]+, [^\r]*", screen.close())
    assert frames
    line = frames[-1][: columns - 1]
    numbers = r"  ".join(rf"{name} ([\d.]+(?: ?%)?)" for name in shown)
    found = re.match(rf"TRAIN 1/9 2/3 <[\d:]+, {numbers} ", line)
    assert found
    # Room for an epoch such as 100/300 and iterations such as 12345/23456.
    assert found.end() - len("1/9 2/3") + len("100/300 12345/23456") <= columns
    assert 0 <= float(found[2].removesuffix(" %")) <= 100


def test_ctrl_c_leaves_a_clean_line_that_says_how_to_go_on(
    terminal, write_config, run_folder, monkeypatch
):
    from trainer import Trainer

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

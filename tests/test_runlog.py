"""The files of a run: one process writes them, and a disk that fails is told by its name."""

import errno
import logging
import os
import re
import shutil
import signal
import socket
import threading
from pathlib import Path

import pytest
from test_checkpoint import CONTENT

from utils.errors import ConfigError, ResourceError
from utils.run import checkpoint
from utils.run.log import RunLog, log_to_console, open_run
from utils.run.numbers import class_lines


def test_a_second_process_is_kept_out_until_the_first_is_dead(tmp_path):
    """A first that has a worker which outlives it, as a data loader's does for some seconds."""
    leftover = tmp_path / ".last.pth.0123abcd.partial"
    leftover.touch()
    reading, writing = os.pipe()
    first = os.fork()
    if first == 0:
        _run = RunLog(tmp_path)
        if os.fork() == 0:
            os.write(writing, str(os.getpid()).encode())
        signal.pause()
    worker = int(os.read(reading, 20))
    try:
        with pytest.raises(ConfigError, match="another process is training in this run folder"):
            open_run(tmp_path, {}, tensorboard=None, resumed=None)
        assert leftover.exists()  # it may be the first one's
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        open_run(tmp_path, {}, tensorboard=None, resumed=None).close()
        assert not leftover.exists()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_names_that_are_not_utf_8_are_written_escaped(tmp_path):
    log_to_console()
    with RunLog(tmp_path, tensorboard=tmp_path / "run \udcff"):
        logging.getLogger("segmentation").info("caf\udce9.jpg")
    assert "INFO caf\\udce9.jpg\n" in (tmp_path / "train.log").read_text(encoding="utf-8")
    assert list((tmp_path / "run \\udcff").iterdir())


# TensorBoard writes in a thread of its own, which ends with the fault.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboards_folder_deleted_in_mid_run_does_not_end_the_run(tmp_path, caplog):
    before = set(threading.enumerate())
    run = RunLog(tmp_path, tensorboard=tmp_path / "events")
    run.flush()
    shutil.rmtree(tmp_path / "events")
    for step in (1, 2):
        run.scalars(step, {"train/loss": 1.0})
        run.flush()
        run.row("log", 1, step, {"loss": 1.0})
    run.close()
    said = [line for line in caplog.messages if "events" in line]
    words = "TensorBoard has no events from here on: cannot write"
    assert said == [f"{words} {tmp_path / 'events'}: No such file or directory"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # or its fault would be taken for the next test's


def test_a_log_dir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"cannot write .*\n.*trainer\.tensorboard to false"):
        RunLog(tmp_path, tensorboard=tmp_path / "file" / "runs")


def test_a_full_disk_stops_at_a_row_and_not_at_a_word(tmp_path, capsys):
    for name in ("metrics.jsonl", "train.log"):
        (tmp_path / name).symlink_to("/dev/full")
    log_to_console()
    run = RunLog(tmp_path)
    logging.getLogger("segmentation").info("hello")
    assert capsys.readouterr().err == "hello\n"
    with pytest.raises(ResourceError, match=r"metrics\.jsonl: No space left.*\n.*save_dir"):
        run.row("log", 1, 1, {"loss": 1.0})
    handlers = logging.getLogger("segmentation").handlers
    assert len(handlers) == 2
    with pytest.raises(ResourceError, match="No space left"):
        run.close()
    assert len(handlers) == 1  # the console's


ROW = b'{"event": "log", "epoch": 1, "step": 1}\n'


@pytest.mark.parametrize(
    ("there", "kept"),
    [
        (None, b""),
        (ROW, ROW),
        (ROW + b"\0" * len(ROW), ROW),
        (ROW + ROW[:20], ROW),
        (ROW + ROW[:20] + b"\0" * 20, ROW),
    ],
    ids=["absent", "shorter", "zeros", "half a row", "half a row and zeros"],
)
def test_rows_that_a_power_loss_took_are_said(tmp_path, caplog, there, kept):
    """The checkpoint counts two rows."""
    state = {**CONTENT, "epoch": 0, "step": 1, "log_bytes": 2 * len(ROW)}
    checkpoint.save([tmp_path / "last.pth"], state)
    if there is not None:
        (tmp_path / "metrics.jsonl").write_bytes(there)
    open_run(tmp_path, {}, tensorboard=None, resumed=state).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == kept
    assert f"rows of this run are missing: {len(kept)} bytes are sound" in caplog.text


def test_the_rows_that_a_checkpoint_counts_are_on_the_disk_before_it(tmp_path, monkeypatch):
    calls, fsync = [], os.fsync
    monkeypatch.setattr("os.fsync", lambda handle: (calls.append(name_of(handle)), fsync(handle)))
    with RunLog(tmp_path) as run:
        run.row("log", 1, 1, {"loss": 1.0})
        length = run.durable_length()
    assert length == (tmp_path / "metrics.jsonl").stat().st_size > 0
    assert calls == ["metrics.jsonl"]


def name_of(handle):
    return Path(f"/proc/self/fd/{handle}").readlink().name


def test_who_holds_a_run_folder_is_said(tmp_path):
    reading, writing = os.pipe()
    first = os.fork()
    if first == 0:
        log_to_console()
        _run = RunLog(tmp_path)
        os.write(writing, b"ready")
        signal.pause()
    os.read(reading, 5)
    try:
        host = re.escape(socket.gethostname())
        with pytest.raises(ConfigError, match=rf"run folder \(process {first} on {host}\)\n"):
            open_run(tmp_path, {}, tensorboard=None, resumed=None)
    finally:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)


def test_where_there_are_no_locks_it_is_said(tmp_path, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", unsupported)
    RunLog(tmp_path).close()
    assert "no locks here: see that no other process trains in it" in caplog.text


def test_lines_of_classes_break_between_two_classes():
    ious = {f"class {number}": number / 100 for number in range(30)}
    lines = class_lines(ious | {"none": None}).splitlines()
    assert lines[0].startswith("IoU  class 0 0.00 %  class 1 1.00 %")
    assert max(map(len, lines)) <= 80
    said = [one for line in lines for one in line.removeprefix("IoU").strip().split("  ")]
    assert said == [f"class {number} {number:.2f} %" for number in range(30)] + ["none -"]

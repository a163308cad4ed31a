"""The files of a run: one process writes them, and a disk that fails is told by its name."""

import logging
import os
import shutil
import signal
import threading

import pytest

from utils.errors import ConfigError, ResourceError
from utils.run.log import RunLog, log_to_console, open_run


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
def test_tensorboards_folder_deleted_in_mid_run_is_no_bug_of_ours(tmp_path):
    before = set(threading.enumerate())
    run = RunLog(tmp_path, tensorboard=tmp_path / "events")
    run.flush()
    shutil.rmtree(tmp_path / "events")
    run.scalars(1, {"train/loss": 1.0})
    message = r"events: No such file .*\n.*trainer\.log_dir"
    with pytest.raises(ResourceError, match=message):
        run.flush()
    with pytest.raises(ResourceError, match=message):
        run.close()
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

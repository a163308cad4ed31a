"""Workers that hang or cannot hand over end a run in time, with what is known of the cause."""

import multiprocessing
import os
import resource
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest
from test_loader import Sizes
from torch.multiprocessing import reductions

import train
from base.base_data_loader import BaseDataLoader
from base.signals import StopSignals
from dataloaders.shapes import Shapes
from trainer import Trainer
from utils.errors import ResourceError, RunInterruptedError
from utils.run import checkpoint


class Faulty(Sizes):
    """Four images, of which reading the one at `index` does something else first."""

    def __init__(self, index, fault):
        super().__init__(sizes=((8, 8),) * 4)
        self.index, self.what = index, fault

    def load(self, index):
        if index == self.index:
            self.what()
        return super().load(index)


def hang():
    time.sleep(1000)


def no_room():
    """Files of shared memory count as files."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def read_all(index, fault):
    loader = BaseDataLoader(Faulty(index, fault), batch_size=1, num_workers=1, timeout=1)
    seen = []
    try:
        for batch in loader:
            seen += batch.indices
    finally:
        pids = loader.processes
        loader.close()
        assert all(map(is_gone, pids))
        assert seen == list(range(index))


def test_a_worker_that_hangs_is_given_up_and_its_sample_named():
    with pytest.raises(ResourceError, match=r"hangs: no batch for 1 s; one of image2\n"):
        read_all(2, hang)


def test_a_batch_that_finds_no_shared_memory_is_said_at_once():
    with pytest.raises(ResourceError, match=r"cannot hand over a batch.*\n.*--shm-size"):
        read_all(1, no_room)


def test_a_tmpdir_with_too_long_a_path_is_said_at_once(tmp_path, monkeypatch):
    """Batches are handed over through a socket there, whose path has at most 107 bytes."""
    folder = tmp_path / ("x" * 110)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)
    with pytest.raises(ResourceError, match=r"cannot hand over a batch: AF_UNIX path(.|\n)*TMPDIR"):
        read_all(0, lambda: None)


def test_a_worker_that_dies_while_it_hands_over_a_batch_is_said(monkeypatch):
    """Its socket is closed before the system says that it is dead."""

    def lost(*_):
        raise EOFError

    lost.__module__, lost.__qualname__ = reductions.__name__, "rebuild_storage_fd"
    monkeypatch.setattr(reductions, "rebuild_storage_fd", lost)
    monkeypatch.setattr("base.workers._PATIENCE", 0.1)
    with pytest.raises(ResourceError, match="a data-loading worker process died"):
        read_all(0, lambda: None)


@pytest.mark.parametrize("_time", range(30))  # 6 of 150 did, while this was asked wrongly
def test_no_worker_outlives_a_main_process_that_was_killed(_time):
    reading, writing = os.pipe()
    main = os.fork()
    if main == 0:
        loader = BaseDataLoader(Faulty(0, hang), batch_size=1, num_workers=1)
        iter(loader._loader)
        os.write(writing, str(loader.processes[0]).encode())
        signal.pause()
    worker = int(os.read(reading, 20))
    os.kill(main, signal.SIGKILL)
    os.waitpid(main, 0)
    deadline = time.monotonic() + 60
    while not is_gone(worker) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_gone(worker)


def test_a_signal_while_a_worker_hangs_saves_the_last_iteration(
    write_config, run_folder, monkeypatch
):
    """The third iteration never gets its batch."""
    load, iteration, read = Shapes.load, Trainer.train_iteration, []

    def hanging(self, index):
        read.append(index)
        if len(read) > 8:
            hang()
        return load(self, index)

    def timed(self, batches):
        iteration(self, batches)
        if self.position.step == 2:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()

    monkeypatch.setattr("base.workers._PATIENCE", 0.5)
    monkeypatch.setattr(Shapes, "load", hanging)
    monkeypatch.setattr(Trainer, "train_iteration", timed)

    def with_worker(config):
        config["train_loader"]["args"]["num_workers"] = 1

    with pytest.raises(RunInterruptedError, match="SIGTERM at iteration 2: saved") as caught:
        train.main(["--config", str(write_config(with_worker, val=False, epochs=1))])
    assert caught.value.exit_code == 143
    assert checkpoint.load(run_folder() / "last.pth")["step"] == 2


def test_the_hang_up_of_a_terminal_is_noted_unless_it_was_ignored_at_the_start():
    """`nohup` starts its command with SIGHUP ignored."""
    for handler, noted in ((signal.SIG_DFL, signal.SIGHUP), (signal.SIG_IGN, None)):
        previous = signal.signal(signal.SIGHUP, handler)
        try:
            signals = StopSignals()
            with signals.caught():
                signal.raise_signal(signal.SIGHUP)
            assert signals.number == noted
            assert signal.getsignal(signal.SIGHUP) == handler
        finally:
            signal.signal(signal.SIGHUP, previous)

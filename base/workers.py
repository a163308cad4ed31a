"""The processes that load batches: how they start, are waited for, hand over and end."""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any, NoReturn, TypeVar

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import signal_handling

from base.signals import StopAskedError, StopSignals
from utils.errors import ResourceError

T = TypeVar("T")

LOOK_AROUND = 1  # seconds of waiting after which signals and the clock are looked at
_PATIENCE = 3.0  # seconds for a batch or an end that is overdue
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_probed = False  # in a worker: whether it has seen that batches can be handed over


def start(worker: int) -> None:  # noqa: ARG001 (torch passes the number)
    """Set up a worker: the main process decides what a signal means, and workers end with it."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform == "linux":  # also one that hangs, and whatever ends the main process
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        main = multiprocessing.parent_process()
        # It may have ended before that was asked for. Its pipes may still be open then: a thread of
        # it closes them last.
        if main is not None and os.getppid() != main.pid:
            os._exit(1)
    cv2.setNumThreads(0)


def shared(*tensors: Tensor) -> None:
    """In a worker, put tensors where the main process can reach them; elsewhere do nothing.

    torch would do it in a thread, whose errors nobody hears of while the main process waits.

    Raises:
        ResourceError: There is no room in shared memory, or no place for the socket that is needed.
    """
    global _probed  # noqa: PLW0603  one a process
    if get_worker_info() is None:
        return
    try:
        if not _probed:
            ForkingPickler.dumps(torch.zeros(1))
            _probed = True
        for tensor in tensors:
            tensor.share_memory_()
    except (OSError, RuntimeError) as error:
        raise ResourceError(
            f"a data-loading worker cannot hand over a batch: {str(error).splitlines()[0]}\n"
            "  likely: /dev/shm is too small (docker: --shm-size), or the folder for temporary "
            "files cannot be written or has too long a path (TMPDIR)\n"
            '  fix: mend that, or "num_workers": 0, which loads in the main process'
        ) from error


def started(loader: "DataLoader[T]", *, timeout: float) -> Iterator[T]:
    """Begin an epoch; of one that was left half read, the batches that are due are waited for.

    Args:
        loader: Its own timeout is `LOOK_AROUND`, which would be the limit of that wait.
        timeout: Seconds that each of them may take.

    Raises:
        RuntimeError: A worker hangs or died.
    """
    running: Any = loader._iterator
    if running is None:
        return iter(loader)
    running._timeout = timeout
    try:
        return iter(loader)
    finally:
        running._timeout = LOOK_AROUND


def next_of(batches: Iterator[T], *, timeout: float | None, signals: StopSignals) -> T | None:
    """Wait for the next batch of torch's loader, whose own timeout is `LOOK_AROUND`.

    Args:
        batches: Of a begun epoch.
        timeout: Seconds that it may take; None: there are no workers, so nothing to wait for.
        signals: Looked at meanwhile.

    Returns:
        The batch, or None after the last.

    Raises:
        TimeoutError: None came in `timeout` seconds.
        StopAskedError: A signal came, and no batch some seconds later.
        RuntimeError: A worker died.
    """
    if timeout is None:
        return next(batches, None)  # an error in loading is one of this process
    began = time.monotonic()
    while True:
        try:
            return next(batches, None)
        except RuntimeError as error:
            if "DataLoader timed out" not in str(error):
                raise
        except (EOFError, OSError) as error:
            if str(error).startswith("Caught "):  # torch's words for what a worker's code raised
                raise
            # The worker's socket closes a moment before the system says that it died. Torch's
            # handler of that raises wherever this process is then: here, not where the run ends.
            time.sleep(_PATIENCE)
            raise RuntimeError("DataLoader worker ended while it handed over a batch") from error
        waited = time.monotonic() - began
        if signals.number is not None and waited > _PATIENCE:
            raise StopAskedError
        if waited > timeout:
            raise TimeoutError


def stop(loader: "DataLoader[Any]") -> None:
    """End the workers; those that hang are killed."""
    # Dropping the loader would do unless a half-read epoch still holds torch's iterator.
    iterator: Any = loader._iterator
    if iterator is None or not loader.num_workers or iterator._shutdown:
        return
    if hasattr(iterator, "_pin_memory_thread"):  # first: it reads what the workers write
        iterator._pin_memory_thread_done_event.set()
        iterator._worker_result_queue.put((None, None))
        iterator._pin_memory_thread.join()
    iterator._workers_done_event.set()
    for number in range(len(iterator._workers)):
        iterator._mark_worker_as_unavailable(number, shutdown=True)
    deadline = time.monotonic() + _PATIENCE
    for worker in iterator._workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    if hanging := [worker for worker in iterator._workers if worker.is_alive()]:
        signal_handling._remove_worker_pids(id(iterator))  # or torch would report their death
        iterator._worker_pids_set = False
        for worker in hanging:
            worker.kill()  # torch sends SIGTERM, which they ignore
    iterator._shutdown_workers()


def raise_death(error: RuntimeError) -> NoReturn:
    """Raise ResourceError when torch reports a dead worker, else the error itself."""
    if "DataLoader worker" not in str(error):
        raise error
    raise ResourceError(
        f"a data-loading worker process died: {error}\n"
        "  likely: memory ran out, or /dev/shm is too small (docker: --shm-size)\n"
        '  fix: fewer "num_workers" (0 loads in the main process) or a smaller "batch_size"'
    ) from None

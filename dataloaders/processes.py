"""One task for many pairs, in several processes where that is sooner done."""

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import cv2

from utils.hardware.workers import START_METHOD, usable_cores
from utils.run.progress import progress

_NEW_PROCESSES_FROM = 500  # pairs; fewer are read sooner than processes start

Task = Callable[[int], Any]
_inherited: list[Task] = []  # in a process of the pool: its task


def run(task: Task, indices: Sequence[int], *, title: str) -> list[Any]:
    """Return what a task gives for each index, in their order; progress goes by `title`."""
    processes = min(usable_cores(), 16)
    if len(indices) < _NEW_PROCESSES_FROM or processes == 1:
        return [task(index) for index in progress(indices, title, len(indices))]
    # OpenCV's threads would not live on in forked processes, which would then wait for them.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        # A forked process has the task already; sent with each chunk, the paths of a large data
        # set would cost more than reading its headers.
        with multiprocessing.get_context(START_METHOD).Pool(
            processes, initializer=_inherit, initargs=(task,)
        ) as pool:
            found = pool.imap(_inherited_task, indices, chunksize=16)
            return list(progress(found, title, len(indices)))
    finally:
        cv2.setNumThreads(threads)


def _inherit(task: Task) -> None:
    # A function of the module: a process that is not forked would be sent a copy of the list.
    _inherited.append(task)


def _inherited_task(index: int) -> Any:
    return _inherited[0](index)

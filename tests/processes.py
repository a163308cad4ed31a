"""A piece of a test in several processes that have met over gloo."""

import multiprocessing
import os
import socket

import cv2

from utils.errors import UserError
from utils.hardware import distributed


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def together(work, *, processes=2):
    """What `work()` returns, or the exception it raises, in each of several processes.

    They are forked, so `work` may be any function; but it must not use autograd, whose threads do
    not survive a fork on a machine with a GPU.
    """
    context = multiprocessing.get_context("fork")
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = str(free_port())

    def process(rank, result):
        os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank))
        try:
            with distributed.process_group("cpu"):
                result.send(work())
        except UserError as error:
            result.send(error)

    pipes = [context.Pipe(duplex=False) for _ in range(processes)]
    started = [
        context.Process(target=process, args=(rank, sending), daemon=True)
        for rank, (_, sending) in enumerate(pipes)
    ]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # OpenCV's threads do not survive a fork either
    try:
        for one in started:
            one.start()
    finally:
        cv2.setNumThreads(threads)
    for _, sending in pipes:
        sending.close()  # so that a process that died ends the waiting
    results = [receiving.recv() for receiving, _ in pipes]
    for one in started:
        one.join()
    return results

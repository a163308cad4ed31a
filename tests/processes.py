"""A piece of a test in several processes that have met over gloo."""

import multiprocessing
import os
import socket

from utils.errors import UserError
from utils.hardware import distributed


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def together(work, *, processes=2):
    """What `work()` returns, or the UserError it raises, in each of several processes.

    They are forked, so `work` may be any function; but neither autograd on a machine with a GPU nor
    OpenCV's filters: their threads do not survive a fork.
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
        context.Process(target=process, args=(rank, sending))
        for rank, (_, sending) in enumerate(pipes)
    ]
    for one in started:
        one.start()
    for _, sending in pipes:
        sending.close()  # so that the end of a process ends the waiting for it
    results = [receiving.recv() for receiving, _ in pipes]
    for one in started:
        one.join()
    return results

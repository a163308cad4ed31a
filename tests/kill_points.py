"""Save a checkpoint again and again, each time killed at another call; print what was left.

Run as a script: the calls are replaced in a forked child, which kills itself with SIGKILL.
"""

import os
import pathlib
import signal
import sys
from collections.abc import Callable

import torch

from utils.run import checkpoint

CONTENT = {
    "arch": "ENet",
    "config": {"arch": {"type": "ENet"}, "train_loader": {"args": {}}, "trainer": {}},
    "classes": ["a"],
    "palette": [[0, 0, 0]],
    "mean": [0.5],
    "std": [0.2],
    "ignore_index": 255,
    "state_dict": {"weight": torch.arange(4000.0)},
}
CALLS = ("open", "write", "write", "flush", "fsync", "replace", "fsync")


class Counter:
    """Dies at one call: before it, after it, or in the middle of writing."""

    def __init__(self, deadline: int, *, half: bool) -> None:
        self.left = deadline
        self.half = half

    def wrap(self, call: Callable) -> Callable:
        def counted(*args, **kwargs):
            self.left -= 1
            if self.left == 0 and self.half and call.__name__ == "write":
                call(args[0][: len(args[0]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            if self.left == 0 and not self.half:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **kwargs)
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted


class File:
    """A file whose calls are counted."""

    def __init__(self, file, counter: Counter) -> None:
        self.file = file
        self.write = counter.wrap(file.write)
        self.flush = counter.wrap(file.flush)
        self.fileno = file.fileno

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


def save_and_die(path: pathlib.Path, counter: Counter) -> None:
    """Save the second state; the counter decides how far that gets."""
    real_open = pathlib.Path.open
    pathlib.Path.open = counter.wrap(lambda self, mode: File(real_open(self, mode), counter))
    pathlib.Path.replace = counter.wrap(pathlib.Path.replace)
    os.fsync = counter.wrap(os.fsync)
    checkpoint.save([path], {**CONTENT, "epoch": 2})


def main(folder: pathlib.Path) -> None:
    """Print `deadline half? epoch leftovers` for each trial, and `survived` when none died."""
    path = folder / "last.pth"
    for half in (False, True):
        for deadline in range(1, 9):
            checkpoint.save([path], {**CONTENT, "epoch": 1})
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                save_and_die(path, Counter(deadline, half=half))
                os._exit(0)
            killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
            leftovers = [extra for extra in folder.iterdir() if extra != path]
            epoch = checkpoint.load(path)["epoch"]
            sys.stdout.write(f"{'killed' if killed else 'survived'} {epoch} {len(leftovers)}\n")
            for extra in leftovers:
                extra.unlink()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

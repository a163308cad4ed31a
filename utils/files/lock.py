"""One writer at a time: a lock on an open file, which ends with its holder, however that ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where nobody is kept out
    fcntl = None


def claim(file: BinaryIO | int, *, inherited: bool) -> bool | None:
    """Lock an open file, without waiting.

    Args:
        file: Open for writing.
        inherited: Whether forked processes hold the lock too. Otherwise it is this process's alone,
            and closing any other handle on the file ends it.

    Returns:
        False when somebody else has it; None where there are no locks, so that nobody knows.
    """
    if fcntl is None:
        return None
    lock = fcntl.flock if inherited else fcntl.lockf
    try:
        lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


@contextmanager
def shared(folder: Path) -> Iterator[bool]:
    """Hold a share of a folder; tells whether it is certain that nobody else had one."""
    if fcntl is None:
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        alone = claim(handle, inherited=True)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield bool(alone)
    finally:
        os.close(handle)

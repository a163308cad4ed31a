"""One writer at a time: a lock on an open file, which ends with its holder, however that ends."""

from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where nobody is kept out
    fcntl = None


def claim(file: BinaryIO, *, inherited: bool) -> bool:
    """Lock an open file, without waiting.

    Args:
        file: Open for writing.
        inherited: Whether forked processes hold the lock too. Otherwise it is this process's alone,
            and closing any other handle on the file ends it.

    Returns:
        False when somebody else has it; True too where the file system knows no locks.
    """
    if fcntl is None:
        return True
    lock = fcntl.flock if inherited else fcntl.lockf
    try:
        lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True

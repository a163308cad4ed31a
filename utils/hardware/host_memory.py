"""The C library's heap: what a training step frees is kept for the next one."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks instead of returning them to the system.

    A training step asks for the buffers that the step before freed. By default the larger ones go
    back each time, and the system maps and clears their pages anew: 26,000 page faults a step of
    ENet at 256 x 256, a fifth of its time on a CPU. The price is that memory of a peak stays with
    the process, up to fragments of it.

    Returns:
        Whether it is so; with another C library or system nothing changes.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    # All blocks come from the heap, large ones too, and -1 means that its end is never trimmed.
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))

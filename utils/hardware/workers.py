"""How worker processes start, and for how many there are cores."""

import os
import sys

START_METHOD = "fork" if sys.platform == "linux" else None
"""On Linux forked, whatever Python's own default (another one since 3.14): forked workers start at
once and share what is in memory, the "ram" cache above all, and they never touch a GPU. Elsewhere
as Python does it (None), since forking is not safe on macOS and unknown to Windows."""


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""Signals that ask a run to stop: noted when they come, obeyed at the next safe place."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_CAUGHT = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Takes note of Ctrl-C and SIGTERM.

    Attributes:
        number: The signal that came, or None. Other processes may have got none.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Note signals instead of ending the process."""
        previous = {number: signal.signal(number, self.note) for number in _CAUGHT}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Note one; a second one ends the process at once: what is saved is sound."""
        if self.number is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.number = number

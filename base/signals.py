"""Signals that ask a run to stop: noted when they come, obeyed at the next safe place."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # the last when the terminal goes; not on Windows


class StopAskedError(Exception):
    """A signal came while a batch was waited for that does not come."""


class StopSignals:
    """Takes note of Ctrl-C, SIGTERM and SIGHUP; whatever was ignored at the start stays so (nohup).

    Attributes:
        number: The signal that came, or None. Other processes may have got none.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Note signals instead of ending the process."""
        numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        heard = [one for one in numbers if signal.getsignal(one) != signal.SIG_IGN]
        previous = {number: signal.signal(number, self.note) for number in heard}
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

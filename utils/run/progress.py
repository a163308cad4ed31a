"""A progress bar on a terminal, plain lines elsewhere."""

import logging
import sys
from collections.abc import Iterable, Mapping
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

log = logging.getLogger("segmentation")


class ProgressBar:
    """The progress of one epoch.

    Args:
        title: "TRAIN 3/20" or "EVAL 3/20".
        total: Steps in all.
        done: Steps done before, by the run that this one resumes.
        shown: False in all processes but the first.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, shown: bool = True) -> None:
        self._title = title
        self._total = total
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            desc=title,
            total=total,
            initial=done,
            leave=False,
            # The bar last: what does not fit a narrow terminal is cut off there.
            bar_format="{desc} {n_fmt}/{total_fmt} <{remaining}{postfix} {bar}",
            dynamic_ncols=True,
            disable=not (shown and self._terminal),
        )
        self._done = done

    def advance(self) -> None:
        """One step more."""
        self._done += 1
        self._bar.update()

    def say(self, values: Mapping[str, object], *, left: str) -> None:
        """Show numbers: in the bar, and as a line in train.log, or where there is no bar.

        Args:
            values: By name.
            left: The time until the run's end, or "".
        """
        if self._done == self._total:  # the epoch's own line follows
            return
        text = one_line(values)
        self._bar.set_description_str(f"{self._title} <{left}" if left else self._title)
        self._bar.set_postfix_str(text)
        level = logging.DEBUG if self._terminal else logging.INFO
        ending = f"  left {left}" if left else ""
        log.log(level, "%s  %d/%d  %s%s", self._title, self._done, self._total, text, ending)

    def close(self) -> None:
        """Clear the line; due in whatever way the epoch ends: use contextlib.closing."""
        self._bar.close()


def progress(steps: Iterable[T], title: str, total: int) -> Iterable[T]:
    """Hand steps on, with a bar on a terminal once they have taken two seconds."""
    return tqdm(steps, title, total, leave=False, delay=2, dynamic_ncols=True, disable=None)


def one_line(values: Mapping[str, object]) -> str:
    """Numbers in one line: `loss 0.412  Mean_IoU 0.731`."""
    return "  ".join(f"{name} {_short(value)}" for name, value in values.items())


def _short(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)

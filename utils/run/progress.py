"""A progress bar on a terminal, plain lines elsewhere."""

import logging
import sys
from collections.abc import Mapping

from tqdm import tqdm

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

    def say(self, values: Mapping[str, object]) -> None:
        """Show numbers: in the bar, and as a line in train.log, or where there is no bar."""
        if self._done == self._total:  # the epoch's own line follows
            return
        text = one_line(values)
        self._bar.set_postfix_str(text)
        level = logging.DEBUG if self._terminal else logging.INFO
        log.log(level, "%s  %d/%d  %s", self._title, self._done, self._total, text)

    def close(self) -> None:
        """Clear the line; due in whatever way the epoch ends: use contextlib.closing."""
        self._bar.close()


def one_line(values: Mapping[str, object]) -> str:
    """Numbers in one line: `loss 0.412  Mean_IoU 0.731`."""
    return "  ".join(f"{name} {_short(value)}" for name, value in values.items())


def _short(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)

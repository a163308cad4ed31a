"""Cutting an image into overlapping windows and blending what a model says about them.

Windows stand on a grid, so the blending weight of a pixel is a product of one factor for its row
and one for its column. Both factors are divided by their sum over all windows beforehand: the
weights of a pixel sum to one by construction, no map of counts is kept, and a row of the result is
final as soon as the last window that touches it has been seen. That is what lets an image be
larger than memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Blend = Literal["hann", "gaussian", "constant"]


@dataclass(frozen=True)
class Axis:
    """How one side of an image is covered.

    Attributes:
        size: Length of the side in pixels.
        window: Length of every window, at most `size`.
        starts: First pixel of each window, ascending; the last window ends with the side.
        weights: float32 (len(starts), window); at every pixel the windows' weights sum to one.
    """

    size: int
    window: int
    starts: tuple[int, ...]
    weights: Tensor


def axis(size: int, *, window: int, overlap: float, blend: Blend) -> Axis:
    """Cover one side with windows of one length; the last one is shifted inside.

    Args:
        size: Length of the side, at least 1.
        window: Wanted length of a window; a longer one than the side becomes the side.
        overlap: Share of a window that its neighbor covers too, in [0, 1).
        blend: Shape of the weights inside a window.

    Raises:
        ValueError: A size or window below 1, or an overlap outside [0, 1).
    """
    if size < 1 or window < 1 or not 0 <= overlap < 1:
        raise ValueError(
            f"size {size}, window {window}, overlap {overlap}: needed 1.., 1.., [0, 1)"
        )
    window = min(window, size)
    stride = max(1, window - round(window * overlap))
    starts = (*range(0, size - window, stride), size - window)
    shape = _profile(window, blend)
    total = torch.zeros(size, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += shape
    weights = torch.stack([shape / total[start : start + window] for start in starts])
    return Axis(size=size, window=window, starts=starts, weights=weights.float())


def _profile(window: int, blend: Blend) -> Tensor:
    """float64 (window,), above zero everywhere: a pixel that one window alone sees is its own."""
    center = torch.arange(window, dtype=torch.float64) + 0.5
    if blend == "hann":
        return torch.sin(math.pi * center / window) ** 2
    if blend == "gaussian":  # sigma of an eighth of the window, as nnU-Net (Isensee 2021) has it
        return torch.exp(-0.5 * ((center - window / 2) / (window / 8)) ** 2)
    return torch.ones(window, dtype=torch.float64)


@dataclass(frozen=True)
class Grid:
    """All windows of an image: every row of windows crossed with every column."""

    rows: Axis
    columns: Axis

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def cut(self, strip: Tensor, batch_size: int) -> Iterator[tuple[range, Tensor]]:
        """Cut the windows of one row.

        Batches never span two rows of windows, so what is computed for a row does not depend on
        where a run began: an image that is taken up again at any band gives the same bits.

        Args:
            strip: Those rows of the images, (N, C, rows.window, W).
            batch_size: Windows a batch, at least N.

        Yields:
            Which columns, and their windows (columns * N, C, rows.window, columns.window).
        """
        starts, window = self.columns.starts, self.columns.window
        step = max(1, batch_size // strip.shape[0])
        for first in range(0, len(starts), step):
            columns = range(len(starts))[first : first + step]
            lefts = [starts[column] for column in columns]
            yield columns, torch.cat([strip[:, :, :, left : left + window] for left in lefts])


def grid(
    size: tuple[int, int], *, window: int | tuple[int, int], overlap: float, blend: Blend = "hann"
) -> Grid:
    """Cover an image of `size` (height, width) with windows (a side, or height and width)."""
    high, wide = (window, window) if isinstance(window, int) else window
    return Grid(
        rows=axis(size[0], window=high, overlap=overlap, blend=blend),
        columns=axis(size[1], window=wide, overlap=overlap, blend=blend),
    )


class BandSums:
    """Weighted sums of logits, of as many rows of an image as a window has.

    For each row of windows, from the top: `add` the logits of all its windows, then take the rows
    that are `finished`.

    Args:
        windows: The windows of the image.
        store: Device of the sums; None: where the logits are.
    """

    def __init__(self, windows: Grid, store: torch.device | None = None) -> None:
        self._windows = windows
        self._store = store
        self._sums: Tensor | None = None
        self._finished = 0  # rows at the top that have been taken

    def add(self, row: int, columns: range, logits: Tensor) -> None:
        """Add the logits (columns * N, K, h, w) of windows that `Grid.cut` gave."""
        down, across = self._windows.rows, self._windows.columns
        place = self._store or logits.device
        parts = logits.chunk(len(columns))
        if self._sums is None:
            shape = (*parts[0].shape[:2], down.window, across.size)
            self._sums = torch.zeros(shape, device=place)
        elif self._finished:
            _move_up(self._sums, self._finished)
        self._finished = 0
        weights = down.weights[row].to(place)[:, None]
        for column, part in zip(columns, parts, strict=True):
            left = across.starts[column]
            target = self._sums[:, :, :, left : left + across.window]
            weight = weights * across.weights[column].to(place)
            target.addcmul_(part.to(place).float(), weight)

    def finished(self, row: int) -> Tensor:
        """The logits that no later row of windows touches, float32 (N, K, rows, W).

        The tensor is reused: take what you need of it before adding to the next row.
        """
        assert self._sums is not None
        rows = self._windows.rows
        last = row + 1 == len(rows.starts)
        self._finished = rows.window if last else rows.starts[row + 1] - rows.starts[row]
        return self._sums[:, :, : self._finished]


def _move_up(sums: Tensor, done: int) -> None:
    """Drop the first `done` rows and make room for as many new ones, in place."""
    left = sums.shape[2] - done
    for plane in sums.flatten(0, 1):  # one at a time: a copy of all is a third of a band
        rest = plane[done:].clone()
        plane[left:] = 0
        plane[:left] = rest

"""Cutting an image into overlapping windows and blending what a model says about them.

Windows stand on a grid, so the blending weight of a pixel is a product of one factor for its row
and one for its column. Both factors are divided by their sum over all windows beforehand: the
weights of a pixel sum to one by construction, no map of counts is kept, and a row of the result is
final as soon as the last window that touches it has been seen. That is what lets an image be
larger than memory.
"""

import math
from collections.abc import Callable, Iterator
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


def grid(
    size: tuple[int, int], *, window: int | tuple[int, int], overlap: float, blend: Blend = "hann"
) -> Grid:
    """Cover an image of `size` (height, width) with windows (a side, or height and width)."""
    high, wide = (window, window) if isinstance(window, int) else window
    return Grid(
        rows=axis(size[0], window=high, overlap=overlap, blend=blend),
        columns=axis(size[1], window=wide, overlap=overlap, blend=blend),
    )


def bands(
    predict: Callable[[Tensor], Tensor],
    read: Callable[[int, int], Tensor],
    windows: Grid,
    *,
    batch_size: int,
    store: torch.device | None = None,
    begin: int = 0,
) -> Iterator[tuple[int, Tensor]]:
    """Blend window after window and hand out the rows of the result as they become final.

    Batches never span two rows of windows, so what is computed for a row does not depend on where a
    run began: an image that is taken up again at any band gives the same bits.

    Args:
        predict: Maps a batch of windows (B, C, h, w) to logits (B, K, h, w).
        read: `read(top, bottom)` gives those rows of the images, (N, C, bottom - top, W).
        windows: The windows; `windows.columns.size` is W.
        batch_size: Windows a call of `predict`, at least N.
        store: Device of the sums; None: where the logits are.
        begin: First row wanted; must be one that an earlier pass handed out as a band's top.

    Yields:
        (top, logits float32 (N, K, rows, W)), top to bottom without gaps. The tensor is reused:
        take what you need of it before asking for the next.
    """
    rows, columns = windows.rows, windows.columns
    sums: Tensor | None = None
    for index, top in enumerate(rows.starts):
        if top + rows.window <= begin:
            continue
        strip = read(top, top + rows.window)
        for first, logits in _row(predict, strip, columns, batch_size):
            place = store or logits.device
            if sums is None:
                shape = (strip.shape[0], logits.shape[1], rows.window, columns.size)
                sums = torch.zeros(shape, device=place)
            down = rows.weights[index].to(place)[:, None]
            for offset, part in enumerate(logits.split(strip.shape[0])):
                left = columns.starts[first + offset]
                weight = down * columns.weights[first + offset].to(place)
                target = sums[:, :, :, left : left + columns.window]
                target.addcmul_(part.to(place).float(), weight)
        assert sums is not None
        last = index + 1 == len(rows.starts)
        done = rows.window if last else rows.starts[index + 1] - top
        if top >= begin:
            yield top, sums[:, :, :done]
        if not last:
            _move_up(sums, done)


def _move_up(sums: Tensor, done: int) -> None:
    """Drop the first `done` rows and make room for as many new ones, in place."""
    left = sums.shape[2] - done
    for plane in sums.flatten(0, 1):  # one at a time: a copy of all is a third of a band
        rest = plane[done:].clone()
        plane[left:] = 0
        plane[:left] = rest


def _row(
    predict: Callable[[Tensor], Tensor], strip: Tensor, columns: Axis, batch_size: int
) -> Iterator[tuple[int, Tensor]]:
    """Yields the index of a batch's first window and its logits: N images a window."""
    step = max(1, batch_size // strip.shape[0])
    for first in range(0, len(columns.starts), step):
        lefts = columns.starts[first : first + step]
        batch = [strip[:, :, :, left : left + columns.window] for left in lefts]
        yield first, predict(torch.cat(batch))

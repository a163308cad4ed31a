"""Images for comparison: input, target and prediction side by side, void in its own color."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from utils.drawing.overlay import shown
from utils.drawing.palette import Color, to_colors

_LONGEST = 400  # pixels of a tile's long side; more only makes event files heavy
_GAP = 5
_PAPER = 255


class LabelledData(Protocol):
    """What of a data set the images need."""

    @property
    def palette(self) -> Sequence[Color]:
        """A color for each class."""
        ...

    @property
    def ignore_index(self) -> int:
        """The label of void pixels."""
        ...


def comparison_grid(
    samples: Sequence[tuple[Tensor, Tensor, Tensor]], dataset: LabelledData
) -> np.ndarray:
    """One row a sample: the input, its target, the prediction.

    Args:
        samples: (image (C, H, W) in the file's dtype, mask (H, W) integer, prediction (H, W)
            integer), each triple of one size, on any device.
        dataset: Gives the colors and the label of void.

    Returns:
        (height, width, 3) uint8; large samples shrunk, masks by picking pixels, never mixed.
    """
    rows = [_row(sample, dataset) for sample in samples]
    height = sum(row.shape[0] + _GAP for row in rows) + _GAP
    width = max((row.shape[1] for row in rows), default=_GAP)
    sheet = np.full((height, width, 3), _PAPER, dtype=np.uint8)
    top = _GAP
    for row in rows:
        sheet[top : top + row.shape[0], : row.shape[1]] = row
        top += row.shape[0] + _GAP
    return sheet


def _row(sample: tuple[Tensor, Tensor, Tensor], dataset: LabelledData) -> np.ndarray:
    image, mask, prediction = (part.detach().cpu().numpy() for part in sample)
    tiles = [shrink_image(shown(image.transpose(1, 2, 0)), longest=_LONGEST)]
    for labels in (mask, prediction):
        labels = shrink_mask(labels.astype(np.int64), longest=_LONGEST)  # noqa: PLW2901
        tiles.append(to_colors(labels, dataset.palette, ignore_index=dataset.ignore_index))
    gap = np.full((tiles[0].shape[0], _GAP, 3), _PAPER, dtype=np.uint8)
    return np.concatenate([gap, *(part for tile in tiles for part in (tile, gap))], axis=1)


def shrunk_size(height: int, width: int, *, longest: int) -> tuple[int, int]:
    """(height, width) with the long side at most `longest`, the shape kept, no side under 1."""
    factor = min(1.0, longest / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def shrink_image(image: np.ndarray, *, longest: int) -> np.ndarray:
    """(H, W, 3) float or uint8 in [0, 255] -> uint8, its long side at most `longest`."""
    pixels = np.rint(image).astype(np.uint8)
    height, width = shrunk_size(*pixels.shape[:2], longest=longest)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def shrink_mask(mask: np.ndarray, *, longest: int) -> np.ndarray:
    """(H, W) of any dtype, its long side at most `longest`: the nearest pixel of each."""
    height, width = shrunk_size(*mask.shape, longest=longest)
    rows = (2 * np.arange(height) + 1) * mask.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * mask.shape[1] // (2 * width)
    return mask[rows[:, None], columns]

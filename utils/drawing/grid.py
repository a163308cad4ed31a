"""Images for comparison: input, target and prediction side by side, void in its own color."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from utils.drawing.overlay import legend, shown
from utils.drawing.palette import VOID_COLOR, Color, to_colors

_LONGEST = 400  # pixels of a tile's long side; more only makes event files heavy
_GAP = 5
_PAPER = 255
_CAPTION = 16  # pixels of the line above the columns


class LabelledData(Protocol):
    """What of a data set the images need."""

    @property
    def classes(self) -> Sequence[str]:
        """A name for each class."""
        ...

    @property
    def palette(self) -> Sequence[Color]:
        """A color for each class."""
        ...

    @property
    def ignore_index(self) -> int:
        """The label of void pixels."""
        ...


Shown = tuple[Tensor, Tensor, Tensor]
"""An image (C, H, W) in the file's dtype, its mask (H, W) and its prediction (H, W)."""


def comparison_sheet(samples: Sequence[Shown], dataset: LabelledData) -> np.ndarray:
    """`comparison_grid` under the names of its columns and above a legend of what occurs in it.

    Returns:
        (height, width, 3) uint8.
    """
    grid = comparison_grid(samples, dataset)
    if not samples:
        return grid
    found = {int(label) for _, *both in samples for mask in both for label in mask.unique()}
    names = {number: text for number, text in enumerate(dataset.classes) if number in found}
    names.pop(dataset.ignore_index, None)
    entries = [(text, dataset.palette[number]) for number, text in names.items()]
    entries += [("void", VOID_COLOR)] if dataset.ignore_index in found else []
    below = legend(entries, least_width=grid.shape[1])
    sheet = Image.new("RGB", (below.width, _CAPTION + len(grid) + below.height), (_PAPER,) * 3)
    sheet.paste(Image.fromarray(grid), (0, _CAPTION))
    sheet.paste(below, (0, _CAPTION + len(grid)))
    width = shrunk_size(*samples[0][1].shape, longest=_LONGEST)[1]
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, text in enumerate(("input", "target", "prediction")):
        pen.text((_GAP + column * (width + _GAP), 3), text, fill=(0, 0, 0), font=font)
    return np.asarray(sheet)


def comparison_grid(samples: Sequence[Shown], dataset: LabelledData) -> np.ndarray:
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


def _row(sample: Shown, dataset: LabelledData) -> np.ndarray:
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

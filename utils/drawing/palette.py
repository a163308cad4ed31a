"""Class ids and colours: the VOC color rule, palette images, and the one color of void."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

Color = tuple[int, int, int]

VOID_COLOR: Color = (224, 224, 192)  # VOC's own: no class of its rule has it, black is a class
_SHOWN_CLASSES = 256  # what a PNG palette holds


def voc_palette(num_classes: int) -> tuple[Color, ...]:
    """Colors of the PASCAL VOC rule: the bits of the class id, dealt to the channels in turn.

    Args:
        num_classes: How many colors; at most 256 are distinct.

    Returns:
        `num_classes` (red, green, blue) triples in [0, 255]; the first is black.

    Source: the VOC development kit, `VOClabelcolormap`.
    """
    colours = []
    for class_id in range(num_classes):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= (class_id >> (3 * bit + channel) & 1) << (7 - bit)
        colours.append((color[0], color[1], color[2]))
    return tuple(colours)


def to_palette_image(
    mask: np.ndarray, palette: Sequence[Color], *, ignore_index: int = 255
) -> Image.Image:
    """A mask as an image in mode P whose pixel values are the class ids.

    Args:
        mask: (H, W) integers in [0, 255], or negative where void.
        palette: A color for each class, at most 256.
        ignore_index: Shown in `VOID_COLOR`; stored as 255 when it is negative.

    Raises:
        ValueError: A class id that a palette image cannot hold.
    """
    void = ignore_index if 0 <= ignore_index < _SHOWN_CLASSES else _SHOWN_CLASSES - 1
    ids = np.where(mask == ignore_index, void, mask)
    if ids.min(initial=0) < 0 or ids.max(initial=0) >= _SHOWN_CLASSES:
        raise ValueError(f"class ids {ids.min()}..{ids.max()} do not fit a palette image")
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(_table(palette, void).tobytes())
    return image


def to_colors(mask: np.ndarray, palette: Sequence[Color], *, ignore_index: int = 255) -> np.ndarray:
    """A mask as (H, W, 3) uint8 colors; any number of classes; void in `VOID_COLOR`."""
    table = np.array([*palette, VOID_COLOR], dtype=np.uint8)
    return table[np.where(mask == ignore_index, len(palette), mask)]


def _table(palette: Sequence[Color], void: int) -> np.ndarray:
    table = np.zeros((_SHOWN_CLASSES, 3), dtype=np.uint8)
    table[: len(palette)] = palette[:_SHOWN_CLASSES]
    if void >= len(palette):
        table[void] = VOID_COLOR
    return table

"""Class ids and colours: the VOC colour rule, palette pictures, and the one colour of void."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]

VOID_COLOUR: Colour = (224, 224, 192)  # VOC's own: no class of its rule has it, black is a class
_SHOWN_CLASSES = 256  # what a PNG palette holds


def voc_palette(num_classes: int) -> tuple[Colour, ...]:
    """Colours of the PASCAL VOC rule: the bits of the class id, dealt to the channels in turn.

    Args:
        num_classes: How many colours; at most 256 are distinct.

    Returns:
        `num_classes` (red, green, blue) triples in [0, 255]; the first is black.

    Source: the VOC development kit, `VOClabelcolormap`.
    """
    colours = []
    for class_id in range(num_classes):
        colour = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                colour[channel] |= (class_id >> (3 * bit + channel) & 1) << (7 - bit)
        colours.append((colour[0], colour[1], colour[2]))
    return tuple(colours)


def to_palette_image(
    mask: np.ndarray, palette: Sequence[Colour], *, ignore_index: int = 255
) -> Image.Image:
    """A mask as a picture in mode P whose pixel values are the class ids.

    Args:
        mask: (H, W) integers in [0, 255], or negative where void.
        palette: A colour for each class, at most 256.
        ignore_index: Shown in `VOID_COLOUR`; stored as 255 when it is negative.

    Raises:
        ValueError: A class id that a palette picture cannot hold.
    """
    void = ignore_index if 0 <= ignore_index < _SHOWN_CLASSES else _SHOWN_CLASSES - 1
    ids = np.where(mask == ignore_index, void, mask)
    if ids.min(initial=0) < 0 or ids.max(initial=0) >= _SHOWN_CLASSES:
        raise ValueError(f"class ids {ids.min()}..{ids.max()} do not fit a palette picture")
    picture = Image.fromarray(ids.astype(np.uint8))
    picture.putpalette(_table(palette, void).tobytes())
    return picture


def to_colours(
    mask: np.ndarray, palette: Sequence[Colour], *, ignore_index: int = 255
) -> np.ndarray:
    """A mask as (H, W, 3) uint8 colours; any number of classes; void in `VOID_COLOUR`."""
    table = np.array([*palette, VOID_COLOUR], dtype=np.uint8)
    return table[np.where(mask == ignore_index, len(palette), mask)]


def _table(palette: Sequence[Colour], void: int) -> np.ndarray:
    table = np.zeros((_SHOWN_CLASSES, 3), dtype=np.uint8)
    table[: len(palette)] = palette[:_SHOWN_CLASSES]
    if void >= len(palette):
        table[void] = VOID_COLOUR
    return table

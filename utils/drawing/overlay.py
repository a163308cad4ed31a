"""An image with its classes drawn in, and below it a legend of the classes that occur."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.drawing.palette import Color, to_colors
from utils.drawing.text import in_percent

_BACKGROUND = (255, 255, 255)
_INK = (0, 0, 0)


def overlay(
    image: np.ndarray,
    mask: np.ndarray,
    palette: Sequence[Color],
    classes: Sequence[str],
    *,
    opacity: float = 0.5,
) -> Image.Image:
    """Draw class colors over an image and add a legend with names and shares.

    Args:
        image: (H, W, C), uint8, uint16 or float; other than three channels show what they can.
        mask: (H, W) class ids; the highest value of the dtype is void.
        palette: A color for each class.
        classes: A name for each class.
        opacity: How much of the colors is seen, the rest is the image; in [0, 1].

    Returns:
        RGB, as wide as the image (at least as wide as the longest name), higher by the legend.
    """
    void = np.iinfo(mask.dtype).max
    colours = to_colors(mask, palette, ignore_index=void).astype(np.float32)
    mixed = (1 - opacity) * shown(image) + opacity * colours
    drawn = Image.fromarray(np.rint(mixed).astype(np.uint8))
    counts = np.bincount(mask[mask != void], minlength=len(classes))
    present = [int(one) for one in np.argsort(-counts, kind="stable") if counts[one]]
    shares = (f"{in_percent(counts[one] / counts.sum(), 1)}%" for one in present)
    entries = [
        (f"{classes[one]} {share}", palette[one])
        for one, share in zip(present, shares, strict=True)
    ]
    below = legend(entries, least_width=drawn.width)
    sheet = Image.new("RGB", (below.width, drawn.height + below.height), _BACKGROUND)
    sheet.paste(drawn, (0, 0))
    sheet.paste(below, (0, drawn.height))
    return sheet


def shown(image: np.ndarray) -> np.ndarray:
    """An image (H, W, C) as something to look at: (H, W, 3) float32 in [0, 255].

    The first three channels, or the first as gray; other dtypes than uint8 are stretched from
    their lowest to their highest value.
    """
    channels = image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)
    pixels = channels.astype(np.float32)
    if image.dtype == np.uint8:
        return pixels
    low, high = np.nanmin(pixels), np.nanmax(pixels)
    return np.nan_to_num((pixels - low) * (255 / max(float(high - low), 1e-12)))


def legend(entries: Sequence[tuple[str, Color]], *, least_width: int) -> Image.Image:
    """Names beside their colors, in as many columns as fit.

    Args:
        entries: Names and colors, in order.
        least_width: Pixels; the legend is wider where a name is.
    """
    size = max(11, least_width // 60)
    font = ImageFont.load_default(size)
    box = size + size // 2
    widest = max((int(font.getlength(text)) for text, _ in entries), default=0) + 2 * box
    width = max(least_width, widest + size)
    columns = max(1, (width - size) // widest)
    rows = -(-len(entries) // columns)
    sheet = Image.new("RGB", (width, rows * box + size), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, (text, color) in enumerate(entries):
        left = size // 2 + index % columns * widest
        top = size // 2 + index // columns * box
        draw.rectangle((left, top, left + size, top + size), fill=color, outline=_INK)
        draw.text((left + box, top), text, fill=_INK, font=font)
    return sheet

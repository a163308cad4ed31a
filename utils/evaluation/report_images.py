"""The small images of a report: image, label, prediction, and where they differ."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from utils.drawing.grid import shrink_image, shrink_mask
from utils.drawing.overlay import shown
from utils.drawing.palette import VOID_COLOR, Color

_LONGEST = 320  # pixels of the long side: four side by side fill a page
RIGHT: Color = (29, 92, 160)
WRONG: Color = (220, 38, 38)
_PALETTE = 256  # colors that a PNG of one byte a pixel holds
_GRAY = 0.45  # of an image's contrast that stays behind the errors
KINDS = ("image", "label", "prediction", "errors")
TYPES = ("image/jpeg", "image/png", "image/png", "image/jpeg")


def draw(
    image: np.ndarray,
    mask: np.ndarray,
    prediction: np.ndarray,
    *,
    palette: Sequence[Color],
    ignore_index: int,
) -> tuple[bytes, ...]:
    """Encode one image of an evaluation as the four `KINDS`, of the four `TYPES`.

    Args:
        image: (H, W, channels) in the file's dtype.
        mask: (H, W) labels.
        prediction: (H, W) class numbers; what is none is drawn as void.
        palette: A color for each class.
        ignore_index: The label of void pixels.
    """
    small = shrink_image(shown(image), longest=_LONGEST)
    label = shrink_mask(mask.astype(np.int64), longest=_LONGEST)
    predicted = shrink_mask(prediction.astype(np.int64), longest=_LONGEST)
    gray = small.mean(axis=2, keepdims=True) * _GRAY + 255 * (1 - _GRAY)
    errors = gray.repeat(3, axis=2).astype(np.uint8)
    errors[predicted != label] = WRONG
    errors[label == ignore_index] = VOID_COLOR
    return (
        _jpeg(small),
        *(_labels(classes, palette) for classes in (label, predicted)),
        _jpeg(errors),
    )


def heat_map(shares: np.ndarray) -> bytes:
    """(C, C) or (C, C + 1) row shares as a PNG of one pixel a cell: right blue, wrong red."""
    return _png(heat_colors(shares))


def heat_colors(shares: np.ndarray) -> np.ndarray:
    """Shares in [0, 1], such as (C, C) -> (C, C, 3) uint8, white at 0."""
    strength = strength_of(shares)[..., None]
    right = np.eye(*shares.shape, dtype=bool)[..., None]
    full = np.where(right, np.array(RIGHT), np.array(WRONG))
    return np.rint(255 + (full - 255) * strength).astype(np.uint8)


def strength_of(shares: np.ndarray) -> np.ndarray:
    """How strong a color shows a share: its root, for small confusions are what one looks for."""
    return np.sqrt(np.clip(shares, 0, 1))


def _labels(labels: np.ndarray, palette: Sequence[Color]) -> bytes:
    """Class numbers as a PNG, of one byte a pixel where the classes allow it; others are void."""
    void = len(palette)
    numbers = np.where((labels >= 0) & (labels < void), labels, void)
    colours = np.array([*palette, VOID_COLOR], np.uint8)
    if void >= _PALETTE:
        return _png(colours[numbers])
    image = Image.fromarray(numbers.astype(np.uint8))
    image.putpalette(colours.tobytes())
    return _encoded(image, format="PNG", optimize=True)


def _jpeg(pixels: np.ndarray) -> bytes:
    return _encoded(Image.fromarray(pixels), format="JPEG", quality=85, subsampling=0)


def _png(pixels: np.ndarray) -> bytes:
    return _encoded(Image.fromarray(pixels), format="PNG", optimize=True)


def _encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)  # pyrefly: ignore
    return buffer.getvalue()

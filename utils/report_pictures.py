"""The small pictures of a report: image, label, prediction, and where they differ."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from utils.grid import shrink_mask, shrink_picture
from utils.overlay import shown
from utils.palette import VOID_COLOUR, Colour, to_colours

_LONGEST = 320  # pixels of the long side: four side by side fill a page
WRONG: Colour = (220, 38, 38)
_GREY = 0.45  # of an image's contrast that stays behind the errors
KINDS = ("image", "label", "prediction", "errors")
TYPES = ("image/jpeg", "image/png", "image/png", "image/jpeg")


def draw(
    image: np.ndarray,
    mask: np.ndarray,
    prediction: np.ndarray,
    *,
    palette: Sequence[Colour],
    ignore_index: int,
) -> tuple[bytes, ...]:
    """Encode one image of an evaluation as the four `KINDS`, of the four `TYPES`.

    Args:
        image: (H, W, channels) in the file's dtype.
        mask: (H, W) labels.
        prediction: (H, W) class numbers.
        palette: A colour for each class.
        ignore_index: The label of void pixels.
    """
    picture = shrink_picture(shown(image), longest=_LONGEST)
    label = shrink_mask(mask.astype(np.int64), longest=_LONGEST)
    predicted = shrink_mask(prediction.astype(np.int64), longest=_LONGEST)
    grey = picture.mean(axis=2, keepdims=True) * _GREY + 255 * (1 - _GREY)
    errors = grey.repeat(3, axis=2).astype(np.uint8)
    errors[predicted != label] = WRONG
    errors[label == ignore_index] = VOID_COLOUR
    return (
        _jpeg(picture),
        _png(to_colours(label, palette, ignore_index=ignore_index)),
        # A class may have the number of void: what is predicted is always a class.
        _png(np.array(palette, np.uint8)[predicted]),
        _jpeg(errors),
    )


def heat_map(shares: np.ndarray) -> bytes:
    """(C, C) row shares as a PNG of one pixel a cell: right answers blue, wrong ones red."""
    return _png(heat_colours(shares))


def heat_colours(shares: np.ndarray) -> np.ndarray:
    """(C, C) shares in [0, 1] -> (C, C, 3) uint8, white at 0.

    The square root of the share sets the strength: small confusions are what one looks for.
    """
    strength = np.sqrt(np.clip(shares, 0, 1))[..., None]
    right = np.eye(len(shares), dtype=bool)[..., None]
    full = np.where(right, np.array((29, 92, 160)), np.array(WRONG))
    return np.rint(255 + (full - 255) * strength).astype(np.uint8)


def _jpeg(pixels: np.ndarray) -> bytes:
    return _encoded(pixels, format="JPEG", quality=85, subsampling=0)


def _png(pixels: np.ndarray) -> bytes:
    return _encoded(pixels, format="PNG", optimize=True)


def _encoded(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, **options)  # pyrefly: ignore
    return buffer.getvalue()

"""What a mask file holds, before it is known whether that is right."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.data.color_labels import code
from utils.files.images import opened, upright
from utils.files.matlab import read_matrix
from utils.files.raw_pixels import Decoded, holds_values, read_values

_COLOUR_MODES = ("RGB", "RGBA", "CMYK", "YCbCr", "LA")
_KEPT = 4096  # colours of a mask that are told apart; a photograph has more


class MaskFacts(NamedTuple):
    """What was found in one mask file.

    Attributes:
        size: (height, width).
        values: Pixel counts of its label values, or of its colours as 0xRRGGBB.
        coloured: Whether `values` are colours.
        grey: Whether every colour has three equal channels.
        jpeg: Whether the file is JPEG-compressed.
        void: Those of `values` that mean nothing by the file itself, such as a raster's nodata.
    """

    size: tuple[int, int]
    values: Counter[int]
    coloured: bool
    grey: bool
    jpeg: bool
    void: frozenset[int] = frozenset()


def look_at_mask(path: Path, *, by_colour: bool) -> MaskFacts:
    """Read a mask file and count what it holds.

    Args:
        path: The file; a picture, .npy or .mat (variable S).
        by_colour: Count a palette's colours instead of its indices.

    Raises:
        DataError: It cannot be read at all.
    """
    if path.suffix.lower() == ".mat":
        return _of_values(Decoded(read_matrix(path, "S"), None), jpeg=False)
    if not by_colour and holds_values(path):
        return _of_values(read_values(path, lossy=True), jpeg=False)
    with opened(path) as picture:
        jpeg = picture.format == "JPEG"
        kept = upright(picture)
        if kept.mode in _COLOUR_MODES or (by_colour and kept.mode != "F"):
            return _of_colours(kept, jpeg=jpeg)
    # A second look, by the very reader that training uses: it refuses what has no values.
    return _of_values(read_values(path, lossy=True), jpeg=jpeg)


def _of_values(mask: Decoded, *, jpeg: bool) -> MaskFacts:
    raw = mask.pixels
    if raw.dtype == np.uint8:
        counts = np.bincount(raw.ravel(), minlength=256)
        values = np.flatnonzero(counts)
        found = dict(zip(values.tolist(), counts[values].tolist(), strict=True))
    else:
        values, counts = np.unique(raw, return_counts=True)
        found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    void = frozenset() if mask.void is None else frozenset(raw[mask.void].tolist())
    return MaskFacts((raw.shape[0], raw.shape[1]), Counter(found), coloured=False, grey=False,
                     jpeg=jpeg, void=void)  # fmt: skip


def _of_colours(picture: Image.Image, *, jpeg: bool) -> MaskFacts:
    pixels = np.asarray(picture.convert("RGB"))
    codes, counts = np.unique(code(pixels), return_counts=True)
    most = np.argsort(-counts)[:_KEPT]
    found = Counter(dict(zip(codes[most].tolist(), counts[most].tolist(), strict=True)))
    grey = bool(((codes >> 16 == (codes & 255)) & (codes >> 8 & 255 == (codes & 255))).all())
    size = (pixels.shape[0], pixels.shape[1])
    return MaskFacts(size, found, coloured=True, grey=grey, jpeg=jpeg)

"""What a model is given: pixels with the channels and the dtype that it was trained on."""

import contextlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.errors import DataError
from utils.files.images import bits, opened, read_image, upright
from utils.files.rasters import SUFFIXES, NotPlainError, Raster
from utils.files.raw_pixels import (
    Decoded,
    channels_last,
    find_void,
    fits,
    open_array,
    working_dtype,
)

RGB = (3, "uint8")


class Expected(NamedTuple):
    """What a model is given; `mean`, in the unit of the pixels, is what void becomes."""

    channels: int
    dtype: str
    mean: tuple[float, ...]


def read_input(path: Path, expected: Expected) -> Decoded:
    """Read an image, a TIFF of any channels, or .npy whole, upright, and as `fit` makes it.

    Raises:
        DataError: The file is missing or damaged, or has other channels or another dtype.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        array = channels_last(open_array(path), expected.channels)
        return fit(np.array(array, order="C"), expected, path)
    if suffix in SUFFIXES:
        try:
            with Raster(path) as raster:
                plain = raster.as_displayed and raster.dtype == np.uint8
                plain &= math.prod(raster.size) <= 2 * (Image.MAX_IMAGE_PIXELS or 0)  # no bomb
                if plain or raster.georeferenced or expected[:2] != RGB:
                    return read_rows(raster, expected, 0, raster.size[0])
        except NotPlainError:  # of 8-bit images Pillow knows more kinds
            if expected[:2] != RGB:
                raise
    if expected[:2] == RGB:
        return Decoded(read_image(path), None)
    with opened(path) as image:
        kept = upright(image)
        if kept.mode in ("P", "1", "CMYK", "YCbCr"):
            kept = kept.convert("L" if kept.mode == "1" else "RGB")
        pixels = np.asarray(kept)
    # Pillow widens 16-bit gray to int32 in some releases and formats.
    if pixels.dtype == np.int32 and pixels.min() >= 0 and pixels.max() < 1 << 16:
        pixels = pixels.astype(np.uint16)
    return fit(pixels, expected, path)


def is_cut(path: Path, expected: Expected) -> bool:
    """Whether only the upper byte of each value was used, of an image that `read_input` read."""
    if expected.dtype == "uint8" and path.suffix.lower() not in (".jpg", ".jpeg"):  # always 8 bits
        with contextlib.suppress(DataError), opened(path) as image:
            return bits(image) == 16
    return False  # what Pillow does not know is given as it is


def read_rows(raster: Raster, expected: Expected, top: int, bottom: int) -> Decoded:
    """Read rows `top` to `bottom` (exclusive) of a raster, as `fit` makes them."""
    return fit(raster.rows(top, bottom), expected, raster.path, raster.nodata)


def fit(pixels: np.ndarray, expected: Expected, path: Path, nodata: float | None = None) -> Decoded:
    """Give pixels (H, W) or (H, W, C) the expected channels and dtype, and void the mean color.

    Raises:
        DataError: Other channels, another dtype, or values that it does not hold.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    found, wanted = pixels.shape[2], expected.channels
    dtype = working_dtype(pixels.dtype, path)
    if dtype != expected.dtype or not fits(found, wanted):
        raise DataError(
            f"{path}: found {found} channels of {pixels.dtype}; the model was trained on "
            f"{wanted} channels of {expected.dtype}\n"
            "  fix: convert the image, or train on images of its kind"
        )
    pixels = pixels[..., :wanted]
    void = find_void(pixels, nodata)
    with np.errstate(over="ignore"):
        given = pixels.astype(dtype, copy=False)
    if given is not pixels:  # float64 may be rounded, integers not
        lost = ~np.isfinite(given) if pixels.dtype.kind == "f" else given != pixels
        lost = lost if void is None else lost & ~void[..., None]
        if lost.any():
            raise DataError(
                f"{path}: found {pixels.dtype} values that float32 does not hold, such as "
                f"{pixels[lost][0]}\n  fix: scale them, or save them as uint16"
            )
    if found < wanted:
        given = given.repeat(wanted, axis=2)
    if void is not None:
        given = np.where(void[..., None], np.array(expected.mean, given.dtype), given)
    return Decoded(given, void)

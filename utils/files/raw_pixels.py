"""What a file holds before anything is decided: channels and dtype, label values, colors."""

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.errors import DataError
from utils.files.decoding import decoding
from utils.files.images import opened, read_mask, upright, upright_size
from utils.files.rasters import NODATA, SUFFIXES, NotPlainError, Raster, nodata_value

_GIVEN = ("uint8", "uint16", "float32")  # a network is given these as they are
_AS_FLOAT = ("bool", "int8", "int16", "int32", "uint32", "float16", "float64")
_NO_LABEL = -(2**31)  # what a floating-point mask's NaN becomes
_BANDS = {"1": 1, "L": 1, "LA": 2, "P": 3, "RGB": 3, "RGBA": 4, "CMYK": 3, "YCbCr": 3}
_LOSSY = ("JPEG",)


class PixelKind(NamedTuple):
    """Values a pixel, after palettes and print colors became RGB, and their `working_dtype`."""

    channels: int
    dtype: str


class Decoded(NamedTuple):
    """An image (H, W, C) or label values (H, W); (H, W) bool: which have none, or None."""

    pixels: np.ndarray
    void: np.ndarray | None

    def rows(self, top: int, bottom: int) -> "Decoded":
        """Rows `top` to `bottom` (exclusive), without a copy."""
        void = None if self.void is None else self.void[top:bottom]
        return Decoded(self.pixels[top:bottom], void)


class Header(NamedTuple):
    """What is known without decoding: (height, width) as displayed, and the kind of pixels."""

    size: tuple[int, int]
    kind: PixelKind


def fits(found: int, channels: int) -> bool:
    """Whether `found` channels serve where `channels` are expected: gray for RGB, less alpha."""
    return found == channels or (found, channels) in ((1, 3), (4, 3), (2, 1))


def channels_last(array: np.ndarray, channels: int) -> np.ndarray:
    """Return an array (C, H, W) as (H, W, C), where only so it has the channels expected."""
    last = array.ndim != 3 or fits(array.shape[2], channels) or not fits(array.shape[0], channels)
    return array if last else array.transpose(1, 2, 0)


def header(path: Path, channels: int = 0) -> Header:
    """Read an image's header.

    Args:
        path: The image.
        channels: How many it should have; by them an array (C, H, W) is told from (H, W, C).

    Raises:
        DataError: The file is missing, unreadable, or holds pixels of an unknown kind.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        array = channels_last(open_array(path), channels)
        height, width, *bands = array.shape
        kind = PixelKind(bands[0] if bands else 1, working_dtype(array.dtype, path))
        return Header((height, width), kind)
    if suffix in SUFFIXES:
        with Raster(path) as one:
            # Read as they are displayed, by Pillow: RGB photographs (utils/inference/inputs.py).
            photograph = (channels, one.dtype.name) == (3, "uint8") and not one.georeferenced
            size = one.size[::-1] if one.transposed and photograph else one.size
            return Header(size, PixelKind(one.channels, working_dtype(one.dtype, path)))
    with opened(path) as image:
        wide = image.mode.startswith("I")
        kind = PixelKind(1, "uint16") if wide else PixelKind(_bands(image, path, channels), "uint8")
        return Header(upright_size(image), kind)


def _bands(image: Image.Image, path: Path, channels: int) -> int:
    if image.mode not in _BANDS:
        raise DataError(f"{path}: found pixels of mode {image.mode}, expected 8 or 16 bit")
    bands = _BANDS[image.mode]
    # Alpha is no band, unless gray and a second one are expected.
    return 1 if image.mode == "LA" and channels != bands else bands


def working_dtype(found: np.dtype, path: Path) -> str:
    """Return what values are read as, "uint8", "uint16" or "float32"; DataError for others."""
    if found.name not in _GIVEN + _AS_FLOAT:
        raise DataError(
            f"{path}: found values of {found.name}, expected {', '.join(_GIVEN + _AS_FLOAT)}\n"
            "  fix: convert the file"
        )
    return found.name if found.name in _GIVEN else "float32"


def find_void(values: np.ndarray, nodata: float | None) -> np.ndarray | None:
    """Which pixels of values (H, W, ...) have none: (H, W) bool, or None when all have one.

    NaN, infinity or nodata in one channel is enough; but of uint8 and uint16, whose nodata (0, 255)
    is a value like others in single channels, all channels must have it.
    """
    gone = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros((1,) * values.ndim, bool)
    if nodata is not None:
        gone = gone | np.equal(values, nodata)
    if not gone.any():
        return None
    planes = gone.reshape(*gone.shape[:2], -1)
    void = np.asarray(planes.all(2) if values.dtype.name in ("uint8", "uint16") else planes.any(2))
    return void if void.any() else None


def open_array(path: Path) -> np.ndarray:
    """Map a .npy file (H, W) or (H, W, C) without reading its pixels.

    Raises:
        DataError: Not an array of plain numbers, or of another number of dimensions.
    """
    with decoding(path):
        array = np.lib.format.open_memmap(path, mode="r")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(
            f"{path}: found an array of shape {array.shape}, expected (H, W) or (H, W, C)"
        )
    return array


def read_values(path: Path, *, lossy: bool) -> Decoded:
    """Read label values (H, W), integers; `lossy`: also from JPEG-compressed masks."""
    if path.suffix.lower() == ".npy":
        return _whole_numbers(np.array(open_array(path)), None, path)
    if holds_values(path):
        with Raster(path) as raster:
            return _whole_numbers(raster.rows(0, raster.size[0]), raster.nodata, path)
    if lossy:
        with opened(path) as image:
            if image.format in _LOSSY:
                return Decoded(np.asarray(upright(image).convert("L")), None)
    pixels = read_mask(path)
    return Decoded(pixels, find_void(pixels, _nodata_of_palette(path, pixels.dtype)))


def _nodata_of_palette(path: Path, dtype: np.dtype) -> float | None:
    if path.suffix.lower() in SUFFIXES:
        with opened(path) as image:
            if image.mode == "P":
                return nodata_value(getattr(image, "tag_v2", {}).get(NODATA), dtype)
    return None


def holds_values(path: Path) -> bool:
    """Whether a mask has plain values: an array, or a TIFF of one channel stored as displayed."""
    if path.suffix.lower() in SUFFIXES:
        with contextlib.suppress(NotPlainError), Raster(path) as raster:
            return raster.channels == 1 and raster.as_displayed  # not where white is 0
    return path.suffix.lower() == ".npy"


def _whole_numbers(values: np.ndarray, nodata: float | None, path: Path) -> Decoded:
    """Label values of any plain dtype as integers."""
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[..., 0] if values.shape[2] == 1 else values[0]
    if values.ndim != 2 or values.dtype.kind not in "uibf":
        raise DataError(
            f"{path}: found {values.dtype} of shape {values.shape}, expected integers (H, W)"
        )
    void = find_void(values, nodata)
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
    if values.dtype.kind == "f":
        wide = values.astype(np.float64)
        values = np.where(np.abs(wide) < 2**31, wide, _NO_LABEL)
        broken = values[values != np.rint(values)]
        if broken.size:
            raise DataError(
                f"{path}: floating-point values, such as {broken[0]:g}, expected one integer label "
                "value a pixel\n  fix: export the masks with integer values, as 8-bit PNG"
            )
        values = values.astype(np.int32)
    return Decoded(values, void)


def read_colors(path: Path, *, lossy: bool) -> np.ndarray:
    """Read the colors of a mask, uint8 (H, W, 3), or (H, W, 4) where the file has alpha.

    Args:
        path: The mask.
        lossy: Whether JPEG-compressed masks are accepted.

    Raises:
        DataError: A kind of pixels that has no colors of 8 bit, or a lossy file.
    """
    with opened(path) as image:
        if image.format in _LOSSY and not lossy:
            raise DataError(
                f"{path}: a JPEG-compressed mask: compression changes colors near edges\n"
                '  fix: export the masks as PNG, or "label_tolerance": 48 in the loader\'s args'
            )
        if image.mode not in _BANDS:
            raise DataError(
                f"{path}: found pixels of mode {image.mode}, expected colors of 8 bit\n"
                '  fix: a "label_map" from values instead of colours'
            )
        kept = upright(image)
        # A palette's indices become its colors.
        clear = kept.mode in ("LA", "RGBA") or (kept.mode == "P" and "transparency" in kept.info)
        return np.asarray(kept.convert("RGBA" if clear else "RGB"))

"""What a file holds before anything is decided: channels and dtype, label values, colours."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.errors import DataError
from utils.files.images import opened, read_mask, require_file, unreadable, upright, upright_size
from utils.files.rasters import SUFFIXES, Raster

_BANDS = {"1": 1, "L": 1, "LA": 2, "P": 3, "RGB": 3, "RGBA": 4, "CMYK": 3, "YCbCr": 3}
_LOSSY = ("JPEG",)


class PixelKind(NamedTuple):
    """Channels and dtype of an image.

    Attributes:
        channels: Values a pixel, after palettes and print colours became RGB.
        dtype: "uint8", "uint16" or "float32".
    """

    channels: int
    dtype: str


class Header(NamedTuple):
    """What is known without decoding: (height, width) as displayed, and the kind of pixels."""

    size: tuple[int, int]
    kind: PixelKind


def fits(found: int, channels: int) -> bool:
    """Whether `found` channels serve where `channels` are expected: grey for RGB, less alpha."""
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
    require_file(path)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        array = channels_last(open_array(path), channels)
        bands = array.shape[2] if array.ndim == 3 else 1
        return Header((array.shape[0], array.shape[1]), PixelKind(bands, str(array.dtype)))
    if suffix in SUFFIXES:
        with Raster(path) as raster:
            return Header(raster.size, PixelKind(raster.channels, str(raster.dtype)))
    with opened(path) as picture:
        wide = picture.mode.startswith("I")
        kind = PixelKind(1, "uint16") if wide else PixelKind(_bands(picture, path), "uint8")
        return Header(upright_size(picture), kind)


def _bands(picture: Image.Image, path: Path) -> int:
    if picture.mode not in _BANDS:
        raise DataError(f"{path}: found pixels of mode {picture.mode}, expected 8 or 16 bit")
    return _BANDS[picture.mode]


def open_array(path: Path) -> np.ndarray:
    """Map a .npy file (H, W) or (H, W, C) without reading its pixels.

    Raises:
        DataError: Not an array of plain numbers, or of another number of dimensions.
    """
    require_file(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, error) from error
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(
            f"{path}: found an array of shape {array.shape}, expected (H, W) or (H, W, C)"
        )
    return array


def read_values(path: Path, *, lossy: bool) -> np.ndarray:
    """Read label values (H, W) of an integer dtype from a picture or an array.

    Args:
        path: The mask.
        lossy: Whether JPEG-compressed masks are accepted.
    """
    if path.suffix.lower() == ".npy":
        array = open_array(path)
        if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
            array = array[0] if array.shape[0] == 1 else array[..., 0]
        if array.ndim != 2 or array.dtype.kind not in "uib":
            raise DataError(
                f"{path}: found {array.dtype} of shape {array.shape}, expected integers (H, W)"
            )
        return np.array(array, np.uint8 if array.dtype.kind == "b" else array.dtype)
    if not lossy:
        return read_mask(path)
    with opened(path) as picture:
        if picture.format not in _LOSSY:
            return read_mask(path)
        return np.asarray(upright(picture).convert("L"))


def read_colours(path: Path, *, lossy: bool) -> np.ndarray:
    """Read the colours of a mask, uint8 (H, W, 3), or (H, W, 4) where the file has alpha.

    Args:
        path: The mask.
        lossy: Whether JPEG-compressed masks are accepted.

    Raises:
        DataError: A kind of pixels that has no colours of 8 bit, or a lossy file.
    """
    with opened(path) as picture:
        if picture.format in _LOSSY and not lossy:
            raise DataError(
                f"{path}: a JPEG-compressed mask: compression changes colours near edges\n"
                '  fix: export the masks as PNG, or "label_tolerance": 48 in the loader\'s args'
            )
        if picture.mode not in _BANDS:
            raise DataError(
                f"{path}: found pixels of mode {picture.mode}, expected colours of 8 bit\n"
                '  fix: a "label_map" from values instead of colours'
            )
        kept = upright(picture)
        # A palette's indices become its colours.
        clear = kept.mode in ("LA", "RGBA") or (kept.mode == "P" and "transparency" in kept.info)
        return np.asarray(kept.convert("RGBA" if clear else "RGB"))

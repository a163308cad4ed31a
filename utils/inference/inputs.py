"""What a model is given: pixels with the channels and the dtype that it was trained on."""

from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import DataError
from utils.files.images import opened, read_image, require_file, unreadable, upright
from utils.files.rasters import SUFFIXES, Raster
from utils.files.raw_pixels import channels_last, fits

Expected = tuple[int, str]  # channels and dtype of the model's input
RGB: Expected = (3, "uint8")


def read_picture(path: Path, expected: Expected) -> np.ndarray:
    """Read a picture whole, upright, as the model expects it.

    Args:
        path: A picture, a TIFF of any channels and dtype, or .npy (H, W), (H, W, C) or (C, H, W).
        expected: Channels and dtype.

    Returns:
        (H, W, C) in the expected dtype.

    Raises:
        DataError: The file is missing or damaged, or has other channels or another dtype.
    """
    if path.suffix.lower() == ".npy":
        pixels = channels_last(_read_array(path), expected[0])
        return fit(np.ascontiguousarray(pixels), expected, path)
    if expected == RGB:
        return read_image(path)
    if path.suffix.lower() in SUFFIXES:
        with Raster(path) as raster:
            return fit(raster.rows(0, raster.size[0]), expected, path)
    with opened(path) as picture:
        kept = upright(picture)
        if kept.mode in ("P", "1", "CMYK", "YCbCr"):
            kept = kept.convert("RGB")
        return fit(_as_array(kept), expected, path)


def _as_array(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture)
    # Pillow widens 16-bit grey to int32 in some releases and formats.
    wide = picture.mode.startswith("I") and pixels.min(initial=0) >= 0
    return pixels.astype(np.uint16) if wide and pixels.max(initial=0) < 1 << 16 else pixels


def _read_array(path: Path) -> np.ndarray:
    require_file(path)
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, error) from error


def fit(pixels: np.ndarray, expected: Expected, path: Path) -> np.ndarray:
    """Give pixels the expected channels where nothing is lost by it: grey as RGB, alpha dropped.

    Raises:
        DataError: Other channels or another dtype.
    """
    channels, dtype = expected
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim == 3 and pixels.dtype == dtype and fits(pixels.shape[2], channels):
        return pixels.repeat(3, axis=2) if pixels.shape[2] < channels else pixels[..., :channels]
    found = pixels.shape[2] if pixels.ndim == 3 else f"{pixels.ndim} dimensions instead of"
    raise DataError(
        f"{path}: found {found} channels of {pixels.dtype}; the model was trained on "
        f"{channels} channels of {dtype}\n"
        "  fix: convert the picture, or train on pictures of its kind"
    )

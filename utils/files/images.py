"""Reading images and masks: one EXIF rule, errors that name the file.

Pillow reads every header and decodes everything it knows; whole RGB JPEGs, the bulk of training,
come from OpenCV, whose pixels are the same in two thirds of the time.
"""

import contextlib
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from utils.errors import DataError
from utils.files.decoding import FORMATS, decoding
from utils.files.rasters import Raster, page_count

# Pillow refuses from twice this limit on; what lies between is a large image, not a fault.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_EXIF_KEYS = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))
REDUCED = 0.5  # the scale from which down a JPEG is decoded at a lower resolution
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]", re.DOTALL)  # a scan holds none of them
_BITS_PER_SAMPLE, _PLANES = 258, 284  # tags of TIFF
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image by Pillow; what fails inside the block is named as in `decoding`."""
    with decoding(path), Image.open(path, formats=FORMATS) as image:
        paged = getattr(image, "tag_v2", None) and image.tag_v2.next
        if paged and page_count(path) > 1:  # one for each channel
            with Raster(path) as raster:
                image = Image.fromarray(raster.rows(0, raster.size[0]))  # noqa: PLW2901
        yield image


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none."""
    # Asking Pillow costs a tenth of decoding a mask; its answer comes from one of these.
    if image.format != "TIFF" and _EXIF_KEYS.isdisjoint(image.info):
        return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width) as displayed, from the header alone."""
    width, height = image.size
    return (width, height) if orientation(image) in _SIDEWAYS else (height, width)


def upright(image: Image.Image) -> Image.Image:
    """Return the image with its EXIF orientation applied."""
    return image if orientation(image) == 1 else ImageOps.exif_transpose(image)


def bits(image: Image.Image) -> int:
    """Return the bits of a value in the file, 8 or 16, before pixels are loaded.

    Pillow opens colors of 16 bits as those of 8, and keeps the upper byte.
    """
    stored = str(getattr(image, "tile", [])[:1])  # of a PNG; "RGB;16B" is in it
    samples = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())  # of a TIFF
    return 16 if image.mode.startswith("I") or ";16" in stored or 16 in samples else 8


def read_image(path: Path, *, scale: float = 1.0) -> np.ndarray:
    """Read an image as uint8 RGB (H, W, 3), upright.

    Gray, palette, CMYK and RGBA are converted; of an animation the first frame counts; 16-bit
    values keep their upper byte.

    Args:
        path: The file.
        scale: How much of the resolution will be used; a JPEG is then decoded at 1/2, 1/4 or 1/8
            of its size where that is still enough, which costs less and smooths as a good
            reduction should.

    Raises:
        DataError: The file is missing, damaged, or of a kind without a conversion to RGB.
    """
    with opened(path) as image:
        planes = image.mode == "RGB" and getattr(image, "tag_v2", {}).get(_PLANES) == 2
        if planes and bits(image) == 16 and image.info.get("compression") == "raw":
            raise DataError(  # Pillow would take their bytes for values
                f"{path}: found colors of 16 bits in separate planes, expected 8 bits\n"
                "  fix: convert the file to 8 bits"
            )
        if image.format == "JPEG" and orientation(image) == 1:
            if scale <= REDUCED:
                wanted = (math.ceil(image.width * scale), math.ceil(image.height * scale))
                image.draft(None, wanted)
            elif (pixels := _whole_jpeg(image)) is not None:
                return pixels
        return to_rgb(upright(image), path)


def _whole_jpeg(image: Image.Image) -> np.ndarray | None:
    """Decode a JPEG by OpenCV, or return None where Pillow would not do the same."""
    file = getattr(image, "fp", None)
    if image.mode != "RGB" or file is None:
        return None
    file.seek(0)
    data = file.read()
    # Pillow refuses what OpenCV may let pass: a scan that breaks off, or a second one behind it.
    marker = _JPEG_MARKER.search(data, data.find(_JPEG_SCAN) + 2)
    if marker is None or marker.group() != _JPEG_END or marker.end() != len(data):
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def to_rgb(image: Image.Image, path: Path) -> np.ndarray:
    """Convert a decoded image to uint8 (H, W, 3)."""
    # In TIFF, mode I holds signed and 32-bit integers, whose upper byte means nothing.
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise DataError(f"{path}: pixels of 32 bit, expected 8 or 16\n  fix: convert the file")
    if image.mode.startswith("I"):
        wide = np.asarray(image)
        gray = np.clip(wide >> 8, 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.asarray(image)


def read_mask(path: Path) -> np.ndarray:
    """Read raw label values (H, W): uint8, uint16 or int32; palette PNGs give their indices.

    Raises:
        DataError: The file is missing or damaged, has colors or floating-point values, or is
            JPEG-compressed (which changes label values).
    """
    with opened(path) as image:
        if image.format == "JPEG":
            raise DataError(
                f"{path}: a JPEG-compressed mask: compression changes label values near edges\n"
                "  expected: a lossless file (PNG) with one label value a pixel\n"
                '  fix: export the masks as PNG, or use "type": "Folder" with "label_tolerance"'
            )
        if image.mode == "F":
            raise DataError(
                f"{path}: floating-point values, expected one integer label value a pixel\n"
                "  fix: export the masks with integer values, as 8-bit PNG"
            )
        if image.mode not in ("L", "P", "1") and not image.mode.startswith("I"):
            raise DataError(
                f"{path}: found mode {image.mode}, expected one label value a pixel "
                "(gray or palette)\n"
                '  fix: "type": "Folder" with a "label_map" that says what each color means'
            )
        raw = np.asarray(upright(image))
        return raw.astype(np.uint8) if raw.dtype == bool else raw


def sizes_differ(
    image_path: Path, mask_path: Path, image: tuple[int, ...], mask: tuple[int, ...]
) -> DataError:
    """Return what to raise for a pair whose sizes differ; names the EXIF turn if there is one."""
    turn = 1
    with contextlib.suppress(DataError), opened(image_path) as header:
        turn = orientation(header)  # arrays and rasters that Pillow does not know have none
    turned = f", after its EXIF orientation {turn}" if turn != 1 else ""
    if mask == image[::-1]:
        hint = (
            "the image is displayed turned (EXIF) and its mask was drawn without the turn: "
            "save the image upright, or turn the mask"
            if turn != 1
            else "the mask lies on its side: turn it, or exchange its rows and columns"
        )
    elif abs(mask[0] * image[1] - mask[1] * image[0]) <= max(image):  # but for rounding
        scale = f"magick mogrify -sample '{image[1]}x{image[0]}!' {mask_path}"
        hint = f"if the two belong together, scale the mask without new values: {scale}"
    else:
        hint = "check that the two belong together; a mask must have its image's size"
    return DataError(
        f"{mask_path}: found a mask of {mask[1]}x{mask[0]} pixels, expected {image[1]}x{image[0]} "
        f"as its image {image_path} has{turned}\n  hint: {hint}"
    )

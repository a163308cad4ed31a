"""What is written for an image: mask, overlay, probabilities, each whole or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from utils.drawing.overlay import overlay
from utils.drawing.palette import Color, to_palette_image
from utils.files.mask_tiff import write_mask_tiff
from utils.files.outputs import Job, Save, write_whole
from utils.files.rasters import Raster
from utils.files.written import writing
from utils.inference.streaming import MaskRows, finish

_PALETTE_CLASSES = 255  # the 256th entry of a palette is void's
_PNG_EFFORT = 3  # of 9: masks compress well at any; 9 costs more than a small network


@dataclass(frozen=True)
class Extras:
    """What is written beside the masks.

    Attributes:
        overlay: How much of the classes' colors is in the overlay, up to 1; 0: no overlay.
        array: The probabilities.
        confidence: The highest probability of each pixel.
    """

    overlay: float = 0.0
    array: bool = False
    confidence: bool = False

    @property
    def probabilities(self) -> bool:
        """Whether probabilities are needed."""
        return self.array or self.confidence


class Results(NamedTuple):
    """What is known about one image."""

    pixels: np.ndarray  # (H, W, C)
    mask: np.ndarray  # (H, W) uint8, uint16 over 255 classes; the highest value is void
    probabilities: np.ndarray | None  # (K, H, W) float16
    raster: Raster | None = None  # where the mask lies on the ground


class Streamed(NamedTuple):
    """A mask whose rows are on disk."""

    rows: MaskRows
    raster: Raster


class Writer:
    """Writes results under a job's name.

    Args:
        classes: A name for each class.
        palette: A color for each class.
        extras: What to write beside the masks.
    """

    def __init__(
        self, classes: Sequence[str], palette: Sequence[Sequence[int]], *, extras: Extras
    ) -> None:
        self._classes = classes
        self._palette: list[Color] = [(red, green, blue) for red, green, blue in palette]
        self._extras = extras

    def __call__(self, job: Job, results: Results | Streamed, save: Save = write_whole) -> None:
        """Write all that belongs to one image; `save` puts a file in its place.

        Raises:
            DataError: Its name is too long for the file system.
            ResourceError: The folder or disk does not take it.
        """
        with writing(job.target):
            job.target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(results, Streamed):
                finish(results.rows, job.result(".tif"), results.raster, self._palette, save)
            else:
                self._write(job, results, save)

    def _write(self, job: Job, results: Results, save: Save) -> None:
        mask, raster = results.mask, results.raster
        if raster is None:
            save(job.result(".png"), partial(write_mask, mask, self._palette))
        else:
            in_place = partial(
                write_mask_tiff,
                rows=lambda top, bottom: mask[top:bottom],
                size=raster.size,
                dtype=mask.dtype,
                palette=self._palette,
                tags=raster.tags,
            )
            save(job.result(".tif"), in_place)
        if self._extras.overlay:
            opacity = self._extras.overlay
            drawn = overlay(results.pixels, mask, self._palette, self._classes, opacity=opacity)
            jpeg = BytesIO()  # of a file on a full disk Pillow would lose the end in silence
            drawn.save(jpeg, format="JPEG", quality=90)
            save(job.result(".overlay.jpg"), lambda path: path.write_bytes(jpeg.getbuffer()))
        shares = results.probabilities
        if shares is not None and self._extras.array:
            save(job.result(".npy"), partial(_save_array, shares))
        if shares is not None and self._extras.confidence:
            highest = np.nan_to_num(shares.max(0).astype(np.float32))  # 0 where void
            gray = Image.fromarray(np.rint(255 * highest.clip(0, 1)).astype(np.uint8))
            save(job.result(".confidence.png"), partial(gray.save, format="PNG"))


def mask_dtype(num_classes: int) -> np.dtype[Any]:
    """What holds all class ids: uint8, or uint16 over 255 classes."""
    return np.dtype(np.uint8 if num_classes <= _PALETTE_CLASSES else np.uint16)


def to_half(probabilities: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Round (K, H, W) to float16 such that its argmax is still the mask.

    Rounding can make the two likeliest classes equal; the mask's then gets the next number up.
    """
    half = probabilities.astype(np.float16)
    tied = half.argmax(0) != mask
    if tied.any():
        highest = half.max(0)
        raised = np.where(tied, np.nextafter(highest, np.float16(2)), highest)
        np.put_along_axis(half, mask[None].astype(np.int64), raised[None], axis=0)
    return half


def write_mask(mask: np.ndarray, palette: Sequence[Color], path: Path) -> None:
    """Write a mask as PNG: uint8 with its palette, uint16 as 16-bit gray."""
    wide = mask.dtype == np.uint16
    image = Image.fromarray(mask) if wide else to_palette_image(mask, palette)
    image.save(path, format="PNG", compress_level=_PNG_EFFORT)


def _save_array(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)

"""A mask as TIFF, written a few rows at a time: also one that is larger than memory."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.drawing.palette import VOID_COLOR, Color
from utils.files.rasters import NODATA, Tag

_TILE = 512
_BIG = 1 << 31  # bytes of pixels from which on a classic TIFF might not hold the file


def write_mask_tiff(
    path: Path,
    rows: Callable[[int, int], np.ndarray],
    *,
    size: tuple[int, int],
    dtype: np.dtype[Any],
    palette: Sequence[Color],
    tags: Sequence[Tag] = (),
) -> None:
    """Write a mask as tiled, deflated TIFF, a row of tiles at a time; its nodata is void.

    Args:
        path: The file.
        rows: `rows(top, bottom)` gives those rows of the mask, (rows, width).
        size: (height, width).
        dtype: uint8 (written with its palette) or uint16; the highest value is void.
        palette: A color for each class.
        tags: What `Raster.tags` gave.
    """
    import tifffile

    height, width = size

    def tiles() -> Iterator[np.ndarray]:
        for top in range(0, height, _TILE):
            band = rows(top, min(height, top + _TILE))
            for left in range(0, width, _TILE):
                part = band[:, left : left + _TILE]
                edge = ((0, _TILE - part.shape[0]), (0, _TILE - part.shape[1]))
                yield np.pad(part, edge)

    colours, void = None, str(np.iinfo(dtype).max)
    if dtype == np.uint8:
        colours = np.zeros((3, 256), np.uint16)
        colours[:, : len(palette)] = np.array(palette, np.uint16).T * 257
        colours[:, -1] = np.array(VOID_COLOR, np.uint16) * 257
    with tifffile.TiffWriter(path, bigtiff=height * width * dtype.itemsize >= _BIG) as writer:
        writer.write(
            tiles(),
            shape=(height, width),
            dtype=dtype,
            tile=(_TILE, _TILE),
            compression="zlib",
            photometric="minisblack" if colours is None else "palette",
            colormap=colours,
            extratags=[*tags, (NODATA, 2, len(void), void, True)],
            metadata=None,
            software=False,
        )

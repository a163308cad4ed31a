"""TIFF and GeoTIFF read a few rows at a time: images larger than memory.

The limit on pixels that guards against decompression bombs is not meant for these: nothing is ever
decoded whole. tifffile reads what it can (with imagecodecs LZW, JPEG and more), rasterio the rest.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np

from utils.errors import DataError
from utils.files.decoding import decoding

Tag = tuple[int, int, int, object, bool]  # code, dtype, count, value, written once
SUFFIXES = (".tif", ".tiff")
_SEGMENT_LIMIT = 1 << 28  # bytes of one strip or tile: it is decoded as a whole
_SHOWN_AS_STORED = (1, 2)  # photometric: gray or bands, RGB
# Pixel scale, tie points, transformation, the three key tags of GeoTIFF, and the orientation.
_KEPT_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 274)
_ORIENTATION, NODATA = 274, 42113
_GEOREFERENCE = frozenset(_KEPT_TAGS) - {_ORIENTATION}


class NotPlainError(DataError):
    """A kind of TIFF that has no rows of plain values here; Pillow may know it."""


class Raster:
    """The image of a TIFF file, open for reading by rows; closed it still knows the rest.

    Where white is stored as 0, rows and `nodata` are turned round: white is the largest value.

    Attributes:
        path: The file.
        size: (height, width).
        channels: Values a pixel.
        dtype: Of the values.
        tags: What places it on the ground, as tifffile's writer takes it.
        georeferenced: Whether there is such.
        transposed: Whether rows are displayed as columns.
        as_displayed: Whether rows and values are stored as they are displayed.
        nodata: The value that means none; None: no value does.
    """

    def __init__(self, path: Path) -> None:
        import tifffile  # late: only TIFF files need it

        self.path = path
        with decoding(path), contextlib.ExitStack() as unless_opened:
            self._file = unless_opened.enter_context(tifffile.TiffFile(path))
            self._pages = _channel_pages(path, self._file)
            page = self._page = self._pages[0]
            self.size = (page.imagelength, page.imagewidth)
            self.channels = len(self._pages) if self._pages[1:] else page.samplesperpixel
            self._separate = page.planarconfig == 2 or len(self._pages) > 1
            self.dtype = _plain_dtype(path, page)
            self._nodata = self.nodata = nodata_value(page.tags.valueof(NODATA), self.dtype)
            inverted = page.photometric == 0 and self.dtype.kind == "u"
            self._white = int(np.iinfo(self.dtype).max) if inverted else None
            if self._white is not None and self._nodata is not None:
                self.nodata = self._white - self._nodata
            self.transposed = (orientation := page.tags.valueof(_ORIENTATION, 1)) >= 5
            flags = page.bitspersample == 1 and page.software == "tifffile.py"  # a bool array
            shown = flags or page.photometric in _SHOWN_AS_STORED
            self.as_displayed = orientation == 1 and shown and page.samplesperpixel != 2  # alpha
            kept = [page.tags[code] for code in _KEPT_TAGS if code in page.tags]
            self.tags: list[Tag] = [(t.code, int(t.dtype), t.count, t.value, True) for t in kept]
            self.georeferenced = any(tag[0] in _GEOREFERENCE for tag in self.tags)
            self._read = self._reader()
            unless_opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Read rows `top` to `bottom` (exclusive) as (rows, width, channels).

        Raises:
            DataError: The file is damaged there.
        """
        with decoding(self.path):
            rows = self._read(top, bottom)
        return rows if self._white is None else self._white - rows

    def _reader(self) -> Callable[[int, int], np.ndarray]:
        page = self._page
        whole_bytes = page.bitspersample == self.dtype.itemsize * 8 and page.fillorder == 1
        plain = page.predictor == 1 and not page.is_tiled and whole_bytes
        # A sparse file may leave out even the only strip, and then has no place for it.
        if plain and all(one.is_contiguous and one.dataoffsets[0] for one in self._pages):
            self._require_length()
            return self._plain_rows
        chunk = page.chunks
        segment = int(np.prod([int(side) for side in chunk])) * self.dtype.itemsize
        reason = self._undecodable()
        if reason is None and segment <= _SEGMENT_LIMIT:
            return self._decoded_rows
        if reason is None:
            reason = f"stored in pieces of {segment >> 20} MiB, each of which is decoded whole"
        return _rasterio_rows(self.path, self._pages, reason)

    def _require_length(self) -> None:
        """Before hours of work, or an allocation of terabytes: the file holds what it promises."""
        height, width = self.size
        promised = height * width * self.channels * self.dtype.itemsize
        if promised > self._file.filehandle.size:
            raise DataError(
                f"{self.path}: cut short, or its header is wrong: {width} x {height} pixels are "
                f"{promised} bytes, the file has {self._file.filehandle.size}\n"
                "  fix: fetch the file again"
            )

    def _undecodable(self) -> str | None:
        """Decode one segment to see whether it can be done."""
        try:
            next(self._segments([0]), None)
        except (ValueError, RuntimeError, OSError, KeyError, ImportError) as error:
            return str(error)
        return None

    def _plain_rows(self, top: int, bottom: int) -> np.ndarray:
        """Uncompressed and in one piece: any rows can be read where they lie."""
        stored = self.dtype.newbyteorder(self._file.byteorder)
        line = self.size[1] * (1 if self._separate else self.channels)
        skipped, count = top * line * stored.itemsize, (bottom - top) * line
        planes = self.channels if self._page.planarconfig == 2 else 1
        starts = [page.dataoffsets[:: len(page.dataoffsets) // planes] for page in self._pages]
        read = [np.fromfile(self.path, stored, count, offset=start + skipped)
                for start in chain.from_iterable(starts)]  # fmt: skip
        rows = np.stack(read, axis=-1).astype(self.dtype, copy=False)
        return rows.reshape(bottom - top, self.size[1], self.channels)

    def _decoded_rows(self, top: int, bottom: int) -> np.ndarray:
        page = self._page
        height, width = self.size
        high = page.tilelength if page.is_tiled else min(page.rowsperstrip, height)
        across = -(-width // page.tilewidth) if page.is_tiled else 1
        a_plane = -(-height // high) * across
        planes = self.channels if self._separate else 1
        lines = range(top // high, -(-bottom // high))
        indices = [
            plane * a_plane + line * across + column
            for plane in range(planes)
            for line in lines
            for column in range(across)
        ]
        out = np.zeros((bottom - top, width, self.channels), self.dtype)
        if self._nodata:  # what a sparse file leaves out has that value
            out.fill(self._nodata)
        for segment, (plane, row, left) in self._segments(indices):
            first, last = max(top, row), min(bottom, row + segment.shape[0])
            right = min(width, left + segment.shape[1])
            part = segment[first - row : last - row, : right - left]
            out[first - top : last - top, left:right, plane : plane + part.shape[2]] = part
        return out

    def _segments(
        self, indices: Sequence[int]
    ) -> Iterator[tuple[np.ndarray, tuple[int, int, int]]]:
        """Decoded segments (rows, columns, samples) and their first (plane, row, column)."""
        page = self._page
        for index in indices:
            number, segment = divmod(index, len(page.dataoffsets))
            offset = self._pages[number].dataoffsets[segment]
            count = self._pages[number].databytecounts[segment]
            self._file.filehandle.seek(offset)
            data = self._file.filehandle.read(count)
            if len(data) < count or (offset and not count):
                raise DataError(f"{self.path}: cut short, or damaged\n  fix: fetch the file again")
            # Sparse files leave out segments that are empty: decode() takes None for them.
            tables = {"jpegtables": page.jpegtables} if page.jpegtables is not None else {}
            decoded, place, _ = page.decode(data or None, segment, **tables)
            if decoded is not None:
                plane = place[0] if page.planarconfig == 2 else number
                yield decoded[0], (plane, place[2], place[3])


def _channel_pages(path: Path, file: Any) -> Sequence[Any]:
    """Return the page of the image, or one for each channel, as ImageJ writes them; no stack."""
    first, *others = file.pages
    # Reduced copies (1) and masks of what is valid (4) are no images of their own.
    pages = [first, *(p for p in others if p.shape == first.shape and not p.subfiletype & 5)]
    if len(pages) > 1 and (axes := file.series[0].axes) != "CYX":
        raise DataError(
            f"{path}: found a stack of {len(pages)} images (axes {axes}), expected one\n"
            "  fix: save each as a file of its own; where pages are channels, say so: "
            "tifffile.imwrite(file, pixels, metadata={'axes': 'CYX'})"
        )
    return pages


def page_count(path: Path) -> int:
    """Return how many pages make up the image of a TIFF file; errors as for `Raster`."""
    import tifffile  # late: only TIFF files need it

    with decoding(path), tifffile.TiffFile(path) as file:
        return len(_channel_pages(path, file))


def nodata_value(text: object, dtype: np.dtype[Any]) -> float | None:
    """What GDAL wrote as text; None where it is no value of the dtype, and so of no pixel."""
    with contextlib.suppress(ValueError), np.errstate(all="ignore"):
        value = float(str(text).strip("\0 "))
        held = np.array(value).astype(dtype)
        if held == value or (np.isfinite(held) and dtype.kind == "f"):  # written with fewer digits
            return held.item()
    return None


def _plain_dtype(path: Path, page: Any) -> np.dtype[Any]:
    # Indices into a table of colors, or inks instead of light.
    kind = {3: "palette", 5: "CMYK"}.get(page.photometric)
    if page.dtype is None or page.imagedepth != 1 or kind or 0 in page.shape:
        kind = kind or str(page.dims)
        raise NotPlainError(
            f"{path}: a kind of TIFF without plain pixels ({kind})\n  fix: convert it to RGB"
        )
    return page.dtype


def _rasterio_rows(
    path: Path, pages: Sequence[Any], reason: str
) -> Callable[[int, int], np.ndarray]:
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
        from rasterio.windows import Window
    except ImportError as error:
        raise NotPlainError(
            f"{path}: tifffile cannot read it by windows: {reason}\n"
            "  fix: pip install -r requirements-raster.txt (imagecodecs, rasterio), or rewrite the "
            "file in tiles without compression"
        ) from error

    def rows(top: int, bottom: int) -> np.ndarray:
        parts = []
        for page in pages:
            name = f"GTIFF_DIR:{page.index + 1}:{path}" if len(pages) > 1 else path
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                data = rasterio.open(name)
            with data:
                parts.append(data.read(window=Window(0, top, data.width, bottom - top)))
        return np.moveaxis(np.concatenate(parts), 0, 2)

    return rows

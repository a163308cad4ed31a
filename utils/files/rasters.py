"""TIFF and GeoTIFF read and written a few rows at a time: pictures larger than memory.

The limit on pixels that guards against decompression bombs is not meant for these: nothing is ever
decoded whole. tifffile reads what it can (with the imagecodecs package also LZW, JPEG and others);
what it cannot is read through rasterio where that is installed.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from utils.drawing.palette import Colour
from utils.errors import DataError

Tag = tuple[int, int, int, object, bool]  # code, dtype, count, value, written once
SUFFIXES = (".tif", ".tiff")
_SEGMENT_LIMIT = 1 << 28  # bytes of one strip or tile: it is decoded as a whole
_PLAIN_PIXELS = (1, 2, 6)  # grey or bands, RGB, and YCbCr, which decodes to RGB
_TILE = 512
_BIG = 1 << 31  # bytes of pixels from which on a classic TIFF might not hold the file
# Pixel scale, tie points, transformation, the three key tags of GeoTIFF, and the orientation.
_KEPT_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 274)
_GEOREFERENCE = frozenset(_KEPT_TAGS) - {274}


class Raster:
    """The image of a TIFF file, open for reading by rows; closed it still knows the rest.

    Attributes:
        path: The file.
        size: (height, width).
        channels: Values a pixel.
        dtype: Of the values.
        tags: What places it on the ground, as tifffile's writer takes it.
        georeferenced: Whether there is such.
    """

    def __init__(self, path: Path) -> None:
        import tifffile  # late: only TIFF files need it

        self.path = path
        try:
            self._file = tifffile.TiffFile(path)
        except (OSError, tifffile.TiffFileError, ValueError) as error:
            raise DataError(f"{path}: cannot be opened as TIFF ({error})") from error
        try:
            page = self._page = _first_page(path, self._file)
            self._pages = _channel_pages(path, self._file)
            self.size = (page.imagelength, page.imagewidth)
            self.channels = page.samplesperpixel * len(self._pages)
            self.dtype = _plain_dtype(path, page)
            kept = [page.tags[code] for code in _KEPT_TAGS if code in page.tags]
            self.tags: list[Tag] = [(t.code, int(t.dtype), t.count, t.value, True) for t in kept]
            self.georeferenced = any(tag[0] in _GEOREFERENCE for tag in self.tags)
            self._read = self._reader()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Read rows `top` to `bottom` (exclusive) as (rows, width, channels).

        Raises:
            DataError: The file is damaged there.
        """
        try:
            parts = [self._read(page, top, bottom) for page in self._pages]
            return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        except (OSError, ValueError, RuntimeError, IndexError, KeyError) as error:
            raise DataError(
                f"{self.path}: rows {top} to {bottom} cannot be decoded ({error})"
            ) from error

    def _reader(self) -> Callable[[Any, int, int], np.ndarray]:
        page = self._page
        whole_bytes = page.bitspersample == self.dtype.itemsize * 8 and page.fillorder == 1
        plain = page.compression == 1 and page.predictor == 1 and not page.is_tiled and whole_bytes
        if plain and all(page.databytecounts):  # sparse files leave out strips that are empty
            self._require_length()
            return self._plain_rows
        chunk = page.chunks
        segment = int(np.prod([int(side) for side in chunk])) * self.dtype.itemsize
        reason = self._undecodable()
        if reason is None and segment <= _SEGMENT_LIMIT:
            return self._decoded_rows
        if reason is None:
            reason = f"stored in pieces of {segment >> 20} MiB, each of which is decoded whole"
        return _rasterio_rows(self.path, reason)

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
            next(self._segments(self._page, [0]))
        except (ValueError, RuntimeError, OSError, KeyError, ImportError) as error:
            return str(error)
        return None

    def _plain_rows(self, page: Any, top: int, bottom: int) -> np.ndarray:
        """Uncompressed strips: any rows can be read where they lie."""
        height, width = self.size
        channels = page.samplesperpixel
        separate = page.planarconfig == 2 and channels > 1
        planes = channels if separate else 1
        samples = 1 if separate else channels
        out = np.empty((bottom - top, width, channels), self.dtype)
        stored = self.dtype.newbyteorder(self._file.byteorder)
        per_strip = min(page.rowsperstrip, height)
        strips = -(-height // per_strip)
        row_bytes = width * samples * self.dtype.itemsize
        for plane in range(planes):
            for strip in range(top // per_strip, -(-bottom // per_strip)):
                first = max(top, strip * per_strip)
                last = min(bottom, (strip + 1) * per_strip)
                place = page.dataoffsets[plane * strips + strip]
                self._file.filehandle.seek(place + (first - strip * per_strip) * row_bytes)
                data = self._file.filehandle.read((last - first) * row_bytes)
                part = np.frombuffer(data, stored).reshape(last - first, width, samples)
                out[first - top : last - top, :, plane : plane + samples] = part
        return out

    def _decoded_rows(self, page: Any, top: int, bottom: int) -> np.ndarray:
        height, width = self.size
        high = page.tilelength if page.is_tiled else min(page.rowsperstrip, height)
        across = -(-width // page.tilewidth) if page.is_tiled else 1
        a_plane = -(-height // high) * across
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        lines = range(top // high, -(-bottom // high))
        indices = [
            plane * a_plane + line * across + column
            for plane in range(planes)
            for line in lines
            for column in range(across)
        ]
        out = np.zeros((bottom - top, width, page.samplesperpixel), self.dtype)
        for segment, (plane, row, left) in self._segments(page, indices):
            first, last = max(top, row), min(bottom, row + segment.shape[0])
            right = min(width, left + segment.shape[1])
            part = segment[first - row : last - row, : right - left]
            out[first - top : last - top, left:right, plane : plane + part.shape[2]] = part
        return out

    def _segments(
        self, page: Any, indices: Sequence[int]
    ) -> Iterator[tuple[np.ndarray, tuple[int, int, int]]]:
        """Decoded segments (rows, columns, samples) and their first (plane, row, column)."""
        for index in indices:
            self._file.filehandle.seek(page.dataoffsets[index])
            data = self._file.filehandle.read(page.databytecounts[index])
            # Sparse files leave out segments that are empty: decode() takes None for them.
            tables = {"jpegtables": page.jpegtables} if page.jpegtables is not None else {}
            decoded, place, _ = page.decode(data or None, index, **tables)
            if decoded is not None:
                yield decoded[0], (place[0] if page.planarconfig == 2 else 0, place[2], place[3])


def _first_page(path: Path, file: Any) -> Any:
    try:
        return file.pages.first
    except (IndexError, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot be opened as TIFF (no image in it)") from error


def _channel_pages(path: Path, file: Any) -> list[Any]:
    """Return the page of the image, or one for each channel, as ImageJ writes them; no stack."""
    first, *others = file.pages
    # Reduced copies (1) and masks of what is valid (4) are no images of their own.
    pages = [first, *(p for p in others if p.shape == first.shape and not p.subfiletype & 5)]
    if len(pages) > 1 and file.series[0].axes != "CYX":
        raise DataError(
            f"{path}: found a stack of {len(pages)} images, expected one\n"
            "  fix: save each as a file of its own; where pages are channels, say so: "
            "tifffile.imwrite(file, pixels, metadata={'axes': 'CYX'})"
        )
    return pages


def page_count(path: Path) -> int:
    """Return how many pages make up the image of a TIFF file; errors as for `Raster`."""
    import tifffile  # late: only TIFF files need it

    try:
        with tifffile.TiffFile(path) as file:
            return len(_channel_pages(path, file))
    except tifffile.TiffFileError as error:
        raise DataError(f"{path}: cannot be opened as TIFF ({error})") from error


def _plain_dtype(path: Path, page: Any) -> np.dtype[Any]:
    colours = page.photometric == 3  # values are indices into a table of colours
    if page.dtype is None or page.imagedepth != 1 or colours or 0 in page.shape:
        kind = "palette" if colours else str(page.dims)
        raise DataError(
            f"{path}: a kind of TIFF without plain pixels ({kind})\n  fix: convert it to RGB"
        )
    return page.dtype


def _rasterio_rows(path: Path, reason: str) -> Callable[[Any, int, int], np.ndarray]:
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
        from rasterio.windows import Window
    except ImportError as error:
        raise DataError(
            f"{path}: tifffile cannot read it by windows: {reason}\n"
            "  fix: pip install -r requirements-raster.txt (imagecodecs, rasterio), or rewrite the "
            "file in tiles without compression"
        ) from error

    def rows(page: Any, top: int, bottom: int) -> np.ndarray:
        name = f"GTIFF_DIR:{page.index + 1}:{path}" if page.index else path
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            data = rasterio.open(name)
        with data:
            window = Window(0, top, data.width, bottom - top)
            return np.moveaxis(data.read(window=window), 0, 2)

    return rows


def write_mask_tiff(
    path: Path,
    rows: Callable[[int, int], np.ndarray],
    *,
    size: tuple[int, int],
    dtype: np.dtype[Any],
    palette: Sequence[Colour],
    tags: Sequence[Tag] = (),
) -> None:
    """Write a mask as tiled, deflated TIFF, a row of tiles at a time.

    Args:
        path: The file.
        rows: `rows(top, bottom)` gives those rows of the mask, (rows, width).
        size: (height, width).
        dtype: uint8 (written with its palette) or uint16.
        palette: A colour for each class.
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

    colours = None
    if dtype == np.uint8:
        colours = np.zeros((3, 256), np.uint16)
        colours[:, : len(palette)] = np.array(palette, np.uint16).T * 257
    with tifffile.TiffWriter(path, bigtiff=height * width * dtype.itemsize >= _BIG) as writer:
        writer.write(
            tiles(),
            shape=(height, width),
            dtype=dtype,
            tile=(_TILE, _TILE),
            compression="zlib",
            photometric="minisblack" if colours is None else "palette",
            colormap=colours,
            extratags=list(tags),
            metadata=None,
            software=False,
        )

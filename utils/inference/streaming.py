"""The mask of an image larger than memory: its rows so far on disk, taken up after a kill.

Finished rows of the mask are appended to a plain file beside the result; its length says how far
the work has come. A small description beside it names the image, the weights and the settings, so
that rows of another run are never continued. At the end the rows become a tiled TIFF and both files
go.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.drawing.palette import Color
from utils.errors import ResourceError
from utils.files.lock import claim
from utils.files.mask_tiff import write_mask_tiff
from utils.files.outputs import Save, write_whole
from utils.files.rasters import Raster


class MaskRows:
    """The rows of a mask so far, on disk.

    Args:
        target: The result that they will become.
        width: Pixels of a row.
        dtype: Of a pixel.
        meaning: What the rows are made from, as JSON has it. Rows of another meaning under the same
            name are thrown away when the first of these are ready, not before.

    Raises:
        ResourceError: Another run is working on the same result.
    """

    def __init__(
        self, target: Path, *, width: int, dtype: np.dtype[Any], meaning: Mapping[str, Any]
    ) -> None:
        self._data = target.with_name(f".{target.name}.partial")
        self._description = target.with_name(f".{target.name}.json.partial")
        self._meaning = json.dumps(meaning)
        self._width = width
        self.dtype = dtype
        self._file = self._data.open("ab")
        if claim(self._file, inherited=True) is False:  # `read` opens the file once more
            self._file.close()
            raise ResourceError(
                f"{target}: another run is working on it\n  fix: another --output, or wait"
            )
        self._continued = _text(self._description) == self._meaning

    def __len__(self) -> int:
        if not self._continued:
            return 0
        return self._file.seek(0, os.SEEK_END) // (self._width * self.dtype.itemsize)

    def take_up(self, tops: Sequence[int], height: int) -> int:
        """Keep all rows of a complete mask, else those above one of `tops`; returns how many."""
        done = len(self)
        if done < height:
            done = max(top for top in tops if top <= done)
            self.cut(done)
        return done

    def cut(self, rows: int) -> None:
        """Keep the first `rows` only."""
        if self._continued:
            self._file.truncate(rows * self._width * self.dtype.itemsize)

    def append(self, rows: np.ndarray) -> None:
        """Add finished rows (rows, width); they survive the death of the process."""
        if not self._continued:
            self._file.truncate(0)  # first: a kill must not leave old rows under a new meaning
            write_whole(self._description, lambda path: path.write_text(self._meaning))
            self._continued = True
        self._file.write(np.ascontiguousarray(rows, self.dtype).data)
        self._file.flush()

    def read(self, top: int, bottom: int) -> np.ndarray:
        """Rows `top` to `bottom` (exclusive)."""
        line = self._width * self.dtype.itemsize
        count = (bottom - top) * self._width
        flat = np.fromfile(self._data, self.dtype, count, offset=top * line)
        return flat.reshape(bottom - top, self._width)

    def close(self) -> None:
        """Close the file; what it holds stays for a later run."""
        self._file.close()

    def remove(self) -> None:
        """Close and delete: the result has them."""
        self._file.close()
        self._data.unlink(missing_ok=True)
        self._description.unlink(missing_ok=True)


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return None


def finish(
    rows: MaskRows, target: Path, raster: Raster, palette: Sequence[Color], save: Save
) -> None:
    """Turn complete rows into the result, a TIFF that lies where the image lies."""
    save(
        target,
        lambda path: write_mask_tiff(
            path,
            rows.read,
            size=raster.size,
            dtype=rows.dtype,
            palette=palette,
            tags=raster.tags,
        ),
    )
    rows.remove()

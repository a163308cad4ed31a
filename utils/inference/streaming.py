"""An image larger than memory, segmented a band of windows at a time, and taken up after a kill.

Finished rows of the mask are appended to a plain file beside the result; its length says how far
the work has come. A small description beside it names the image, the weights and the settings, so
that rows of another run are never continued. At the end the rows become a tiled TIFF and both files
go.
"""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from utils.drawing.palette import Color
from utils.errors import ResourceError
from utils.files.lock import claim
from utils.files.outputs import Save, write_whole
from utils.files.rasters import Raster, write_mask_tiff
from utils.inference.predictor import class_ids
from utils.inference.tiles import Axis, Grid, bands

_SAID_EVERY = 10.0  # seconds between two lines of progress


class Rows(Protocol):
    """The finished rows of a mask, from the top."""

    def __len__(self) -> int: ...

    def cut(self, rows: int) -> None:
        """Keep the first `rows` only."""

    def append(self, rows: np.ndarray) -> None:
        """Add finished rows (rows, width)."""


class MemoryRows:
    """The rows of a mask in memory.

    Args:
        size: (height, width).
        dtype: Of a pixel.
    """

    def __init__(self, size: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self.mask = np.empty(size, dtype)
        self._done = 0

    def __len__(self) -> int:
        return self._done

    def cut(self, rows: int) -> None:
        """Keep the first `rows` only."""
        self._done = rows

    def append(self, rows: np.ndarray) -> None:
        """Add finished rows (rows, width)."""
        self.mask[self._done : self._done + len(rows)] = rows
        self._done += len(rows)


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


def fill(
    rows: Rows,
    predict: Callable[[Tensor], Tensor],
    read: Callable[[int, int], Tensor],
    windows: Grid,
    *,
    batch_size: int,
    store: torch.device | None,
    say: Callable[[str], None],
    void: Callable[[int], np.ndarray | None] = lambda _top: None,
) -> None:
    """Predict all rows that are not there yet.

    Args:
        rows: Where finished rows go.
        predict: Maps windows (B, C, h, w) to logits.
        read: `read(top, bottom)` gives rows of the image, (1, C, bottom - top, W).
        windows: The windows of the image.
        batch_size: Windows a call of `predict`.
        store: Device of the sums.
        say: Told now and then how far it has come.
        void: Which pixels of the rows that `read` gave from a row on have no value; None: none.
    """
    height = windows.rows.size
    begin = height
    if len(rows) < height:
        begin = max(top for top in windows.rows.starts if top <= len(rows))
        rows.cut(begin)
    if begin:
        say(f"taken up again at row {begin} of {height}")
    if begin == height:
        return
    started = said = time.monotonic()
    with ThreadPoolExecutor(1) as reader:
        ahead = _read_ahead(read, windows.rows, begin, reader)
        for top, logits in bands(
            predict, ahead, windows, batch_size=batch_size, store=store, begin=begin
        ):
            mask = class_ids(logits)[0].cpu().numpy()
            if (nothing := void(top)) is not None:
                mask[nothing[: len(mask)]] = -1  # in an unsigned dtype the highest value
            rows.append(mask)
            done = top + logits.shape[2]
            now = time.monotonic()
            if now - said > _SAID_EVERY:
                said = now
                left = (now - started) * (height - done) / (done - begin)
                say(f"row {done} of {height}, {left:.0f} s left")


def _read_ahead(
    read: Callable[[int, int], Tensor], rows: Axis, begin: int, reader: ThreadPoolExecutor
) -> Callable[[int, int], Tensor]:
    """`read`, which decodes the rows after the ones asked for while those are worked on."""
    strips = deque((top, top + rows.window) for top in rows.starts if top + rows.window > begin)
    waiting = deque([reader.submit(read, *strips.popleft())])

    def ahead(_top: int, _bottom: int) -> Tensor:
        ready = waiting.popleft().result()
        if strips:
            waiting.append(reader.submit(read, *strips.popleft()))
        return ready

    return ahead


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

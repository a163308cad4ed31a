"""Decoded pixels kept for the next epoch: in memory, or in files that are mapped into memory.

Both are shared by the workers of a run. Files are also shared by runs: each is written beside its
name and renamed, so that nobody sees half of one, and holds the size and time of its sources, so
that a changed file is read anew.
"""

import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from utils.errors import ResourceError
from utils.files.outputs import write_whole
from utils.hardware.memory import free_memory

Pixels = tuple[np.ndarray, np.ndarray]
_HEADER = 4096  # one page: pixels begin at a page's start
_ALIGN = 64
_FORMAT = 2
_GIB = 2**30
_MARGIN = 0.9  # of what is free: others need some too


class PixelCache(Protocol):
    """Keeps an image (H, W, C) and its mask of train ids (H, W) by position."""

    def get(self, index: int, load: Callable[[int], Pixels]) -> Pixels:
        """Return what is kept for `index`; what is not, is loaded and kept. Read-only."""


def _nbytes(size: tuple[int, int], channels: int, item: int, mask_item: int) -> tuple[int, int]:
    pixels = size[0] * size[1]
    image = pixels * channels * item
    return image + (-image) % _ALIGN, pixels * mask_item


def _gib(count: float) -> str:
    return f"{count / _GIB:.1f} GiB"


def require_memory(needed: int, *, images: int, processes: int = 1) -> None:
    """Raise ResourceError unless this machine has `needed` bytes for all processes together."""
    free = free_memory()
    if needed > _MARGIN * free:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise ResourceError(
            f'"cache": "ram" needs {_gib(needed)} for {images} decoded images{each}, '
            f"but {_gib(free)} of memory are free\n"
            '  fix: "cache": "disk", or no cache'
        )


class RamCache:
    """One anonymous shared mapping, made before the workers are forked and filled by all of them.

    Two workers that fill one place at a time write the same bytes.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        *,
        channels: int,
        dtype: np.dtype,
        mask_dtype: np.dtype,
    ) -> None:
        """Reserve room for images of these (height, width).

        Raises:
            ResourceError: They would not fit into the memory that is free.
        """
        self._sizes = sizes
        self._channels, self._dtype, self._mask_dtype = channels, dtype, mask_dtype
        self._starts = [len(sizes) + (-len(sizes)) % _ALIGN]
        for size in sizes:
            parts = _nbytes(size, channels, dtype.itemsize, mask_dtype.itemsize)
            self._starts.append(self._starts[-1] + sum(parts) + (-parts[1]) % _ALIGN)
        require_memory(self._starts[-1], images=len(sizes))
        self._memory = mmap.mmap(-1, self._starts[-1])
        self._filled = np.frombuffer(self._memory, np.uint8, len(sizes))

    def get(self, index: int, load: Callable[[int], Pixels]) -> Pixels:
        """Return what is kept for `index`; what is not, is loaded and kept."""
        image, mask = self._views(index)
        if not self._filled[index]:
            loaded_image, loaded_mask = load(index)
            if loaded_mask.shape != mask.shape:
                return loaded_image, loaded_mask  # the file changed since the sizes were read
            image[...], mask[...] = loaded_image, loaded_mask
            self._filled[index] = 1
        return image, mask

    def _views(self, index: int) -> Pixels:
        height, width = self._sizes[index]
        start = self._starts[index]
        shape = (height, width, self._channels)
        image_bytes, _ = _nbytes(
            (height, width), self._channels, self._dtype.itemsize, self._mask_dtype.itemsize
        )
        image = np.ndarray(shape, self._dtype, self._memory, start)
        return image, np.ndarray(
            (height, width), self._mask_dtype, self._memory, start + image_bytes
        )


class DiskCache:
    """One file a pair, mapped when it is read."""

    def __init__(
        self, folder: Path, sources: Sequence[tuple[Path, ...]], *, recipe: str, total_bytes: int
    ) -> None:
        """Keep the pixels of `sources` in `folder`.

        Args:
            folder: Made if it is not there.
            sources: The files that each entry is read from.
            recipe: Whatever else the pixels depend on; another recipe has other entries.
            total_bytes: What all entries take.

        Raises:
            ResourceError: The folder cannot be made, or its disk has too little room.
        """
        self._folder, self._sources, self._recipe = folder, sources, recipe
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise ResourceError(
                f'"cache": "disk" cannot use {folder}: {error.strerror}\n'
                '  fix: set "cache_dir" to a folder that can be written'
            ) from error
        held = sum(self._path(index).exists() for index in range(len(sources)))
        needed = total_bytes * (len(sources) - held) / max(len(sources), 1)
        if needed > _MARGIN * free:
            raise ResourceError(
                f'"cache": "disk" needs {_gib(needed)} for {len(sources) - held} decoded images, '
                f"but {folder} has {_gib(free)} free\n"
                '  fix: set "cache_dir" to a larger disk, or leave the cache out'
            )

    def get(self, index: int, load: Callable[[int], Pixels]) -> Pixels:
        """Return what is kept for `index`; what is not or has changed, is loaded and kept."""
        path, stamp = self._path(index), self._stamp(index)
        kept = _read_entry(path, stamp)
        if kept is not None:
            return kept
        image, mask = load(index)
        # What was read may be older than the stamp if the file changed in between: the next
        # reader then sees another stamp and reads again.
        _write_entry(path, stamp, image, mask)
        return image, mask

    def _path(self, index: int) -> Path:
        names = "\0".join([self._recipe, *map(str, self._sources[index])])
        digest = hashlib.sha256(names.encode(errors="surrogatepass"))  # a name need not be UTF-8
        return self._folder / f"{digest.hexdigest()[:32]}.pixels"

    def _stamp(self, index: int) -> list[list[int]]:
        stats = [path.stat() for path in self._sources[index]]
        return [[stat.st_size, stat.st_mtime_ns] for stat in stats]


def _read_entry(path: Path, stamp: list[list[int]]) -> Pixels | None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        try:
            facts = json.loads(file.read(_HEADER))
            if facts["format"] != _FORMAT or facts["stamp"] != stamp:
                return None
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            image = np.ndarray(tuple(facts["shape"]), facts["dtype"], mapped, _HEADER)
            mask = np.ndarray(image.shape[:2], facts["mask_dtype"], mapped, facts["mask_at"])
        except (KeyError, TypeError, ValueError):  # damaged, or cut short by a power loss
            return None
    return image, mask


def _write_entry(path: Path, stamp: list[list[int]], image: np.ndarray, mask: np.ndarray) -> None:
    image_bytes = image.nbytes + (-image.nbytes) % _ALIGN
    facts = {
        "format": _FORMAT,
        "stamp": stamp,
        "shape": image.shape,
        "dtype": image.dtype.name,
        "mask_dtype": mask.dtype.name,
        "mask_at": _HEADER + image_bytes,
    }

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            file.write(json.dumps(facts).encode().ljust(_HEADER))
            file.write(np.ascontiguousarray(image).data)
            file.write(b"\0" * (image_bytes - image.nbytes))
            file.write(np.ascontiguousarray(mask).data)

    try:
        write_whole(path, write)
    except OSError as error:
        raise ResourceError(
            f"{path}: the cache cannot be written: {error.strerror}\n"
            '  fix: make room, set "cache_dir" to a larger disk, or leave the cache out'
        ) from error


def default_folder() -> Path:
    """Return where decoded pixels go unless the config says otherwise."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # no HOME and no entry in the passwd file, as in some containers
        base = tempfile.gettempdir()
    return Path(base) / "segmentation" / "pixels"

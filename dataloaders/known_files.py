"""What earlier runs found out about files; it holds as long as a file keeps its size and time.

To open all headers of a large data set takes minutes, on a slow share an hour.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from base.base_dataset import BaseDataset
from utils.data.pixel_cache import default_folder
from utils.errors import DataError
from utils.files.outputs import write_whole
from utils.run.progress import progress

log = logging.getLogger("segmentation")

_FORMAT = 1  # to be raised when what was found sound may no longer be
_THREADS = 32  # more than cores: they wait for a disk or the network
_A_TASK = 64  # files
_MANY = 1000  # files whose reading is announced


def read_sizes(dataset: BaseDataset) -> list[str]:
    """Tell a data set the sizes of its images, or return what is wrong with their headers."""
    found = known(
        [pair.image for pair in dataset.pairs],
        lambda index: list(dataset.size(index)),
        about=f"size {type(dataset)} {len(dataset.mean)} {dataset.input_dtype}",
        title="HEADERS",
    )
    problems = [str(size) for size in found if isinstance(size, Exception)]
    if not problems:
        dataset.image_sizes = [(height, width) for height, width in found]
    return problems


def known(
    files: Sequence[Path], read: Callable[[int], Any], *, about: str, title: str
) -> list[Any]:
    """Find something out about each file, unless it is remembered of the same file.

    Args:
        files: The files.
        read: Gets a position in `files`; runs in threads. What it returns must outlive JSON.
        about: Names what is found out, and what that depends on beside the file.
        title: Of the progress bar.

    Returns:
        What `read` returned, now or earlier, or the DataError or OSError that it raised now.
    """
    if not files:
        return []
    # First: what changes while it is read is read again the next time.
    keys = [f"{stamp} {file.absolute()}" for stamp, file in zip(stamps(files), files, strict=True)]
    place = hashlib.sha256(os.fsencode(f"{_FORMAT} {about} {files[0].absolute().parent}"))
    memory_file = default_folder().parent / "files" / f"{place.hexdigest()[:32]}.json"
    memory = _load(memory_file)
    unknown = [index for index, key in enumerate(keys) if key not in memory]
    if len(unknown) >= _MANY:
        log.info("%s: reading %d of %d files", title, len(unknown), len(files))
    found = dict(zip(unknown, _by_threads(read, unknown, title), strict=True))
    sound = {keys[i]: one for i, one in found.items() if not isinstance(one, Exception)}
    if sound:
        _save(memory_file, memory | sound)
    return [found[i] if i in found else memory[key] for i, key in enumerate(keys)]


def stamps(files: Sequence[Path]) -> list[str]:
    """Return size in bytes and time of change in ns of each file, or why it has none."""

    def stamp(index: int) -> str:
        status = files[index].stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    return list(map(str, _by_threads(stamp, range(len(files)), "FILES")))


def _by_threads(work: Callable[[int], Any], indices: Sequence[int], title: str) -> list[Any]:
    def caught(index: int) -> Any:
        try:
            return work(index)
        except (DataError, OSError) as error:
            return error

    tasks = [indices[start : start + _A_TASK] for start in range(0, len(indices), _A_TASK)]
    results = []
    pool = ThreadPoolExecutor(_THREADS)
    try:
        found = pool.map(lambda task: list(map(caught, task)), tasks)
        for done in progress(found, title, len(tasks)):
            results += done
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    return results


def _load(file: Path) -> dict[str, Any]:
    try:
        memory = json.loads(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # none yet, or damaged
        return {}
    return memory if isinstance(memory, dict) else {}


def _save(file: Path, memory: dict[str, Any]) -> None:
    newest = {key.split(" ", 2)[-1]: key for key in memory}  # of a file that changed, one stays
    text = json.dumps({key: memory[key] for key in newest.values()})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda path: path.write_text(text, encoding="ascii"))
    except OSError as error:
        log.info("what was read is not remembered in %s (%s)", file.parent, error.strerror)

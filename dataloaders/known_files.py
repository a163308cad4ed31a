"""What earlier runs found out about files; it holds as long as a file keeps its size and time.

To open the headers of a large data set takes minutes, on a slow share an hour; to ask for sizes and
times takes seconds.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from base.base_dataset import BaseDataset
from utils.data.pixel_cache import default_folder
from utils.errors import DataError
from utils.files.outputs import write_whole
from utils.run.progress import ProgressBar

log = logging.getLogger("segmentation")

Item = TypeVar("Item")
Result = TypeVar("Result")

_FORMAT = 1  # to be raised when what was found sound may no longer be
_THREADS = 32  # more than cores: they wait for a disk or the network
_A_TASK = 64  # files
_MANY = 1000  # files whose reading is announced


def read_sizes(dataset: BaseDataset) -> list[str]:
    """Tell a data set the sizes of its images; headers of files that changed are opened.

    Returns:
        What is wrong with headers. Where something is, the data set is told nothing.
    """
    kind = type(dataset)
    found = known(
        [pair.image for pair in dataset.pairs],
        lambda index: list(dataset.size(index)),
        about=f"size {kind.__module__} {kind.__name__} {len(dataset.mean)} {dataset.input_dtype}",
        title="HEADERS",
    )
    problems = [str(size) for size in found if isinstance(size, DataError)]
    if not problems:
        dataset.image_sizes = [(size[0], size[1]) for size in found]
    return problems


def known(
    files: Sequence[Path], read: Callable[[int], Any], *, about: str, title: str
) -> list[Any]:
    """Find something out about each file, unless it is remembered of the same file.

    Args:
        files: The files.
        read: Gets a position in `files`; runs in threads. What it returns must outlive JSON and is
            not None.
        about: Names what is found out, and what that depends on beside the file.
        title: Of the progress bar.

    Returns:
        What `read` returned, now or earlier, or the DataError that it raised now.
    """
    if not files:
        return []
    # First: what changes while it is read is read again the next time.
    keys = [f"{stamp} {file.absolute()}" for stamp, file in zip(stamps(files), files, strict=True)]
    memory_file = _memory_file(files[0].absolute().parent, about)
    memory = _load(memory_file)
    results = [memory.get(key) for key in keys]
    unknown = [index for index, result in enumerate(results) if result is None]
    if not unknown:
        return results
    if len(unknown) >= _MANY:
        log.info("%s: reading %d of %d files", title, len(unknown), len(files))

    def caught(index: int) -> Any:
        try:
            return read(index)
        except DataError as error:
            return error

    for index, result in zip(unknown, _by_threads(caught, unknown, title), strict=True):
        results[index] = result
        if not isinstance(result, DataError):
            memory[keys[index]] = result
    _save(memory_file, memory)
    return results


def stamps(files: Sequence[Path]) -> list[str]:
    """Return size in bytes and time of the last change in ns of each file, "" of none."""
    return _by_threads(_stamp, files, "FILES")


def _stamp(file: Path) -> str:
    try:
        status = file.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _by_threads(work: Callable[[Item], Result], items: Sequence[Item], title: str) -> list[Result]:
    tasks = [items[start : start + _A_TASK] for start in range(0, len(items), _A_TASK)]
    results: list[Result] = []
    pool = ThreadPoolExecutor(_THREADS)
    with closing(ProgressBar(title, len(items))) as bar:
        try:
            for done in pool.map(lambda task: [work(item) for item in task], tasks):
                results += done
                for _ in done:
                    bar.advance()
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    return results


def _memory_file(folder: Path, about: str) -> Path:
    digest = hashlib.sha256(os.fsencode(f"{_FORMAT}\0{about}\0{folder}")).hexdigest()
    return default_folder().parent / "files" / f"{digest[:32]}.json"


def _load(file: Path) -> dict[str, Any]:
    try:
        memory = json.loads(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # none yet, or damaged
        return {}
    return memory if isinstance(memory, dict) else {}


def _save(file: Path, memory: dict[str, Any]) -> None:
    newest = {key.split(" ", 2)[-1]: key for key in memory}  # of a file that changed, one stays
    memory = {key: memory[key] for key in newest.values()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda path: path.write_text(json.dumps(memory), encoding="ascii"))
    except OSError as error:
        log.info("what was read is not remembered in %s (%s)", file.parent, error.strerror)

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
from pathlib import Path
from typing import Any, TypeVar

from base.base_dataset import BaseDataset
from utils.data.pixel_cache import default_folder
from utils.errors import DataError
from utils.files.outputs import write_whole
from utils.run.progress import Progress

log = logging.getLogger("segmentation")

Item = TypeVar("Item")
Result = TypeVar("Result")
Stamp = list[int]  # size in bytes, time of the last change in ns

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
        read: Gets a position in `files`; runs in threads. What it returns must outlive JSON.
        about: Names what is found out, and what that depends on beside the file.
        title: Of the progress bar.

    Returns:
        What `read` returned, now or earlier, or the DataError that it raised now.
    """
    if not files:
        return []
    names = [str(file.absolute()) for file in files]
    memory_file = _memory_file(files[0].absolute().parent, about)
    memory = _load(memory_file)
    now = stamps(files)  # first: what changes while it is read is read again the next time
    rows = [memory.get(name, (None, None)) for name in names]
    unknown = [index for index, row in enumerate(rows) if row[0] is None or row[0] != now[index]]
    if len(unknown) >= _MANY:
        log.info("%s: reading %d of %d files", title, len(unknown), len(files))

    def caught(index: int) -> Any:
        try:
            return read(index)
        except DataError as error:
            return error

    results = [result for _, result in rows]
    for index, result in zip(unknown, _by_threads(caught, unknown, title), strict=True):
        results[index] = result
        if not isinstance(result, DataError):
            memory[names[index]] = (now[index], result)
    if unknown:
        _save(memory_file, memory)
    return results


def stamps(files: Sequence[Path]) -> list[Stamp | None]:
    """Return size and time of each file; None where there is none."""
    return _by_threads(_stamp, files, "FILES")


def _stamp(file: Path) -> Stamp | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _by_threads(work: Callable[[Item], Result], items: Sequence[Item], title: str) -> list[Result]:
    tasks = [items[start : start + _A_TASK] for start in range(0, len(items), _A_TASK)]
    results: list[Result] = []
    bar = Progress(title, len(items))
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for done in pool.map(lambda task: [work(item) for item in task], tasks):
            results += done
            for _ in done:
                bar.advance()
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
        bar.close()
    return results


def _memory_file(folder: Path, about: str) -> Path:
    digest = hashlib.sha256(os.fsencode(f"{_FORMAT}\0{about}\0{folder}")).hexdigest()
    return default_folder().parent / "files" / f"{digest[:32]}.json"


def _load(file: Path) -> dict[str, tuple[Stamp | None, Any]]:
    try:
        rows = json.loads(file.read_text(encoding="ascii"))
        return {name: (stamp, result) for name, (stamp, result) in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or damaged
        return {}


def _save(file: Path, memory: dict[str, tuple[Stamp | None, Any]]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda path: path.write_text(json.dumps(memory), encoding="ascii"))
    except OSError as error:
        log.info("what was read is not remembered in %s (%s)", file.parent, error.strerror)

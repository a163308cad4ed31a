"""Checkpoints: plain types in one file, written so that a kill leaves the old one or the new one.

A file holds dicts, lists, strings, numbers, booleans, None and tensors, nothing else, so that it
loads with `weights_only=True` and nothing allow-listed. Loading verifies the checksums that
`torch.save` writes and `torch.load` ignores.
"""

import io
import os
import pickle
import platform
import re
import shutil
import stat
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from utils.errors import CheckpointError, ResourceError
from utils.files.outputs import write_whole

FORMAT_VERSION = 1
Plain = dict | list | str | int | float | bool | None | torch.Tensor

_REQUIRED = ("arch", "config", "state_dict", "classes", "palette", "mean", "std", "ignore_index")

# What torch's unpickler raises over bytes that it does not understand.
_UNREADABLE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
_REQUIRED_TO_RESUME = (
    "epoch",
    "iteration",
    "step",
    "optimizer",
    "scaler",
    "ema",
    "monitor_best",
    "monitor_epochs",
    "running",
    "log_bytes",
)


def save(paths: Sequence[Path], content: Mapping[str, object]) -> None:
    """Write a checkpoint durably: temporary file, fsync, rename, fsync of the folder.

    Args:
        paths: The files that get this content; each is replaced as a whole or left as it was.
        content: Plain types and tensors; NumPy scalars and tuples are converted.

    Raises:
        TypeError: A value that is neither plain nor a tensor (a fault of ours).
        ResourceError: The disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()
    versions = {"torch": str(torch.__version__), "python": platform.python_version()}
    about = {"format_version": FORMAT_VERSION, "versions": versions}
    torch.save(to_plain(about | dict(content)), buffer)
    for path in paths:
        write_durably(path, buffer.getbuffer())


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Replace `path` by `data` so that a kill or a power loss leaves the old or the new content.

    Raises:
        ResourceError: The disk is full or the folder cannot be written; the old file is kept.
    """

    def write(temporary: Path) -> None:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    try:
        write_whole(path, write)
        _sync_folder(path.parent)
    except OSError as error:
        raise ResourceError(
            f"cannot write {path}: {error.strerror or error}\n"
            f"  needed: {len(data):,} bytes, free: {_free_bytes(path.parent)}\n"
            "  what was saved before is untouched; free some space or set trainer.save_dir "
            "to another disk, then --resume"
        ) from error


def load(path: Path | str) -> dict:
    """Read a checkpoint onto the CPU and verify it.

    Args:
        path: A file that `save` wrote.

    Returns:
        The content, tensors on the CPU.

    Raises:
        CheckpointError: Missing, damaged, foreign, or from a newer version.
    """
    path = Path(path)
    _verify_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # over bytes that are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # The rest of torch's message advises to load it unsafely.
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise CheckpointError(
            f"{path}: refused: it holds {found[1] if found else 'foreign objects'}, more than "
            "tensors and plain values, and loading it could run code\n"
            "  expected: a checkpoint of this program; a file of pytorch-segmentation is converted "
            "by tools/import_checkpoint.py"
        ) from error
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({reason})") from error
    _verify_content(path, content)
    return content


def to_plain(value: Any) -> Plain:
    """Convert NumPy scalars, tuples and mappings to plain types, tensors to the CPU.

    Raises:
        TypeError: Anything else, since it could not be loaded safely.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {_plain_key(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return to_plain(value.item())
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}: {value!r}")


def _plain_key(key: Any) -> str | int:
    if type(key) not in (str, int):
        raise TypeError(f"a checkpoint cannot hold the key {key!r}")
    return key


def _verify_file(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror})\n"
            "  expected: a file that train.py wrote: best_model.pth, last.pth or checkpoint-*.pth "
            "in saved/<name>/<date>/"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: not a file; give a .pth file")
    try:
        with zipfile.ZipFile(path) as archive:
            # torch stores its records uncompressed; a compressed one could unpack to any size.
            packed = [
                i.filename for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED
            ]
            damaged = packed[0] if packed else archive.testzip()
    except (zipfile.BadZipFile, *_UNREADABLE) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint, or cut short ({status.st_size:,} bytes; {error})\n"
            "  take an older file of the same run folder, or give the folder to --resume"
        ) from error
    if damaged is not None:
        raise CheckpointError(
            f"{path}: damaged: the checksum of {damaged} does not match its content\n"
            "  take an older file of the same run folder, or give the folder to --resume"
        )


def _verify_content(path: Path, content: object) -> None:
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a checkpoint: it holds a {type(content).__name__}")
    version = content.get("format_version")
    if version is None:
        keys = ", ".join(sorted(str(key) for key in content)[:5])
        raise CheckpointError(
            f"{path}: not a checkpoint of this program (it holds: {keys}, ...)\n"
            "  a file of pytorch-segmentation is converted by tools/import_checkpoint.py"
        )
    if type(version) is not int or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: written by format version {version}, this program reads up to "
            f"{FORMAT_VERSION}; update the program"
        )
    more = _REQUIRED_TO_RESUME if content.get("kind") == "training" else ()
    missing = [key for key in (*_REQUIRED, *more) if key not in content]
    if missing:
        raise CheckpointError(f"{path}: incomplete: {', '.join(missing)} missing")


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows has no handle of a folder to sync
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _free_bytes(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free:,} bytes"
    except OSError:
        return "unknown"

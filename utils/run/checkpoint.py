"""Checkpoints: plain types in one file, written so that a kill leaves the old one or the new one.

A file holds dicts, lists, strings, numbers, booleans, None and tensors, nothing else, so that it
loads with `weights_only=True` and nothing allow-listed.
"""

import errno
import io
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from utils.config.config import Config, parse_config
from utils.errors import CheckpointError, ConfigError, ResourceError
from utils.files import tensor_files
from utils.files.outputs import write_whole
from utils.run.checkpoint_schema import fault_in

FORMAT_VERSION = 1
Plain = dict | list | str | int | float | bool | None | torch.Tensor


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
        sync_folder(path.parent)
    except OSError as error:
        raise ResourceError(
            f"cannot write {path}: {error.strerror or error}\n"
            f"  needed: {len(data):,} bytes, free: {_free_bytes(path.parent)}\n"
            "  what was saved before is untouched; free some space or set trainer.save_dir "
            "to another disk, then --resume"
        ) from error


def require_room(folder: Path, needed: int) -> None:
    """Make sure that a disk has so many bytes free, where it tells.

    Raises:
        ResourceError: It has not.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return
    if free < needed:
        raise ResourceError(
            f"{folder}: too little room for checkpoints\n"
            f"  needed: {needed:,} bytes, free: {free:,} bytes\n"
            "  free some space or set trainer.save_dir to another disk"
        )


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
    content = tensor_files.read(path)
    _verify_content(path, content)
    return content


def config_in(content: Mapping[str, Any], path: Path, overrides: Sequence[str] = ()) -> Config:
    """Check the config of a checkpoint; with changes of `--set` they may be what is at fault."""
    try:
        source = f"the config in {path}"
        return parse_config(content["config"], source=source, overrides=overrides)
    except ConfigError as error:
        if overrides:
            raise
        raise CheckpointError(str(error)) from error


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
    if fault := fault_in(content, path):
        raise CheckpointError(f"{path}: {fault}")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if os.name == "nt":  # Windows has no handle of a folder to sync
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder above ours that may be entered but not listed
        return
    try:
        os.fsync(handle)
    except OSError as error:  # some network and FUSE file systems cannot; the file is sound
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _free_bytes(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free:,} bytes"
    except OSError:
        return "unknown"

"""Files of tensors, whoever wrote them: torch.save's, those from before torch 1.6, safetensors.

No code in them is run: `weights_only=True`, nothing allow-listed. The checksums that `torch.save`
writes and `torch.load` ignores are verified; the other two formats have none.
"""

import pickle
import re
import stat
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from utils.errors import CheckpointError

# What unpicklers raise over bytes that they do not understand.
_UNREADABLE = (
    *(AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, OverflowError),
    *(RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error),
    *(zipfile.BadZipFile, SafetensorError),
)
_ADVICE = "\n  take a sound copy, or an older file of its run folder (--resume takes the folder)"
_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def read(path: Path) -> Any:
    """Read a file onto the CPU: a `.pth` or safetensors by its content, whatever its name.

    Raises:
        CheckpointError: Missing, damaged, or more than tensors and plain values.
    """
    try:
        start = _first_bytes(path)
        if start[8:9] == b"{":
            return load_safetensors(path.read_bytes())
        if start.startswith(b"PK"):
            _verify_records(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # over bytes that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        # torch's own text advises to load the file unsafely; only its reason is of use.
        reason = (
            str(error).rsplit("WeightsUnpickler error: ", 1)[-1].strip() or type(error).__name__
        )
        if found := re.search(r"GLOBAL (\S+)", reason):
            raise CheckpointError(
                f"{path}: refused: it holds {found[1]}, more than tensors and plain values, and "
                "loading it could run code\n"
                "  a file of pytorch-segmentation is converted by tools/import_checkpoint.py; of "
                "others save the weights alone where they were made: torch.save(model.state_dict())"
            ) from error
        raise CheckpointError(
            f"{path}: not a checkpoint, or cut short ({path.stat().st_size:,} bytes; "
            f"{reason.splitlines()[0][:200]}){_ADVICE}"
        ) from error


def state_dict_of(content: object, path: Path) -> dict[str, Tensor]:
    """Find the weights in what `read` returned: the largest group of named tensors.

    That is all of it, or its entry `state_dict`, `model` and the like; the averaged one of two.

    Raises:
        CheckpointError: No tensors, or some that cannot be weights.
    """
    groups = [((len(found), "ema" in where), found) for where, found in _groups(content, "")]
    if not groups:
        kind = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content)
        raise CheckpointError(f"{path}: holds no weights; found: {str(kind)[:200]}")
    weights = max(groups, key=lambda group: group[0])[1]
    for name, tensor in weights.items():
        if fault := fault_of(tensor):
            raise CheckpointError(f"{path}: {name}: {fault}")
    return weights


def fault_of(tensor: Tensor) -> str | None:
    """What forbids to use a tensor of a file, whatever it is for."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.device.type != "cpu" or tensor.dtype not in _DTYPES:
        return f"a tensor of {tensor.dtype} on {tensor.device}, expected plain real numbers"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"{tensor.numel():,} numbers, more than the file holds"
    finite = torch.isfinite(tensor.float())
    return None if finite.all() else f"{int((~finite).sum()):,} of {finite.numel():,} not finite"


def _groups(content: object, where: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    entries = content if isinstance(content, Mapping) else {}
    if found := {k: v for k, v in entries.items() if isinstance(k, str) and isinstance(v, Tensor)}:
        yield where, found
    for key, value in entries.items() if where.count(".") < 2 else ():
        yield from _groups(value, f"{where}.{key}")


def _first_bytes(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path}: not a file; give a .pth or .safetensors file")
        with path.open("rb") as file:
            return file.read(9)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror})\n"
            "  expected: a .pth or .safetensors file; train.py writes best_model.pth, last.pth and "
            "checkpoint-*.pth to saved/<name>/<date>/"
        ) from error


def _verify_records(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        # torch stores its records uncompressed; a compressed one could unpack to any size.
        packed = [i.filename for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]
        if damaged := packed[0] if packed else archive.testzip():
            raise CheckpointError(
                f"{path}: damaged: the checksum of {damaged} does not match its content{_ADVICE}"
            )

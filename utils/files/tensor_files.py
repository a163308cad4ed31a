"""Files of tensors, whoever wrote them: torch.save's, those from before torch 1.6, safetensors.

No code in them is run: `weights_only=True`, nothing allow-listed. The checksums that `torch.save`
writes and `torch.load` ignores are verified; the other two formats have none.
"""

import re
import stat
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from utils.errors import CheckpointError

_ADVICE = "take a sound copy, or an older file of its run folder (--resume takes the folder)"
_MOST_VALUES, _DEEPEST = 1_000_000, 60  # a large training has ten thousand; a config, 50 levels
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
        if start[8:] == b"{":
            return load_safetensors(path.read_bytes())
        if start.startswith(b"PK"):
            _verify_records(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # over bytes that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # unpicklers raise whatever there is over bytes of another form
        raise CheckpointError(f"{path}: {_reason(error, path)}") from error


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return (
            f"cannot be read ({error.strerror})\n  expected: a .pth or .safetensors file; train.py "
            "writes best_model.pth, last.pth and checkpoint-*.pth to saved/<name>/<date>/"
        )
    # torch's own text advises to load the file unsafely; only its reason is of use.
    reason = str(error).rsplit("WeightsUnpickler error: ", 1)[-1].strip() or type(error).__name__
    if found := re.search(r"GLOBAL (\S+)", reason):
        return (
            f"refused: it holds {found[1]}, more than tensors and plain values, and loading it "
            "could run code\n  a file of pytorch-segmentation is converted by "
            "tools/import_checkpoint.py; of others torch.save(model.state_dict()) is enough"
        )
    if path.suffix == ".pt2":
        return "a model for torch.export.load\n  fix: its checkpoint, or an .onnx of export.py"
    if path.suffix == ".onnx":
        return "an ONNX file, not a checkpoint\n  fix: the checkpoint that it was exported from"
    size = f"{path.stat().st_size:,} bytes"
    return f"not a checkpoint, or cut short ({size}; {reason.splitlines()[0][:200]})\n  {_ADVICE}"


def weights_in(content: object, path: Path) -> dict[str, Tensor]:
    """Find the weights in what `read` returned: the largest group of named tensors.

    That is all of it, or its entry `state_dict`, `model` and the like; the averaged one of two.

    Raises:
        CheckpointError: No tensors, or some that cannot be weights.
    """
    groups: dict[tuple[Any, ...], dict[str, Tensor]] = defaultdict(dict)
    for where, value in leaves(content, path):
        if isinstance(value, Tensor) and where and isinstance(where[-1], str):
            groups[where[:-1]][where[-1]] = value
    if not groups:
        found = list(content) if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(f"{path}: holds no weights; found: {str(found)[:200]}")
    weights = groups[max(groups, key=lambda where: (len(groups[where]), "ema" in str(where)))]
    for name, tensor in weights.items():
        if fault := fault_of(tensor):
            raise CheckpointError(f"{path}: {name}: {fault}")
    return weights


def leaves(content: object, path: Path) -> Iterator[tuple[tuple[Any, ...], object]]:
    """All values that are no dict and no list, each after its keys.

    Raises:
        CheckpointError: Too many: parts that hold each other can stand for any number.
    """
    left: list[tuple[tuple[Any, ...], object]] = [((), content)]
    seen = 0
    while left:
        seen += 1
        where, value = left.pop()
        if seen + len(left) > _MOST_VALUES or len(where) > _DEEPEST:
            raise CheckpointError(f"{path}: not a checkpoint: more values or levels than any has")
        if isinstance(value, Mapping | list):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            left += [((*where, key), item) for key, item in items][::-1]
        else:
            yield where, value


def fault_of(tensor: Tensor) -> str | None:
    """What forbids to use a tensor of a file, whatever it is for."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.device.type != "cpu" or tensor.dtype not in _DTYPES:
        return f"a tensor of {tensor.dtype} on {tensor.device}, expected plain real numbers"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"{tensor.numel():,} numbers, more than the file holds"
    finite = torch.isfinite(tensor.float())
    return None if finite.all() else f"{int((~finite).sum()):,} of {finite.numel():,} not finite"


def _first_bytes(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):
        raise CheckpointError(f"{path}: not a file; give a .pth or .safetensors file")
    with path.open("rb") as file:
        return file.read(9)


def _verify_records(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        # torch stores its records uncompressed; a compressed one could unpack to any size.
        packed = [i.filename for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]
        if damaged := packed[0] if packed else archive.testzip():
            fault = f"damaged: the checksum of {damaged} does not match its content"
            raise CheckpointError(f"{path}: {fault}\n  {_ADVICE}")

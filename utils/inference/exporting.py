"""A trained network as one file that other programs run."""

import json
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from utils.data.normalize import Normalize
from utils.errors import CheckpointError, ConfigError

MINIMUM_SIDE = 33  # at 32 the deepest maps are 1 x 1, and the exporter takes that for a constant
_FREE_AXES = {0: "batch", 2: "height", 3: "width"}
_EXTRA = "  fix: pip install -r requirements-export.txt"

Runner = Callable[[np.ndarray], np.ndarray]


class Deployed(nn.Module):
    """Plain pixels in, logits or class ids out.

    Args:
        model: Maps normalized images to logits.
        checkpoint: Gives mean, std and dtype of the input.
        argmax: Answer with class ids (N, H, W), uint8 up to 256 classes, else int32.
    """

    def __init__(self, model: nn.Module, checkpoint: Mapping[str, Any], *, argmax: bool) -> None:
        super().__init__()
        dtype = checkpoint.get("input_dtype", "uint8")
        self.normalize = Normalize(checkpoint["mean"], checkpoint["std"], input_dtype=dtype)
        self.model = model
        self.argmax = argmax
        self.mask_dtype = torch.uint8 if len(checkpoint["classes"]) <= 256 else torch.int32

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, C, H, W) in the file's dtype to float32 (N, K, H, W), or to ids (N, H, W)."""
        logits = self.model(self.normalize(images)).float()
        return logits.argmax(1).to(self.mask_dtype) if self.argmax else logits


def describe(checkpoint: Mapping[str, Any], *, minimum_side: int) -> dict[str, str]:
    """What a user of the file needs to know, as metadata: JSON under each key."""
    names = ("arch", "config", "classes", "palette", "mean", "std", "ignore_index")
    values = {name: checkpoint[name] for name in names}
    values["input_dtype"] = checkpoint.get("input_dtype", "uint8")
    values["minimum_side"] = minimum_side
    return {name: json.dumps(value) for name, value in values.items()}


def trace(model: nn.Module, example: Tensor, *, free_sizes: bool) -> torch.export.ExportedProgram:
    """Record a network as a graph.

    Args:
        model: In eval mode.
        example: Any images (N, C, H, W); with free sizes N of at least 2.
        free_sizes: Batch, height and width may be others later (sides from `smallest_side`).

    Raises:
        ConfigError: The network fixes a size.
    """
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO) if free_sizes else None
    # Older torch (2.11, no longer 2.14) asks of each pooled side whether it divides evenly, and so
    # ties the graph to sides that do as the example's; // floors without asking.
    with mock.patch.object(torch._meta_registrations, "div_rtn", operator.floordiv, create=True):
        program = torch.export.export(
            model,
            (example,),
            dynamic_shapes=(free,) if free else None,
            # What cannot be proved beforehand, as that the shortcuts of a ResNet-D fit.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    lengths = {name: _lengths(program, axis) for axis, name in _FREE_AXES.items() if free}
    fixed = [name for name, (least, most) in lengths.items() if least == most]
    if fixed:
        height, width = example.shape[2:]
        raise ConfigError(
            f"this network cannot be exported for any size: it fixes {' and '.join(fixed)}\n"
            f"  fix: --size {height} {width}, which exports it for that size alone"
        )
    return program


def smallest_side(program: torch.export.ExportedProgram) -> int:
    """Return the least side that a graph takes: more where encoders round down, as ConvNeXt."""
    return max(MINIMUM_SIDE, *(_lengths(program, axis)[0] for axis in (2, 3)))


def _lengths(program: torch.export.ExportedProgram, axis: int) -> tuple[Any, Any]:
    """Return the least and the greatest length of an axis that a graph holds for."""
    (images,) = [node for node in program.graph.nodes if node.name == "images"]
    length = images.meta["val"].shape[axis]
    if isinstance(length, int):
        return length, length
    allowed = program.range_constraints[length.node.expr]
    return int(allowed.lower), allowed.upper


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, *, metadata: Mapping[str, str], output: str
) -> None:
    """Write a recorded network as ONNX.

    Args:
        program: What `trace` returned.
        path: The file.
        metadata: Kept in the file.
        output: Name of what comes out; what goes in is called "images".

    Raises:
        ConfigError: The packages for it are not installed.
    """
    try:
        import onnx  # noqa: F401  torch's exporter asks for it late and at length
        from onnxscript import opset18
    except ImportError as error:
        raise ConfigError(f"writing ONNX needs the package {error.name}\n{_EXTRA}") from error

    def remainder(self: Any, other: Any) -> Any:
        """Of integers by a size known only when the file runs, which torch's own cannot do."""
        return opset18.Mod(self, opset18.CastLike(other, self))

    made = torch.onnx.export(
        program,
        dynamo=True,
        input_names=["images"],
        output_names=[output],
        custom_translation_table={torch.ops.aten.remainder.Scalar: remainder},
        verbose=False,
    )
    assert made is not None
    made.model.metadata_props.update(metadata)
    made.save(path, external_data=False)


def onnx_session(path: Path) -> Any:
    """The file in onnxruntime, on the CPU.

    Raises:
        CheckpointError: It is missing, or no ONNX file.
        ConfigError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"{path} needs onnxruntime\n{_EXTRA}") from error
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # of its own kinds, which have no common base
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(f"{path}: not an ONNX file, or damaged ({reason})") from error


def onnx_runner(path: Path) -> Runner:
    """What runs an ONNX file; raises as `onnx_session`."""
    session = onnx_session(path)

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {"images": images})[0])

    return run


def program_runner(path: Path) -> Runner:
    """A file of torch.export, loaded afresh."""
    with path.open("rb") as file:
        return torch_runner(torch.export.load(file).module())


def torch_runner(model: Callable[[Tensor], Tensor]) -> Runner:
    """A network of this program."""

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    return run

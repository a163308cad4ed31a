"""A trained network as one file that other programs run, and the proof that it says the same."""

import json
import math
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from utils.data.normalize import Normalize
from utils.errors import CheckpointError, ConfigError, NumericError
from utils.hardware.memory import ran_out

MINIMUM_SIDE = 33  # at 32 the deepest maps are 1 x 1, and the exporter takes that for a constant
AGREEMENT = 0.999  # least share of pixels with the same class
LOGITS_BOUND = 1e-3  # of the largest logit; so near are all logits but the share below
_LOGITS_APART = 1e-3
_TRIES = 4
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
        """Of integers by a size known only when the file runs, which torch.s own cannot do."""
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
        return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
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


class Comparison(NamedTuple):
    """How two runners answer the same images."""

    shape: tuple[int, ...]  # (N, C, H, W)
    agreement: float  # share of pixels with the same class
    difference: float | None  # of 99.9 % of logits, as a share of the largest; None for class ids
    bound: float  # on the difference
    seconds: tuple[float, float]  # of the first and the second

    @property
    def equal(self) -> bool:
        """Within the bounds."""
        near = self.difference is None or self.difference <= self.bound
        return near and self.agreement >= AGREEMENT


def compare(
    reference: Runner,
    exported: Runner,
    images: np.ndarray,
    *,
    rounding: Callable[[], float] | None = None,
) -> Comparison:
    """Run both on images (N, C, H, W); times are the second call's, when all is warm.

    Args:
        reference: Answers with float32 logits (N, K, H, W), or with class ids (N, H, W).
        exported: Should answer the same.
        images: Plain pixels.
        rounding: How far the reference's logits move by rounding alone (`Rounding`), as a share of
            the largest. Asked where they differ by more than `LOGITS_BOUND`; twice that is allowed.

    Raises:
        NumericError: One of them does not take the images, or they answer different shapes.
    """
    answers, seconds = [], []
    for whose, runner in (("network", reference), ("exported file", exported)):
        try:
            runner(images)
        except Exception as error:  # of kinds of torch and onnxruntime, which have no common base
            if ran_out(error):
                raise
            raise NumericError(
                f"the {whose} does not take images {images.shape}: {str(error).splitlines()[0]}\n"
                "  fix: --size, which exports it for one size alone"
            ) from error
        started = time.perf_counter()
        answers.append(runner(images))
        seconds.append(time.perf_counter() - started)
    expected, found = answers
    if expected.shape != found.shape:
        raise NumericError(f"the exported file answers {found.shape}, expected {expected.shape}")
    difference, bound = None, LOGITS_BOUND
    if expected.dtype == np.float32:
        difference = _difference(expected, found)
        if bound < difference < math.inf and rounding is not None:
            bound = max(bound, 2 * rounding())
        expected, found = expected.argmax(1), found.argmax(1)
    agreement = float((expected == found).mean())
    return Comparison(images.shape, agreement, difference, bound, (seconds[0], seconds[1]))


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    apart = np.abs(expected - found).ravel()
    if not np.isfinite(apart).all():
        return math.inf
    kept = int(len(apart) * (1 - _LOGITS_APART))
    within = np.partition(apart, kept)[kept]
    return float(within) / max(float(np.abs(expected).max()), 1e-12)


class Rounding:
    """How far a network's logits move when its input moves in the last bit of float32.

    Not at all in most. But max pooling takes either of two values that are equal but for rounding,
    and where a network unpools (SegNet, ENet) the other place moves the logits around it. Few
    images have such a pair, so all proofs are asked: what moves one could have moved another.

    Args:
        deployed: The network.
        proofs: Plain images, each (N, C, H, W).
    """

    def __init__(self, deployed: Deployed, proofs: Sequence[np.ndarray]) -> None:
        self._deployed = deployed
        self._proofs = proofs

    def __call__(self) -> float:
        """The largest difference in a few tries, as `Comparison.difference`."""
        return self._largest

    @cached_property
    def _largest(self) -> float:
        model, generator = self._deployed.model, torch.Generator().manual_seed(0)
        largest = 0.0
        with torch.inference_mode():
            for images in self._proofs:
                pixels = self._deployed.normalize(torch.from_numpy(images))
                expected = model(pixels).numpy()
                for _ in range(_TRIES):
                    noise = torch.randn(pixels.shape, generator=generator)
                    moved = pixels * (1 + torch.finfo(torch.float32).eps * noise)
                    largest = max(largest, _difference(expected, model(moved).numpy()))
        return largest


def require_equal(comparisons: Sequence[Comparison], path: Path) -> None:
    """Raise NumericError when any comparison is out of bounds."""
    worst = min(comparisons, key=lambda one: (one.equal, one.agreement))
    if not worst.equal:
        raise NumericError(
            f"{path}: the exported network does not agree with the original\n"
            f"  at {worst.shape}: {worst.agreement:.3%} of pixels the same (at least "
            f"{AGREEMENT:.1%}), logits differ by {worst.difference or 0:.2g} of the largest (at "
            f"most {worst.bound:.2g})\n  nothing was written"
        )

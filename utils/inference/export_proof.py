"""The proof that an exported file answers as the network does."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from utils.errors import NumericError
from utils.hardware.memory import ran_out
from utils.inference.exporting import Deployed, Runner

AGREEMENT = 0.999  # least share of pixels with the same class
LOGITS_BOUND = 1e-3  # of the largest logit; so near are all logits but the share below
_LOGITS_APART = 1e-3
_TRIES = 4


class Comparison(NamedTuple):
    """How two runners answer the same images."""

    shape: tuple[int, ...]  # (N, C, H, W)
    agreement: float  # share of pixels with the same class
    difference: float | None  # of 99.9 % of logits, as a share of the largest; None for class ids
    bound: float  # on the difference
    least: float  # on the agreement
    seconds: tuple[float, float]  # of the first and the second

    @property
    def equal(self) -> bool:
        """Within the bounds."""
        near = self.difference is None or self.difference <= self.bound
        return near and self.agreement >= self.least


class Rounding(NamedTuple):
    """How far a network's answers move by rounding alone; the fields are those of `Comparison`."""

    difference: float
    agreement: float


def compare(
    reference: Runner,
    exported: Runner,
    images: np.ndarray,
    *,
    rounding: Callable[[], Rounding] | None = None,
) -> Comparison:
    """Run both on images (N, C, H, W); times are the second call's, when all is warm.

    Args:
        reference: Answers with float32 logits (N, K, H, W), or with class ids (N, H, W).
        exported: Should answer the same.
        images: Plain pixels.
        rounding: How far the reference's answers move by rounding alone (`rounding_of`). Asked
            where the two differ by more than is allowed; twice that is allowed then.

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
    difference, bound, least = None, LOGITS_BOUND, AGREEMENT
    if expected.dtype == np.float32:
        difference = _difference(expected, found)
        if bound < difference < math.inf and rounding is not None:
            bound = max(bound, 2 * rounding().difference)
        expected, found = expected.argmax(1), found.argmax(1)
    agreement = float((expected == found).mean())
    if agreement < least and rounding is not None:
        least = min(least, 1 - 2 * (1 - rounding().agreement))
    return Comparison(images.shape, agreement, difference, bound, least, (seconds[0], seconds[1]))


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    apart = np.abs(expected - found).ravel()
    if not np.isfinite(apart).all():
        return math.inf
    kept = int(len(apart) * (1 - _LOGITS_APART))
    within = np.partition(apart, kept)[kept]
    return float(within) / max(float(np.abs(expected).max()), 1e-12)


def rounding_of(deployed: Deployed, proofs: Sequence[np.ndarray]) -> Rounding:
    """How far a network's answers move when its input moves in the last bit of float32.

    Not at all in most. But max pooling takes either of two values that are equal but for rounding,
    and where a network unpools (SegNet, ENet) the other place moves the logits around it. Few
    images have such a pair, so all proofs are asked: what moves one could have moved another.

    Args:
        deployed: The network.
        proofs: Plain images, each (N, C, H, W).

    Returns:
        The largest difference and the lowest agreement in a few tries.
    """
    generator, largest, lowest = torch.Generator().manual_seed(0), 0.0, 1.0
    with torch.inference_mode():
        for images in proofs:
            pixels = deployed.normalize(torch.from_numpy(images))
            expected = deployed.model(pixels).numpy()
            for _ in range(_TRIES):
                noise = torch.randn(pixels.shape, generator=generator)
                moved = pixels * (1 + torch.finfo(torch.float32).eps * noise)
                found = deployed.model(moved).numpy()
                largest = max(largest, _difference(expected, found))
                lowest = min(lowest, float((expected.argmax(1) == found.argmax(1)).mean()))
    return Rounding(largest, lowest)


def require_equal(comparisons: Sequence[Comparison], path: Path) -> None:
    """Raise NumericError when any comparison is out of bounds."""
    worst = min(comparisons, key=lambda one: (one.equal, one.agreement))
    if not worst.equal:
        raise NumericError(
            f"{path}: the exported network does not agree with the original\n"
            f"  at {worst.shape}: {worst.agreement:.3%} of pixels the same (at least "
            f"{worst.least:.1%}), logits differ by {worst.difference or 0:.2g} of the largest (at "
            f"most {worst.bound:.2g})\n  nothing was written"
        )

"""Losses that are sums over pixels: cross-entropy and focal."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from utils.losses.contract import SegmentationLoss, divide


class PixelLoss(SegmentationLoss):
    """A sum over valid pixels, divided by the sum of their class weights.

    That sum is the effective batch's when the trainer supplies `denominator`, so that a batch split
    over processes and accumulation steps has the gradient of the undivided one.
    """

    divides_by_denominator = True

    def value(self, logits: Tensor, target: Tensor, denominator: float | None) -> Tensor:
        """The summed pixels over the divisor."""
        divisor = self.own_denominator(logits, target) if denominator is None else denominator
        return divide(self.pixels(logits, target).sum(), divisor)

    def pixels(self, logits: Tensor, target: Tensor) -> Tensor:
        """The weighted loss of each pixel, (N, H, W), 0 where void."""
        raise NotImplementedError

    def cross_entropy(
        self, logits: Tensor, target: Tensor, weight: Tensor | None = None, smoothing: float = 0.0
    ) -> Tensor:
        """The cross-entropy of each pixel, (N, H, W), 0 where void."""
        rows, labels = logits, target
        # On a CPU torch copies channels-last logits to the other layout, there and back. A row for
        # each pixel takes half the time if the classes fill a register (16 floats), else twice.
        last = logits.is_contiguous(memory_format=torch.channels_last)
        if logits.device.type == "cpu" and last and logits.shape[1] >= 16:
            rows, labels = logits.permute(0, 2, 3, 1).flatten(0, 2), target.flatten()
        # Unreduced on purpose: the summing form adds atomically on CUDA and is refused under
        # deterministic algorithms; on a CPU its backward also takes twice the time of this one.
        errors = F.cross_entropy(
            rows,
            labels,
            weight=weight,
            ignore_index=self.ignore_index,
            reduction="none",
            label_smoothing=smoothing,
        )
        return errors.view(target.shape)


class CrossEntropyLoss2d(PixelLoss):
    """Cross-entropy of each pixel, optionally smoothed, optionally of hard pixels only."""

    def __init__(
        self,
        *,
        label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0,
        ohem_threshold: Annotated[float, Gt(0), Le(1)] | None = None,
        ohem_min_kept: Annotated[float, Gt(0), Le(1)] = 0.0625,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        """Choose the variant.

        Args:
            label_smoothing: The share of the target that is spread evenly over all classes
                (Szegedy et al. 2016, arXiv:1512.00567, section 7).
            ohem_threshold: Keep only pixels whose own class has a probability below this
                (online hard example mining, Shrivastava et al. 2016, arXiv:1604.03540). The
                loss then divides by the class weights of the kept pixels of the micro-batch,
                not by `denominator`.
            ohem_min_kept: With a threshold, keep at least this share of the micro-batch's
                pixels: the hardest, as far as valid pixels go.
            ignore_index: The label of void pixels.
            class_weights: One weight a class.
        """
        super().__init__(ignore_index=ignore_index, class_weights=class_weights)
        self.label_smoothing = label_smoothing
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept
        self.divides_by_denominator = ohem_threshold is None

    def value(self, logits: Tensor, target: Tensor, denominator: float | None) -> Tensor:
        """The summed pixels over the divisor; with OHEM, those that are kept over their own."""
        if self.ohem_threshold is None:
            return super().value(logits, target, denominator)
        pixels = self.pixels(logits, target)
        hard = self._is_hard(logits.detach(), target)
        kept = torch.where(hard, target, self.ignore_index)
        return divide(torch.where(hard, pixels, 0.0).sum(), self.own_denominator(logits, kept))

    def pixels(self, logits: Tensor, target: Tensor) -> Tensor:
        """-w[y] log softmax(logits)[y], smoothed; 0 of a class that has no weight."""
        weights = self.weights_for(logits)
        errors = self.cross_entropy(logits, target, weights, self.label_smoothing)
        if weights is None or not self.label_smoothing:
            return errors
        # torch smooths these too, though they are not in the divisor, which may then be 0.
        own = weights[torch.where(target == self.ignore_index, 0, target)]
        return torch.where(own > 0, errors, 0.0)

    def _is_hard(self, logits: Tensor, target: Tensor) -> Tensor:
        """(N, H, W) bool: valid, and below the threshold or among the hardest."""
        assert self.ohem_threshold is not None
        void = target == self.ignore_index
        errors = self.cross_entropy(logits, target)
        count = max(1, round(self.ohem_min_kept * errors.numel()))
        hardest = errors.flatten().topk(count, sorted=False).values
        threshold = errors.new_tensor(self.ohem_threshold).log().neg()
        return (errors >= torch.minimum(hardest.min(), threshold)) & ~void


class FocalLoss(PixelLoss):
    """alpha (1 - p)^gamma times the cross-entropy of each pixel, p being its class's probability.

    Source: Lin et al. 2017 (arXiv:1708.02002), section 3. Equals cross-entropy at gamma 0.
    """

    def __init__(
        self,
        *,
        gamma: Annotated[float, Ge(0)] = 2.0,
        alpha: Annotated[float, Gt(0)] | tuple[Annotated[float, Ge(0)], ...] | None = None,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        """Choose how far easy pixels fade.

        Args:
            gamma: 0 leaves all pixels as they are.
            alpha: A factor for all classes, or one for each; it multiplies only. Class weights
                also enter the divisor, so their scale has no effect and that of alpha has.
            ignore_index: The label of void pixels.
            class_weights: One weight a class.
        """
        super().__init__(ignore_index=ignore_index, class_weights=class_weights)
        self.gamma = gamma
        factors = torch.tensor(1.0 if alpha is None else alpha)
        self.register_buffer("alpha", factors, persistent=False)
        self.alpha: Tensor

    def pixels(self, logits: Tensor, target: Tensor) -> Tensor:
        """-w[y] alpha[y] (1 - p[y])^gamma log p[y]."""
        errors = self.cross_entropy(logits, target)
        # 1 - p from the logarithm keeps its digits near p = 1; the bound keeps the slope of a
        # power below 1 finite at p = 1 exactly.
        doubt = (-torch.expm1(-errors)).clamp_min(torch.finfo(errors.dtype).tiny)
        losses = doubt**self.gamma * errors
        factors = self.alpha.to(losses)
        weights = self.weights_for(logits)
        if weights is not None:
            factors = factors * weights
        if factors.dim():
            factors = factors[torch.where(target == self.ignore_index, 0, target)]
        return losses * factors

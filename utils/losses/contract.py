"""What every loss agrees on: float32, void without influence, 0 with a graph when all is void."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SegmentationLoss(nn.Module):
    """A scalar objective over the pixels that carry a label.

    Subclasses write `value`; the contract is kept here. No loss reads a value back from the
    device (no `.item()`, no boolean indexing), so a training step never waits for one.
    """

    class_weights: Tensor | None
    divides_by_denominator: bool = False  # False: the loss of a micro-batch, averaged over them

    def __init__(
        self, *, ignore_index: int = 255, class_weights: Sequence[float] | None = None
    ) -> None:
        """Keep what all losses share.

        Args:
            ignore_index: The label of void pixels; any integer.
            class_weights: One non-negative weight a class, or None.
        """
        super().__init__()
        self.ignore_index = ignore_index
        weights = None if class_weights is None else torch.tensor(class_weights).float()
        self._host_weights = None if weights is None else weights.tolist()
        # Not persistent: a run may change its weights on resume, the config is what counts.
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self, logits: Tensor, target: Tensor, *, denominator: float | None = None
    ) -> Tensor:
        """The loss of one batch.

        Args:
            logits: (N, C, H, W) float; half precisions are computed in float32, float64 stays.
            target: (N, H, W) int64 in [0, C) or `ignore_index`; never modified.
            denominator: Of pixel losses over the whole effective batch (see `denominator`); None
                means the batch's own.

        Returns:
            A scalar, float32 or float64; 0 with a graph when no pixel is valid.
        """
        with torch.autocast(logits.device.type, enabled=False):
            if logits.dtype in (torch.float16, torch.bfloat16):
                logits = logits.float()
            return self.value(logits, target, denominator)

    def value(self, logits: Tensor, target: Tensor, denominator: float | None) -> Tensor:
        """What the subclass computes; arguments as in `forward`, outside autocast."""
        raise NotImplementedError

    def denominator(self, label_counts: Sequence[int]) -> float | None:
        """The divisor that this batch adds to the effective batch's.

        Args:
            label_counts: Valid pixels of each class.

        Returns:
            The sum of the class weights of the valid pixels (their count without weights); None
            for losses that do not divide by it.
        """
        return self.weighted_count(label_counts) if self.divides_by_denominator else None

    def weights_for(self, logits: Tensor) -> Tensor | None:
        """The class weights on the device and in the dtype of `logits`."""
        weights = self.class_weights
        return None if weights is None else weights.to(device=logits.device, dtype=logits.dtype)

    def own_denominator(self, logits: Tensor, target: Tensor) -> Tensor:
        """The sum of the class weights of this batch's valid pixels, as a scalar on the device."""
        valid = target != self.ignore_index
        weights = self.weights_for(logits)
        if weights is None:
            return valid.sum().to(logits.dtype)
        return (weights[torch.where(valid, target, 0)] * valid).sum()

    def weighted_count(self, label_counts: Sequence[int]) -> float:
        """The same sum as `own_denominator` from label counts, without the device."""
        weights = self._host_weights or [1.0] * len(label_counts)
        pairs = enumerate(zip(weights, label_counts, strict=True))
        return sum(weight * count for c, (weight, count) in pairs if c != self.ignore_index)


def divide(numerator: Tensor, denominator: Tensor | float) -> Tensor:
    """Their quotient, with 0 / 0 = 0 and a graph in both cases; both of one shape or scalar."""
    if isinstance(denominator, Tensor):
        return numerator / torch.where(denominator > 0, denominator, 1.0)
    return numerator / (denominator or 1.0)

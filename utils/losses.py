"""The table of losses, the pixel losses, and the wrapper for deep supervision."""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from utils.loss_contract import SegmentationLoss, divide


class PixelLoss(SegmentationLoss):
    """A sum over valid pixels, divided by the sum of their class weights.

    The divisor is the effective batch's when the trainer supplies `total`, so that a batch split
    over processes and accumulation steps has the gradient of the undivided one.
    """

    def total(self, label_counts: Tensor) -> Tensor | None:
        """The sum of the class weights of the valid pixels; their count without weights."""
        return self.weighted_count(label_counts)

    def value(self, logits: Tensor, target: Tensor, total: Tensor | None) -> Tensor:
        """The summed pixels over the divisor."""
        if total is None:
            total = self.own_total(logits, target)
        return divide(self.pixels(logits, target).sum(), total)

    def pixels(self, logits: Tensor, target: Tensor) -> Tensor:
        """The weighted loss of each pixel, (N, H, W), 0 where void."""
        raise NotImplementedError


class CrossEntropyLoss2d(PixelLoss):
    """Cross-entropy over the classes of each pixel."""

    def pixels(self, logits: Tensor, target: Tensor) -> Tensor:
        """-w[y] log softmax(logits)[y]."""
        # Unreduced on purpose: the summing form adds atomically on CUDA and is refused under
        # deterministic algorithms; on a CPU its backward also takes twice the time of this one.
        return F.cross_entropy(
            logits,
            target,
            weight=self.weights_for(logits),
            ignore_index=self.ignore_index,
            reduction="none",
        )


class WithAuxiliary(nn.Module):
    """The loss of a model's output, be it logits or `(logits, *auxiliary logits)`."""

    def __init__(self, loss: SegmentationLoss, aux_weight: Annotated[float, Ge(0)] = 0.4) -> None:
        """Weigh auxiliary outputs.

        Args:
            loss: Applied to every output.
            aux_weight: Factor of each auxiliary output (0.4 in PSPNet, section 5.1).
        """
        super().__init__()
        self.loss = loss
        self.aux_weight = aux_weight

    def forward(
        self,
        output: Tensor | Sequence[Tensor],
        target: Tensor,
        *,
        total: Tensor | None = None,
    ) -> Tensor:
        """loss(logits) + aux_weight * sum of loss(auxiliary); a scalar.

        Args:
            output: (N, C, H, W) logits, or a sequence of such with the main output first.
            target: (N, H, W) int64.
            total: As in `SegmentationLoss.forward`.
        """
        main, *auxiliary = (output,) if isinstance(output, Tensor) else output
        value = self.loss(main, target, total=total)
        for logits in auxiliary:
            value = value + self.aux_weight * self.loss(logits, target, total=total)
        return value

    def total(self, label_counts: Tensor) -> Tensor | None:
        """The divisor of the wrapped loss."""
        return self.loss.total(label_counts)


LOSSES: dict[str, Callable[..., SegmentationLoss]] = {
    "CrossEntropyLoss2d": CrossEntropyLoss2d,
}

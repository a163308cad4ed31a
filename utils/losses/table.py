"""The table of losses, their sums, and the wrapper for deep supervision."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, MinLen
from torch import Tensor, nn

from utils.config.registry import Choice, Table, build, choose
from utils.errors import ConfigError
from utils.losses.contract import SegmentationLoss, divide
from utils.losses.pixel import CrossEntropyLoss2d, FocalLoss
from utils.losses.region import Classes, DiceLoss

log = logging.getLogger("segmentation")

__all__ = ["LOSSES", "CE_DiceLoss", "Part", "Sum", "WithAuxiliary", "build_loss", "check_parts"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a sum, as a config writes it."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # a misspelt key is a fault, not a no-op

    type: str
    args: dict[str, Any] = field(default_factory=dict)
    weight: Annotated[float, Ge(0)] = 1.0


class _Mixture(SegmentationLoss):
    """A weighted sum of losses.

    Where the trainer supplies the effective batch's divisor, parts that divide by it take it,
    and the others are averaged over micro-batches and processes by the share of valid pixels
    (or of their class weights) that each holds: the shares of an effective batch add up to 1.
    """

    def __init__(
        self,
        parts: Sequence[tuple[float, SegmentationLoss]],
        *,
        ignore_index: int,
        class_weights: Sequence[float] | None,
    ) -> None:
        super().__init__(ignore_index=ignore_index, class_weights=class_weights)
        self.weights = [weight for weight, _ in parts]
        self.parts = nn.ModuleList(loss for _, loss in parts)
        self.divides_by_denominator = any(loss.divides_by_denominator for _, loss in parts)

    def value(self, logits: Tensor, target: Tensor, denominator: float | None) -> Tensor:
        """The weighted sum of the parts."""
        value = logits.new_zeros(())
        share = (
            divide(self.own_denominator(logits, target), denominator)
            if denominator is not None
            else None
        )
        for weight, loss in zip(self.weights, self.parts, strict=True):
            assert isinstance(loss, SegmentationLoss)
            if loss.divides_by_denominator or share is None:
                value = value + weight * loss(logits, target, denominator=denominator)
            else:
                value = value + weight * share * loss(logits, target)
        return value


class CE_DiceLoss(_Mixture):  # noqa: N801 - the documented name
    """Cross-entropy plus Dice."""

    def __init__(
        self,
        *,
        smooth: Annotated[float, Ge(0)] = 1.0,
        classes: Classes = "present",
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        """Build both.

        Args:
            smooth: As in `DiceLoss`.
            classes: As in `DiceLoss`.
            ignore_index: The label of void pixels.
            class_weights: For both parts.
        """
        entropy = CrossEntropyLoss2d(ignore_index=ignore_index, class_weights=class_weights)
        dice = DiceLoss(
            smooth=smooth, classes=classes, ignore_index=ignore_index, class_weights=class_weights
        )
        super().__init__(
            [(1.0, entropy), (1.0, dice)], ignore_index=ignore_index, class_weights=class_weights
        )


class Sum(_Mixture):
    """A weighted sum of any losses, from the config."""

    def __init__(
        self,
        *,
        parts: Annotated[tuple[Part, ...], MinLen(1)],
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        """Build the parts.

        Args:
            parts: Each `{"type": name, "args": {...}, "weight": 1.0}`; the latter two optional.
            ignore_index: The label of void pixels.
            class_weights: For all parts.

        Raises:
            ConfigError: A part that `LOSSES` does not have, or arguments it does not take.
        """
        losses = []
        for number, part in enumerate(parts):
            loss = build(
                f"loss.args.parts[{number}]",
                LOSSES,
                part.type,
                part.args,
                ignore_index=ignore_index,
                class_weights=class_weights,
            )
            losses.append((part.weight, loss))
        super().__init__(losses, ignore_index=ignore_index, class_weights=class_weights)


def check_parts(choice: Choice[SegmentationLoss]) -> None:
    """Refuse what the parts of a `Sum` name, at whatever depth, before anything is built.

    Raises:
        ConfigError: A part that `LOSSES` does not have, or arguments it does not take.
    """
    parts: Any = choice.args["parts"] if choice.factory is Sum else ()
    for number, part in enumerate(parts):
        name = f"{choice.kind}.args.parts[{number}]"
        check_parts(choose(name, LOSSES, part.type, part.args))


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
        denominator: float | None = None,
    ) -> Tensor:
        """loss(logits) + aux_weight * sum of loss(auxiliary); a scalar.

        Args:
            output: (N, C, H, W) logits, or a sequence of such with the main output first.
            target: (N, H, W) int64.
            denominator: As in `SegmentationLoss.forward`.
        """
        main, *auxiliary = (output,) if isinstance(output, Tensor) else output
        value = self.loss(main, target, denominator=denominator)
        for logits in auxiliary:
            value = value + self.aux_weight * self.loss(logits, target, denominator=denominator)
        return value

    def denominator(self, label_counts: Sequence[int]) -> float | None:
        """The divisor of the wrapped loss."""
        return self.loss.denominator(label_counts)


LOSSES: Table[Callable[..., SegmentationLoss]] = Table(
    {
        "CrossEntropyLoss2d": "utils.losses.pixel",
        "DiceLoss": "utils.losses.region",
        "CE_DiceLoss": "utils.losses.table",
        "FocalLoss": "utils.losses.pixel",
        "LovaszSoftmax": "utils.losses.lovasz",
        "Tversky": "utils.losses.region",
        "Sum": "utils.losses.table",
    }
)


def build_loss(
    choice: Choice[SegmentationLoss],
    *,
    num_classes: int,
    ignore_index: int,
    class_weights: Sequence[float] | None = None,
    aux_weight: float = 0.4,
) -> WithAuxiliary:
    """The loss that a config chose, ready for any model's output.

    Args:
        choice: From `LOSSES`.
        num_classes: Classes of the data set.
        ignore_index: The label of void pixels.
        class_weights: One weight a class, or None.
        aux_weight: Factor of auxiliary outputs.

    Raises:
        ConfigError: A part of a sum that there is not, or class weights or factors that do not fit.
    """
    if class_weights is not None and len(class_weights) != num_classes:
        raise ConfigError(
            f"class_weights: found {len(class_weights)} weights, expected {num_classes}, one for "
            "each class of the data set in its order"
        )
    if class_weights is not None and not any(class_weights):
        raise ConfigError("class_weights: found only zeros, expected a weight above zero")
    loss = choice.build(ignore_index=ignore_index, class_weights=class_weights)
    for part in loss.modules():
        if isinstance(part, FocalLoss) and part.alpha.dim() and len(part.alpha) != num_classes:
            raise ConfigError(
                f"loss: FocalLoss: alpha: found {len(part.alpha)} factors, expected {num_classes}, "
                "one for each class of the data set in its order, or a single number"
            )
    if _is_regional(loss):
        log.info(
            "loss: %s compares regions (or keeps the hardest pixels) of each process's micro-batch "
            "by itself; the values are averaged",
            choice.name,
        )
    return WithAuxiliary(loss, aux_weight)


def _is_regional(loss: nn.Module) -> bool:
    """Whether a loss, or a part of it, cannot be divided by the effective batch's denominator."""
    return any(
        isinstance(part, SegmentationLoss) and not part.divides_by_denominator
        for part in loss.modules()
    )

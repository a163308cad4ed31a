"""Losses that compare whole regions class by class: Tversky and its special case, Dice."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from utils.losses.contract import SegmentationLoss, divide

Classes = Literal["present", "all"]


class Tversky(SegmentationLoss):
    """1 - (TP + s) / (TP + alpha FP + beta FN + s) of each class, averaged over classes.

    TP, FP and FN are sums of softmax probabilities over the valid pixels of the micro-batch, so
    the loss is one of a micro-batch: it does not divide by `denominator`.
    Source: Salehi et al. 2017 (arXiv:1706.05721), section 2.2, taken class against rest.
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, Ge(0)] = 0.3,
        beta: Annotated[float, Ge(0)] = 0.7,
        smooth: Annotated[float, Ge(0)] = 1.0,
        classes: Classes = "present",
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        """Choose how false positives and false negatives weigh.

        Args:
            alpha: Weight of false positives.
            beta: Weight of false negatives; above `alpha` it favors recall.
            smooth: `s` of the formula; softens classes of few pixels.
            classes: Average over the classes among the labels, or over all.
            ignore_index: The label of void pixels.
            class_weights: Weights of the average over classes.
        """
        super().__init__(ignore_index=ignore_index, class_weights=class_weights)
        self.alpha = alpha
        self.beta = beta
        self.smooth = smooth
        self.classes = classes

    def value(self, logits: Tensor, target: Tensor, denominator: float | None) -> Tensor:
        """The weighted mean over classes of 1 - the Tversky index."""
        del denominator
        hits, predicted, labelled = overlaps(logits, target, self.ignore_index)
        false_positives, false_negatives = predicted - hits, labelled - hits
        misses = self.alpha * false_positives + self.beta * false_negatives
        # As misses / (...) and not 1 - hits / (...): float32 keeps the small losses of the end.
        losses = divide(misses, hits + misses + self.smooth)
        counted = labelled > 0 if self.classes == "present" else torch.ones_like(hits)
        return weighted_mean(losses, counted, self.weights_for(logits))


class DiceLoss(Tversky):
    """1 - (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth) of each class, averaged.

    Source: Milletari et al. 2016 (arXiv:1606.04797), section 3, with sums instead of sums of
    squares. The ancestor pooled all classes into one ratio, which lets large classes drown
    small ones; here each class has its own.
    """

    def __init__(
        self,
        *,
        smooth: Annotated[float, Ge(0)] = 1.0,
        classes: Classes = "present",
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        """Choose which classes count.

        Args:
            smooth: Added above and below.
            classes: Average over the classes among the labels, or over all.
            ignore_index: The label of void pixels.
            class_weights: Weights of the average over classes.
        """
        super().__init__(
            alpha=0.5,
            beta=0.5,
            smooth=smooth / 2,
            classes=classes,
            ignore_index=ignore_index,
            class_weights=class_weights,
        )


def overlaps(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the valid pixels, one number a class.

    Args:
        logits: (N, C, H, W) float.
        target: (N, H, W) int64.
        ignore_index: The label of void pixels.

    Returns:
        (C,) sums of p g, of p and of g, with p the softmax and g the one-hot labels.
    """
    valid = (target != ignore_index).unsqueeze(1)
    probabilities = torch.where(valid, logits.softmax(dim=1), 0.0)
    truth = one_hot(target, logits.shape[1], ignore_index)
    pixels = (0, 2, 3)
    hits = torch.where(truth, probabilities, 0.0).sum(pixels)
    return hits, probabilities.sum(pixels), truth.sum(pixels).to(probabilities.dtype)


def one_hot(target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """(N, H, W) int64 -> (N, C, H, W) bool, false in every class where void."""
    labels = torch.where(target == ignore_index, -1, target).unsqueeze(1)
    return labels == torch.arange(num_classes, device=target.device).view(1, -1, 1, 1)


def weighted_mean(values: Tensor, counted: Tensor, weights: Tensor | None) -> Tensor:
    """The mean over the counted classes, weighted; 0 with a graph when there is none.

    Args:
        values: (..., C) float.
        counted: (..., C) bool or 0/1.
        weights: (C,) float, or None.
    """
    shares = counted.to(values.dtype)
    if weights is not None:
        shares = shares * weights
    return divide((values * shares).sum(-1), shares.sum(-1))

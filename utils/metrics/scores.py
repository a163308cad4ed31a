"""What a confusion matrix says: scores of each class, their means, the commonest mistakes."""

from typing import NamedTuple

import numpy as np

from utils.metrics.confusion import mean_present, ratio


class ClassScores(NamedTuple):
    """One class; a score whose denominator is 0 is None."""

    iou: float | None
    dice: float | None
    precision: float | None
    recall: float | None
    label_pixels: int
    predicted_pixels: int
    label_share: float | None
    """Of all labelled pixels, those of this class."""


class Confusion(NamedTuple):
    """Pixels of one class that were taken for another, or for void: C."""

    label: int
    prediction: int
    pixels: int
    label_share: float
    """Of the label's pixels."""
    error_share: float
    """Of all wrong pixels."""


def class_scores(counts: np.ndarray) -> list[ClassScores]:
    """The scores of every class.

    Args:
        counts: (C, C) int64, row = label, column = prediction; void, if predicted, is column C.

    Returns:
        C entries. IoU and Dice are None for a class in no label and no prediction, precision for
        one that is never predicted, recall for one that is in no label.
    """
    total = int(counts.sum())
    sums = (counts.sum(1), counts.sum(0), counts.diagonal())  # zip leaves out the sum of void
    return [
        ClassScores(
            iou=ratio(hit, label + predicted - hit),
            dice=ratio(2 * hit, label + predicted),
            precision=ratio(hit, predicted),
            recall=ratio(hit, label),
            label_pixels=label,
            predicted_pixels=predicted,
            label_share=ratio(label, total),
        )
        for label, predicted, hit in zip(*map(np.ndarray.tolist, sums), strict=False)
    ]


def mean_scores(counts: np.ndarray) -> dict[str, float | None]:
    """The scores of the whole, each None when no pixel was counted.

    Args:
        counts: As in `class_scores`.

    Returns:
        `Mean_IoU` and `Mean_Dice` over the classes in labels or predictions; `Pixel_Accuracy`;
        `Mean_Accuracy`, the mean recall over the classes in labels;
        `Frequency_Weighted_IoU`, IoUs weighted by the labels' shares.
    """
    scores = class_scores(counts)
    weighted = [(one.label_share or 0) * one.iou for one in scores if one.iou is not None]
    return {
        "Mean_IoU": mean_present([one.iou for one in scores]),
        "Pixel_Accuracy": ratio(int(counts.diagonal().sum()), int(counts.sum())),
        "Mean_Accuracy": mean_present([one.recall for one in scores]),
        "Frequency_Weighted_IoU": sum(weighted) if counts.any() else None,
        "Mean_Dice": mean_present([one.dice for one in scores]),
    }


def top_confusions(counts: np.ndarray, number: int) -> list[Confusion]:
    """The pairs of classes with the most mistaken pixels, the worst first.

    Args:
        counts: As in `class_scores`.
        number: How many at most; pairs without mistakes are left out.
    """
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    total, labels = int(wrong.sum()), counts.sum(1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:number]
    pairs = [divmod(int(place), counts.shape[1]) for place in order]
    return [
        Confusion(label, prediction, pixels, pixels / int(labels[label]), pixels / total)
        for label, prediction in pairs
        if (pixels := int(wrong[label, prediction]))
    ]

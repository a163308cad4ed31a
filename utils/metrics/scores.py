"""What a confusion matrix says: scores of each class, their means, the commonest mistakes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

CLASS_SCORES = {"IoU": "iou", "Dice": "dice", "Precision": "precision", "Recall": "recall"}


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


def mean_scores(counts: np.ndarray, scored: Sequence[int] | None = None) -> dict[str, float | None]:
    """The scores of the whole, each None when no pixel was counted.

    Args:
        counts: As in `class_scores`.
        scored: The classes that enter the means; None: all.

    Returns:
        `Mean_IoU` and `Mean_Dice` over the classes in labels or predictions; `Pixel_Accuracy`;
        `Mean_Accuracy`, the mean recall over the classes in labels;
        `Frequency_Weighted_IoU`, IoUs weighted by the labels' shares. `Pixel_Accuracy` and
        `Frequency_Weighted_IoU` are of all classes.
    """
    scores = class_scores(counts)
    weighted = [(one.label_share or 0) * one.iou for one in scores if one.iou is not None]
    scores = [scores[label] for label in scored or range(len(scores))]
    return {
        "Mean_IoU": mean_present([one.iou for one in scores]),
        "Pixel_Accuracy": ratio(int(counts.diagonal().sum()), int(counts.sum())),
        "Mean_Accuracy": mean_present([one.recall for one in scores]),
        "Frequency_Weighted_IoU": sum(weighted) if counts.any() else None,
        "Mean_Dice": mean_present([one.dice for one in scores]),
    }


def training_scores(
    counts: np.ndarray, classes: Sequence[str], scored: Sequence[int] | None = None
) -> dict[str, Any]:
    """Those of `mean_scores` that a training follows, and those of each class.

    Returns:
        `Pixel_Accuracy` and `Mean_IoU`; `Class_IoU`, `Class_Dice`, `Class_Precision` and
        `Class_Recall`, each by the names of the classes.
    """
    means, of_classes = mean_scores(counts, scored), class_scores(counts)
    return {name: means[name] for name in ("Pixel_Accuracy", "Mean_IoU")} | {
        f"Class_{name}": {
            label: getattr(one, field) for label, one in zip(classes, of_classes, strict=True)
        }
        for name, field in CLASS_SCORES.items()
    }


def class_numbers(names: Sequence[str] | None, classes: Sequence[str]) -> list[int] | None:
    """The numbers of the classes that are named; None for None."""
    return None if names is None else [classes.index(name) for name in names]


def mean_present(values: Sequence[float | None]) -> float | None:
    """The mean over the classes that have a value; None when none has."""
    present = [value for value in values if value is not None]
    return ratio(sum(present), len(present))


def ratio(numerator: float, denominator: float) -> float | None:
    """Their quotient, None for a denominator of 0."""
    return numerator / denominator if denominator else None


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

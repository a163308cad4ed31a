"""One integer confusion matrix; every score is a quotient taken from it once, at the end."""

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.hardware.distributed import sum_over_processes

_SCORES = 4  # dimensions of (N, C, H, W) scores, against (N, H, W) predictions


class ConfusionMatrix:
    """Counts of (label, prediction) pairs over any number of pixels and processes.

    Counts are int64 on the device: exact, additive, and independent of the order of batches.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int,
        device: torch.device | str = "cpu",
        *,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Start from zero.

        Args:
            num_classes: Number of classes C.
            ignore_index: The label of void pixels, which are not counted.
            device: Where batches come from.
            classes: Names for `Class_IoU`; class numbers without them.
        """
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.classes = tuple(classes) if classes else tuple(map(str, range(num_classes)))
        # One bin past the matrix takes every void pixel: masking by value costs no host read.
        self._bins = torch.zeros(num_classes**2 + 1, dtype=torch.int64, device=device)

    @property
    def counts(self) -> Tensor:
        """(C, C) int64 on the device: row = label, column = prediction."""
        return self._bins[:-1].view(self.num_classes, self.num_classes)

    @torch.no_grad()
    def update(self, logits_or_predictions: Tensor, masks: Tensor) -> None:
        """Count one batch; nothing is read back from the device.

        Args:
            logits_or_predictions: (N, C, H, W) scores of any float type, or (N, H, W) class
                numbers in [0, C).
            masks: (N, H, W) labels of any integer type. What is `ignore_index` or outside
                [0, C) is not counted.
        """
        predictions = logits_or_predictions
        if predictions.dim() == _SCORES:
            # The same first maximum as argmax, which a CPU takes several times as long to find.
            predictions = predictions.max(dim=1).indices
        labels = masks.long()
        counted = (labels != self.ignore_index) & (labels >= 0) & (labels < self.num_classes)
        bins = labels * self.num_classes + predictions
        bins = torch.where(counted, bins, self.num_classes**2).flatten()
        self._bins.scatter_add_(0, bins, torch.ones_like(bins))

    def reset(self) -> None:
        """Forget all counts."""
        self._bins.zero_()

    def synchronise(self) -> None:
        """Add the counts of all processes, in place; call it once, before `compute`."""
        sum_over_processes(self._bins)

    def compute(self) -> dict[str, object]:
        """Scores as Python floats; the one read from the device.

        Returns:
            `Pixel_Accuracy`, `Mean_IoU` (each a float, or None when no pixel was counted) and
            `Class_IoU`, a float or None for each class.
        """
        counts = self.counts.cpu()
        ious = class_ious(counts)
        return {
            "Pixel_Accuracy": ratio(int(counts.diagonal().sum()), int(counts.sum())),
            "Mean_IoU": mean_present(ious),
            "Class_IoU": dict(zip(self.classes, ious, strict=True)),
        }


def class_ious(counts: Tensor) -> list[float | None]:
    """Intersection over union of each class; None where it is in no label and no prediction.

    Args:
        counts: (C, C) int64 on the host, row = label.
    """
    hits = counts.diagonal()
    unions = counts.sum(0) + counts.sum(1) - hits
    return [ratio(hit, union) for hit, union in zip(hits.tolist(), unions.tolist(), strict=True)]


def mean_present(values: Sequence[float | None]) -> float | None:
    """The mean over the classes that have a value; None when none has."""
    present = [value for value in values if value is not None]
    return ratio(sum(present), len(present))


def ratio(numerator: float, denominator: float) -> float | None:
    """Their quotient, None for a denominator of 0."""
    return numerator / denominator if denominator else None

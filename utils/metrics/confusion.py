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
        # Void and what is no class have places of their own: sorting by value costs no host read.
        self._table = torch.zeros(num_classes + 1, num_classes + 2, dtype=torch.long, device=device)

    @property
    def counts(self) -> Tensor:
        """(C, C) int64 on the device: row = label, column = prediction; void is in neither."""
        return self._table[: self.num_classes, : self.num_classes]

    @torch.no_grad()
    def update(self, logits_or_predictions: Tensor, masks: Tensor) -> None:
        """Count one batch; nothing is read back from the device.

        Args:
            logits_or_predictions: (N, C, H, W) scores of any float type, or (N, H, W) integers:
                class numbers in [0, C), or `ignore_index` where nothing is predicted.
            masks: (N, H, W) labels of any integer type. What is `ignore_index` or outside
                [0, C) is not counted.

        Raises:
            ValueError: Scores of another number of classes.
        """
        predictions, classes = logits_or_predictions, self.num_classes
        if predictions.dim() == _SCORES:
            if predictions.shape[1] != classes:
                raise ValueError(f"logits of {predictions.shape[1]} channels for {classes} classes")
            # The same first maximum as argmax, which a CPU takes several times as long to find.
            predictions = predictions.max(dim=1).indices
        labels, predictions = masks.long(), predictions.long()
        labelled = (labels != self.ignore_index) & (labels >= 0) & (labels < classes)
        known = (predictions >= 0) & (predictions < classes)
        others = torch.where(predictions == self.ignore_index, classes, classes + 1)
        rows = torch.where(labelled, labels, classes)
        bins = (rows * (classes + 2) + torch.where(known, predictions, others)).flatten()
        self._table.view(-1).scatter_add_(0, bins, torch.ones_like(bins))

    def reset(self) -> None:
        """Forget all counts."""
        self._table.zero_()

    def synchronize(self) -> None:
        """Add the counts of all processes, in place; call it once, before `compute`."""
        sum_over_processes(self._table)

    def table(self) -> Tensor:
        """(C + 1, C + 1) int64 on the host, `counts` with void as the last row and column.

        Raises:
            ValueError: Predictions that were neither a class nor `ignore_index`.
        """
        table = self._table.cpu()
        if wrong := int(table[:, -1].sum()):
            raise ValueError(f"{wrong} predictions neither in 0..{self.num_classes - 1} nor void")
        return table[:, :-1]

    def compute(self) -> dict[str, object]:
        """Scores as Python floats; the one read from the device. Raises what `table` does.

        Returns:
            `Pixel_Accuracy`, `Mean_IoU` (each a float, or None when no pixel was counted) and
            `Class_IoU`, a float or None for each class.
        """
        counts = self.table()[:-1]
        ious = class_ious(counts)
        return {
            "Pixel_Accuracy": ratio(int(counts.diagonal().sum()), int(counts.sum())),
            "Mean_IoU": mean_present(ious),
            "Class_IoU": dict(zip(self.classes, ious, strict=True)),
        }


def class_ious(counts: Tensor) -> list[float | None]:
    """Intersection over union of each class; None where it is in no label and no prediction.

    Args:
        counts: (C, C) int64 on the host, row = label; void, if predicted, is column C.
    """
    hits = counts.diagonal()
    unions = counts.sum(0)[: len(counts)] + counts.sum(1) - hits
    return [ratio(hit, union) for hit, union in zip(hits.tolist(), unions.tolist(), strict=True)]


def mean_present(values: Sequence[float | None]) -> float | None:
    """The mean over the classes that have a value; None when none has."""
    present = [value for value in values if value is not None]
    return ratio(sum(present), len(present))


def ratio(numerator: float, denominator: float) -> float | None:
    """Their quotient, None for a denominator of 0."""
    return numerator / denominator if denominator else None

"""One integer confusion matrix; every score is a quotient taken from it once, at the end."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from utils.hardware.distributed import sum_over_processes
from utils.metrics.scores import class_numbers, training_scores

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
        scored: Sequence[str] | None = None,
    ) -> None:
        """Start from zero.

        Args:
            num_classes: Number of classes C.
            ignore_index: The label of void pixels, which are not counted.
            device: Where batches come from.
            classes: Names for `Class_IoU`; class numbers without them.
            scored: Names of the classes that enter the means; None: all.
        """
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.classes = tuple(classes) if classes else tuple(map(str, range(num_classes)))
        self._scored = class_numbers(scored, self.classes)
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
        """Take the sum over all processes; before `compute`, and once, or it is added again."""
        # A clone: those of a validation are inference tensors, which gloo refuses on a GPU.
        self._table = sum_over_processes(self._table.clone())

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
            What `training_scores` gives: `Pixel_Accuracy` and `Mean_IoU` (each a float, or None
            when no pixel was counted), `Class_IoU` and others, a float or None for each class.
        """
        return self.scores(self.table()[:-1].numpy())

    def scores(self, counts: np.ndarray) -> dict[str, object]:
        """What `compute` returns, of other counts of these classes, as those of all processes."""
        return training_scores(counts, self.classes, self._scored)

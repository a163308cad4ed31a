"""Scoring a network on the validation data while it trains."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import nn

from base.base_data_loader import BaseDataLoader
from base.signals import StopSignals
from utils.drawing.grid import Shown
from utils.hardware.memory import validation_memory_advice
from utils.hardware.precision import autocast
from utils.hardware.prefetch import on_device
from utils.inference.prediction import whole
from utils.losses.table import WithAuxiliary
from utils.metrics.confusion import ConfusionMatrix
from utils.metrics.totals import ValidationTotals
from utils.run.progress import ProgressBar

_SAMPLES = 8  # of TensorBoard's grid


@dataclass(eq=False)
class Validator:
    """Scores whole batches of a loader, whatever their size.

    Args:
        loader: The validation data.
        loss: Of the training.
        normalize: From a file's pixels to what the network takes.
        device: Where the network is.
        precision: "fp32", "bf16" or "fp16".
        accumulate: Micro-batches of an update, where batches are as large as in training;
            for the advice when memory runs out.
        scored: Names of the classes that enter the means; None: all.
    """

    loader: BaseDataLoader
    loss: WithAuxiliary
    normalize: nn.Module
    device: torch.device
    precision: str
    accumulate: int | None
    scored: Sequence[str] | None

    @torch.inference_mode()
    def run(
        self, network: nn.Module, signals: StopSignals, *, title: str, shown: bool
    ) -> tuple[ValidationTotals, list[Shown]]:
        """Count every batch of this process; a signal ends that early.

        Args:
            network: In eval mode.
            signals: Looked at after every batch. Processes have unequal numbers of batches, so
                the caller lets them agree on it afterwards.
            title: Of the progress bar.
            shown: False in all processes but the first.

        Returns:
            The sums, and the first image of each of the first batches.
        """
        data = self.loader.dataset
        named = {"classes": data.classes, "scored": self.scored}
        counts = ConfusionMatrix(len(data.classes), data.ignore_index, self.device, **named)
        totals = ValidationTotals(counts)
        samples: list[Shown] = []
        self.loader.set_position(epoch=0)
        bar = ProgressBar(title, len(self.loader), shown=shown)
        advice = validation_memory_advice(
            self.loader.batch_size, crop_size=data.crop_size, accumulate=self.accumulate
        )
        with closing(bar), advice:
            for batch in on_device(self.loader, self.device):
                masks = batch.masks.long()
                with autocast(self.device, self.precision):
                    logits = whole(network, self.normalize(batch.images))
                predictions = logits.max(1).indices
                denominator = self.loss.denominator(batch.label_counts)
                totals.add(self.loss(logits, masks), denominator, predictions, masks)
                if len(samples) < _SAMPLES:  # copies: a view would keep its whole batch
                    image, mask, prediction = batch.images[0], batch.masks[0], predictions[0]
                    samples.append((image.clone(), mask.clone(), prediction.clone()))
                del logits, predictions  # or they would live through the next forward
                bar.advance()
                if signals.number is not None:
                    break
        return totals, samples

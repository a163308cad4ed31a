"""The monitored metric: what counts as better, and for how long nothing was."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from utils.run.numbers import in_words
from utils.run.progress import one_line


@dataclass
class Monitor:
    """Follows one validation metric.

    Args:
        metric: Its name as in metrics.jsonl, `IoU/road` for one class's, or None: nothing is
            monitored.
        mode: "max" or "min".
        patience: Epochs without improvement until the run stops; 0 disables.
    """

    metric: str | None
    mode: str
    patience: int
    best: float | None = None
    best_epoch: int = 0
    last_epoch: int = 0

    @classmethod
    def parse(cls, text: str, patience: int) -> "Monitor":
        """From the config's form: "max Mean_IoU", "min val_loss" or "off"."""
        mode, _, metric = text.partition(" ")
        return cls(metric.strip() or None, mode, patience)

    def improved(self, metrics: dict, epoch: int) -> bool:
        """Take the validation metrics of an epoch; true if they beat all before.

        A metric that is None or not finite never is an improvement. Nor is one of a class without a
        labelled pixel: its IoU is 0 as soon as one pixel is predicted, however good the network.
        """
        self.last_epoch = epoch
        if self.metric is None:
            return False
        score, _, label = self.metric.partition("/")
        value = metrics[f"Class_{score}"][label] if label else metrics[score]
        absent = bool(label) and metrics["Class_Recall"][label] is None
        if absent or value is None or not math.isfinite(value):
            return False
        better = self.best is None or (
            value > self.best if self.mode == "max" else value < self.best
        )
        if better:
            self.best, self.best_epoch = value, epoch
        return better

    def shown(self) -> str:
        """The metric and its best value, as an evaluation prints it."""
        return one_line(in_words({self.metric or "": self.best}))

    def restore(self, state: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; of another score than its run watched, nothing is known yet."""
        self.best_epoch, self.last_epoch = state["monitor_epochs"]
        if _watched(state["config"]) == _watched(config):
            self.best = state["monitor_best"]
        else:
            self.best_epoch = self.last_epoch

    def exhausted(self) -> bool:
        """Whether the last validation came `patience` epochs or more after the best one."""
        return self.best is not None and 0 < self.patience <= self.last_epoch - self.best_epoch


def _watched(config: Mapping[str, Any]) -> list[Any]:
    """What a score depends on: the metric, the pixels that count, how they are shown."""
    monitor = config.get("trainer", {}).get("monitor", "")
    train, val = (config.get(key) or {} for key in ("train_loader", "val_loader"))
    held_out = [train.get("args", {}).get(key) for key in ("val_split", "val_fold", "group")]
    shown = [val.get("type"), *(val.get("args", {}).get(key) for key in ("split", "crop_size"))]
    loss = [config.get(key) for key in ("loss", "class_weights")] if "val_loss" in monitor else []
    counted = [config.get(key) for key in ("scored_classes", "ignore_index")]
    return [monitor, *held_out, *shown, *loss, *counted]

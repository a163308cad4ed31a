"""Which numbers of a training are shown where: on the console's line, and in TensorBoard."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from utils.drawing.text import percent


def headline(metrics: Mapping[str, object]) -> dict[str, object]:
    """The numbers that fit a line: all but those of single classes."""
    return {name: value for name, value in metrics.items() if not isinstance(value, Mapping)}


def in_words(metrics: Mapping[str, Any]) -> dict[str, object]:
    """The same with scores as an evaluation prints them, `73.12 %`; losses stay numbers."""
    return {name: percent(value) if name[0].isupper() else value for name, value in metrics.items()}


def class_lines(ious: Mapping[str, float | None]) -> str:
    """The IoU of each class, in lines of 80 letters that break between classes."""
    # A line breaks at spaces, so those within a class stand aside for a while.
    text = "  ".join(f"{name} {percent(iou)}".replace(" ", "\0") for name, iou in ious.items())
    return textwrap.fill(f"IoU  {text}", 80, subsequent_indent="     ").replace("\0", " ")


def training_line(
    metrics: Mapping[str, object], *, images_per_second: float, waited: float
) -> dict[str, object]:
    """The numbers of a training line, the most important first: a narrow terminal cuts the last.

    Args:
        metrics: `loss` and scores.
        images_per_second: Of all processes.
        waited: The share of the time that was spent waiting for data.
    """
    pace = {"waiting": f"{waited:.0%}", "images/s": f"{images_per_second:.1f}"}
    scores = in_words(headline(metrics))
    return {"loss": scores["loss"], "Mean_IoU": scores["Mean_IoU"], **pace, **scores}


def training_scalars(
    groups: Sequence[Mapping[str, Any]],
    *,
    loss: float,
    gradient_norm: float,
    images_per_second: float,
    waited: float,
) -> dict[str, float | None]:
    """TensorBoard's scalars of a log line, by tag; `groups` are the optimizer's."""
    first = groups[0]
    return {
        "train/loss": loss,
        "train/Gradient_norm": gradient_norm,
        "train/Momentum": first["betas"][0] if "betas" in first else first.get("momentum"),
        "train/Images_per_second": images_per_second,
        "train/Data_wait_share": waited,
        **{f"train/Learning_rate_{i}": group["lr"] for i, group in enumerate(groups)},
    }


def metric_scalars(split: str, metrics: Mapping[str, object]) -> dict[str, float | None]:
    """TensorBoard's scalars of an epoch, by tag: `val/Mean_IoU`, `val/IoU/<class>`."""
    scalars: dict[str, float | None] = {}
    for name, value in metrics.items():
        tag = f"{split}/{name.removeprefix('val_').removeprefix('Class_')}"
        if isinstance(value, Mapping):
            scalars |= {f"{tag}/{part}": score for part, score in value.items()}
        elif value is None or isinstance(value, float):
            scalars[tag] = value
    return scalars

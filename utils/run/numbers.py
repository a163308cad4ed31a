"""Which numbers of a training are shown where: on the console's line, and in TensorBoard."""

from collections.abc import Mapping, Sequence
from typing import Any


def headline(metrics: Mapping[str, object]) -> dict[str, object]:
    """The numbers that fit a line: all but those of single classes."""
    return {name: value for name, value in metrics.items() if name != "Class_IoU"}


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
    return {"loss": metrics["loss"], "Mean_IoU": metrics["Mean_IoU"], **pace, **headline(metrics)}


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
    renamed = {"val_loss": "loss", "Class_IoU": "IoU"}
    scalars: dict[str, float | None] = {}
    for name, value in metrics.items():
        tag = f"{split}/{renamed.get(name, name)}"
        if isinstance(value, Mapping):
            scalars |= {f"{tag}/{part}": score for part, score in value.items()}
        elif value is None or isinstance(value, float):
            scalars[tag] = value
    return scalars

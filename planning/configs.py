"""From choices to a config: its sections, its text with the reasons as comments, a summary."""

import json
from typing import Any

from planning import rules
from planning.fingerprint import Fingerprint
from planning.meaning import VOID
from planning.rules import Choice, Choices, Machine, Measured
from utils.config.overrides import apply_overrides


def choose(
    data: Fingerprint, machine: Machine, arch: Choice, name: str, *, peak_bytes: int = 0
) -> Choices:
    """Return all choices but the length of the training.

    Args:
        data: The fingerprint.
        machine: Where it will train.
        arch: The network.
        name: Of the config.
        peak_bytes: What the network took; 0: not measured yet.
    """
    crop = rules.crop(data, machine.device)
    batch = rules.batch(data, machine, peak_bytes)
    why = {
        "classes": f"{data.cure}; names are yours to change".removeprefix("; "),
        "mean": "of the images, as tools/mean_std.py prints it",
    }
    choices = {
        "name": Choice(name),
        "n_gpu": Choice(int(machine.device == "cuda"), f"planned for {machine.device}"),
        "arch": arch,
    }
    for (kind, args), count in zip(
        data.loaders.items(), (data.images, data.val_images), strict=False
    ):
        choices[f"{kind}.type"] = Choice("Folder", f"{count} images")
        choices |= {
            f"{kind}.args.{key}": Choice(one, why.get(key, "")) for key, one in args.items()
        }
    if "val_loader" in data.loaders:
        choices["val_loader.args.val"] = Choice(True, "whole images at native size")
        choices["val_loader.args.batch_size"] = batch["train_loader.args.batch_size"]
    return {
        **choices,
        **rules.split(data),
        **batch,
        "train_loader.args.shuffle": Choice(True),
        "train_loader.args.augment": Choice(True),
        "train_loader.args.crop_size": crop,
        **rules.scale(data),
        **rules.augmentation(data),
        **rules.rare_crops(data, crop.value),
        **rules.loading(data, machine),
        **rules.optimizer(arch.value),
        "loss": rules.loss(data),
        **rules.class_weights(data, arch.value),
        "ignore_index": Choice(VOID),
        "trainer.monitor": rules.monitor(data),
    }


def nested(choices: Choices) -> dict[str, Any]:
    """Return the config as values."""
    settings = [f"{path}={json.dumps(choice.value)}" for path, choice in choices.items()]
    return apply_overrides({}, settings)


def text(choices: Choices, head: str) -> str:
    """Return the config as it is written: JSON with the reason of each choice above it."""
    return f"// {head}\n{_written(nested(choices), choices, '')}\n"


def _written(value: Any, choices: Choices, path: str) -> str:
    if path in choices:
        return json.dumps(value)
    pad, rows = "  " * (1 + path.count(".") + bool(path)), []
    for key, one in value.items():
        inner = f"{path}.{key}" if path else key
        reason = choices[inner].reason if inner in choices else ""
        comment = f"{pad}// {reason}\n" if reason else ""
        rows.append(f"{comment}{pad}{json.dumps(key)}: {_written(one, choices, inner)}")
    return "{\n" + ",\n".join(rows) + f"\n{pad[2:]}}}"


def summary(data: Fingerprint, choices: Choices, chosen: Measured) -> str:
    """What it will train, how long, how much memory, and what to change first."""
    value = {path: choice.value for path, choice in choices.items()}
    crop, args = value["train_loader.args.crop_size"], chosen.arch["args"]
    mode = rules.prediction(data, crop)
    change = "twice the --minutes, then the crop_size"
    if not args.get("pretrained") and data.channels == 3:
        change = "pretrained weights (docs/plan.md), then twice the --minutes"
    elif "train_loader.args.rare_crops" in value:
        change = "rare_crops to 0.66 where rare classes stay low, then twice the --minutes"
    network = f"{chosen.arch['type']} {args.get('backbone', '')}".strip()
    peak = chosen.peak_bytes / value.get("trainer.accumulate", 1) / 2**30
    return (
        f"{data.images} images of {len(data.classes)} classes, {data.channels} channels of "
        f"{data.dtype}, {data.largest[1]}x{data.largest[0]} at most; {data.void:.1%} void\n"
        f"trains   {network}, crops of {crop}, {value['trainer.epochs']} epochs: "
        f"{choices['trainer.epochs'].reason}\n"
        f"memory   about {peak:.1f} GiB\n"
        f"predict  python inference.py --mode {mode.value} ...: {mode.reason}\n"
        f"change first, if it disappoints: {change}"
    )

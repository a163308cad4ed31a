"""From choices to a config: its sections, and its text with the reasons as comments."""

import json
from typing import Any

from planning import rules
from planning.fingerprint import Fingerprint
from planning.meaning import VOID
from planning.rules import Choice, Choices, Machine


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
    why = {
        "images": f"{data.images} pairs",
        "classes": "; ".join([*data.cures, "names are yours to change"]),
        "mean": "of the images, as tools/statistics.py prints it",
    }
    given = data.loaders["train_loader"].items()
    batch = rules.batch(data, machine, peak_bytes)
    choices = {
        "name": Choice(name),
        "n_gpu": Choice(int(machine.device == "cuda"), f"planned for {machine.device}"),
        "arch": arch,
        "train_loader.type": Choice("Folder"),
        **{f"train_loader.args.{key}": Choice(one, why.get(key, "")) for key, one in given},
        **rules.split(data),
        **batch,
        "train_loader.args.shuffle": Choice(True),
        "train_loader.args.augment": Choice(True),
        "train_loader.args.crop_size": crop,
        **rules.scale(data),
        **rules.augmentation(data),
        **rules.rare_crops(data, crop.value),
        **rules.loading(data, machine),
    }
    if val := data.loaders.get("val_loader"):
        choices |= {"val_loader.type": Choice("Folder")}
        choices |= {f"val_loader.args.{key}": Choice(one) for key, one in val.items()}
        choices |= {"val_loader.args.val": Choice(True, "whole images at native size")}
        choices |= {"val_loader.args.batch_size": batch["train_loader.args.batch_size"]}
    return {
        **choices,
        **rules.optimizer(arch.value),
        "loss": rules.loss(data),
        "ignore_index": Choice(VOID),
        "trainer.monitor": rules.monitor(data),
    }


def nested(choices: Choices) -> dict[str, Any]:
    """Return the config as values."""
    config: dict[str, Any] = {}
    for path, choice in choices.items():
        *sections, key = path.split(".")
        place = config
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = choice.value
    return json.loads(json.dumps(config))


def text(choices: Choices, head: str) -> str:
    """Return the config as it is written: JSON with the reason of each choice above it."""
    comment = "".join(f"// {line}\n" for line in head.splitlines())
    return f"{comment}{_written(nested(choices), choices, '')}\n"


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

"""Broken copies of the documented config, each with what the answer has to say.

The operator that breaks a config knows the JSON path of the fault and, for a slip of the pen, the
name that was meant: whether an answer is right is never judged by eye.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

from mutant import DOCUMENTED, Mutant, base, changed, parent, paths
from text_mutants import broken_text, no_text

LETTERS = "abcdefghijklmnopqrstuvwxyz_"

WRONG_TYPES: dict[type, list[Any]] = {
    bool: [1, "true", None, [], {}],
    int: ["3", 2.5, True, None, [], {}],
    float: ["0.1", True, None, [], {}],
    str: [3, True, None, [1]],
    dict: [3, "x", None, []],
}

OUT_OF_RANGE = {
    "n_gpu": [-1],
    "ignore_index": [-40000, 40000, 10**30],
    "seed": [-1, 2**40],
    "aux_weight": [-0.1],
    "optimizer.backbone_lr_factor": [0, 1.5],
    "optimizer.args.lr": [0, -1],
    "optimizer.args.momentum": [-0.1, 1, 2],
    "optimizer.args.weight_decay": [-1e-4],
    "train_loader.args.batch_size": [0, -1],
    "train_loader.args.crop_size": [0, -380],
    "train_loader.args.base_size": [0],
    "train_loader.args.num_workers": [-1],
    "val_loader.args.batch_size": [0],
    "trainer.epochs": [0, -1],
    "trainer.save_period": [0, -10],
    "trainer.early_stop": [-1],
    "trainer.log_per_iter": [0],
    "trainer.val_per_epochs": [0, -5],
    "trainer.accumulate": [0],
    "trainer.ema": [0, 1, 1.5],
}

MISPLACED = {  # key: (moved to, what the answer says)
    "trainer.epochs": ("epochs", "it belongs under trainer"),
    "trainer.log_dir": ("arch.log_dir", "it belongs under trainer"),
    "trainer.val": ("val_loader.val", "it belongs under val_loader.args"),
    "name": ("trainer.name", "it belongs under no section, at the top level"),
    "n_gpu": ("optimizer.n_gpu", "it belongs under no section, at the top level"),
    "loss": ("trainer.loss", "it belongs under no section, at the top level"),
    "arch.args.backbone": ("arch.backbone", "it belongs under arch.args"),
    "optimizer.args.lr": ("optimizer.lr", "it belongs under optimizer.args"),
    "optimizer.args.momentum": ("momentum", "it belongs under optimizer.args"),
    "optimizer.differential_lr": ("optimizer.args.differential_lr", "it belongs under optimizer"),
    "train_loader.args.batch_size": (
        "train_loader.batch_size",
        "it belongs under train_loader.args",
    ),
    "val_loader.args.num_workers": ("trainer.num_workers", "it belongs under train_loader.args"),
    "train_loader.args.crop_size": ("arch.args.crop_size", "it belongs under train_loader.args"),
}

NAMES = [
    "../x",
    "..",
    ".",
    "a/b",
    "a\\b",
    "",
    " x",
    "x ",
    "a\nb",
    "a\u0000b",
    "x" * 300,
    "-rf",
    "a:b",
]


def mutants(seed: int) -> list[Mutant]:
    """All mutants; the seed chooses the slips of the pen and the places of cuts and duplicates."""
    rng = random.Random(seed)
    return [
        *_slips(rng),
        *_wrong_case(),
        *_wrong_types(rng),
        *_out_of_range(),
        *_wrong_choices(),
        *_misplaced(),
        *_incomplete(),
        *_strangers(),
        *_contradictions(),
        *broken_text(rng),
        *no_text(rng),
    ]


def _renamed(path: str, name: str) -> bytes:
    config = base()
    node, key = parent(config, path)
    entries = [(name if own == key else own, value) for own, value in node.items()]
    node.clear()
    node.update(entries)
    return json.dumps(config, indent=2).encode()


def _slip(name: str, rng: random.Random) -> str:
    """The name with one letter too many, too few, wrong, or swapped with the next."""
    at, letter = rng.randrange(len(name)), rng.choice(LETTERS)
    return rng.choice(
        [
            name[:at] + letter + name[at:],
            name[:at] + name[at + 1 :],
            name[:at] + letter + name[at + 1 :],
            name[:at] + name[at : at + 2][::-1] + name[at + 2 :],
        ]
    )


def _slips(rng: random.Random) -> Iterator[Mutant]:
    known = {path.rpartition(".")[2] for path, _ in paths(base())}
    for path, _ in paths(base()):
        section, _, key = path.rpartition(".")
        for _ in range(2):
            typo = _slip(key, rng)
            if typo and typo not in known:
                where = f"{section}.{typo}".lstrip(".")
                yield Mutant("slip", _renamed(path, typo), f"{where}: ", f"did you mean '{key}'?")


def _wrong_case() -> Iterator[Mutant]:
    for path, _ in list(paths(base()))[::4]:
        section, _, key = path.rpartition(".")
        where = f"{section}.{key.upper()}".lstrip(".")
        advice = f"did you mean '{key}'?"
        yield Mutant("wrong case", _renamed(path, key.upper()), f"{where}: ", advice)


def _wrong_types(rng: random.Random) -> Iterator[Mutant]:
    for path, right in paths(base()):
        nullable = path == "val_loader" or path.endswith(("crop_size", "base_size"))
        bare = path == "loss"  # may be an object or text
        for wrong in rng.sample(WRONG_TYPES[type(right)], 3):
            missing = bare and wrong == {}
            if (wrong is None and nullable) or missing:
                continue
            expected = (
                "val_loader: missing" if path == "val_loader" and wrong is None else f"{path}"
            )
            yield Mutant("wrong type", changed(path, wrong), expected, "expected ")


def _out_of_range() -> Iterator[Mutant]:
    for path, values in OUT_OF_RANGE.items():
        for value in values:
            yield Mutant("out of range", changed(path, value), f"{path}: ", f"got {value}")
    for name in NAMES:
        yield Mutant("impossible name", changed("name", name), "name: ")


def _wrong_choices() -> Iterator[Mutant]:
    choices = {
        "trainer.monitor": ("max mean_iou", "did you mean 'max Mean_IoU'?"),
        "trainer.precision": ("bf61", "did you mean 'bf16'?"),
        "parallel": ("ddp", "did you mean 'DDP'?"),
        "train_loader.args.split": ("trian", "did you mean 'train'?"),
        "val_loader.args.split": ("vall", "did you mean 'val'?"),
    }
    for path, (value, advice) in choices.items():
        yield Mutant("unknown choice", changed(path, value), f"{path}: ", advice)


def _misplaced() -> Iterator[Mutant]:
    for path, (target, advice) in MISPLACED.items():
        node, key = parent(base(), path)
        content = changed(target, node[key], without=path)
        yield Mutant("moved", content, f"{target}: ", advice)


def _incomplete() -> Iterator[Mutant]:
    needed = ["name", "arch", "train_loader", "val_loader", "arch.type", "train_loader.type"]
    needed += ["optimizer.type", "lr_scheduler.type", "optimizer.args.lr"]
    needed += [f"train_loader.args.{key}" for key in ("data_dir", "split", "batch_size")]
    for path in needed:
        config = base()
        node, key = parent(config, path)
        del node[key]
        yield Mutant("missing", json.dumps(config).encode(), f"{path}: missing")


def _strangers() -> Iterator[Mutant]:
    for section in ("", "arch.", "optimizer.", "optimizer.args.", "val_loader.args.", "trainer."):
        path = f"{section}zzz"
        yield Mutant("unknown key", changed(path, 1), f"{path}: unknown", "Known: ")
    supplied = ["arch.args.num_classes", "train_loader.args.seed", "lr_scheduler.args.total_steps"]
    supplied += ["optimizer.args.params", "val_loader.args.ignore_index", "train_loader.args.rank"]
    for path in supplied:
        yield Mutant(
            "set by the program", changed(path, 1), f"{path}: set by the program", "delete"
        )
    others = {"arch.args.base_channels": "UNet", "optimizer.args.betas": "Adam"}
    others |= {"lr_scheduler.args.momentums": "OneCycle", "val_loader.args.length": "Shapes"}
    for path, owner in others.items():
        yield Mutant(
            "of another", changed(path, 1), f"{path}: unknown argument", f"(but of {owner}"
        )


def _contradictions() -> Iterator[Mutant]:
    yield Mutant("no validation", changed("trainer.val", False), "trainer.monitor: ", "off")
    yield Mutant("no monitor", changed("trainer.monitor", "off"), "trainer.early_stop: ", "to 0")
    content = changed("parallel", "DataParallel")
    yield Mutant("no processes", content, "use_synch_bn: ", "DDP")


def valid(seed: int) -> list[bytes]:
    """Variants that mean something: every one has to be accepted."""
    rng = random.Random(seed)
    text = DOCUMENTED.read_text(encoding="utf-8")
    variants = [text, json.dumps(base()), text.replace('"', "'"), text.replace("\n", "\r\n")]
    for path, value in paths(base()):
        if type(value) is int and path not in ("ignore_index", "n_gpu"):
            variants.append(changed(path, value + rng.randrange(1, 9)).decode())
        elif type(value) is float:
            variants.append(changed(path, value * rng.uniform(0.1, 1)).decode())
        elif type(value) is bool and path != "trainer.val":
            variants.append(changed(path, not value).decode())
    needed = {"name", "arch", "train_loader", "val_loader", "type", "data_dir", "split", "lr"}
    for path, _ in paths(base()):
        if path.rpartition(".")[2] not in needed | {"args", "batch_size"}:
            config = base()
            node, key = parent(config, path)
            del node[key]
            variants.append(json.dumps(config))
    return [variant.encode() for variant in variants]

"""Score a trained model on whole labelled images.

    python evaluate.py --model best_model.pth                       # the checkpoint's val data
    python evaluate.py --model best_model.pth --split test --boundary
    python evaluate.py --model best_model.pth --mode multiscale --flip
    python evaluate.py --model best_model.pth --set val_loader.args.data_dir=/data/camvid
    torchrun --nproc_per_node 4 evaluate.py --model best_model.pth  # the same numbers, sooner

Images are predicted at native size and masks are never resized, so the numbers can be compared
with published ones. Writes metrics.json, confusion.csv and report.html (which opens offline).
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import VERSION
from utils.errors import CheckpointError, ConfigError, DataError, guard
from utils.hardware.devices import pick_device, restrict_gpus

if TYPE_CHECKING:
    import torch

    from base.base_dataset import BaseDataset
    from utils.config.config import Config
    from utils.evaluation.scoring import Evaluation, Predict
    from utils.inference.predictor import Settings


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    restrict_gpus(options.device)
    # Late: --help and wrong flags answer without waiting for torch.
    from assembly import check_class_names
    from tables import add_plugins
    from utils.files.outputs import prepare_folder
    from utils.hardware import distributed
    from utils.run.checkpoint import load

    add_plugins(options.plugin)
    checkpoint = load(options.model)
    config = _config(options, checkpoint)
    device = pick_device(options.device, local_rank=distributed.local_rank())
    with distributed.process_group(device.type):
        data, split = _data(config, options.split)
        _check_data(data, checkpoint)
        check_class_names(config, data.classes)
        if distributed.rank() == 0:
            prepare_folder(options.output)
        evaluation = _evaluate(options, checkpoint, config, data, device)
        if distributed.rank() == 0:
            about = _about(options, checkpoint, config, device, split)
            _write(evaluation, data, about, options.output)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--version", action="version", version=f"%(prog)s {VERSION}")
    add("-m", "--model", type=Path, required=True, help="checkpoint (best_model.pth)")
    add("-c", "--config", type=Path, help="take the data from here, not from the checkpoint")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change keys of the config, such as val_loader.args.data_dir=/data",
    )
    add("--split", help="another part of the data (default: that of val_loader)")
    modes = ("whole", "multiscale", "sliding")
    add("-mo", "--mode", choices=modes, default="whole", help="(default: whole)")
    add("--scales", type=float, nargs="+", metavar="S", help="default: 0.75 1 1.25 1.5 1.75 2")
    add("--flip", action="store_true", help="average with the mirror image")
    add("--window", type=int, metavar="PIXELS", help="side of a window (default: as trained)")
    add("--overlap", type=float, default=1 / 3, help="of neighboring windows (default: 1/3)")
    add(
        "--boundary",
        type=float,
        nargs="?",
        const=0.02,
        metavar="RATIO",
        help="Boundary IoU too, within this share of the diagonal (0.02)",
    )
    formats = ("fp32", "bf16", "fp16", "auto")
    add("--precision", choices=formats, default="fp32", help="(default: fp32, without TF32)")
    add("-d", "--device", help="a GPU's index, cpu, cuda or mps (default: what is there)")
    add(
        "-o", "--output", type=Path, default=Path("evaluation"), help="folder (default: evaluation)"
    )
    add(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file with models, losses or data sets of yours",
    )
    options = parser.parse_args(arguments)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    scales, window, boundary = options.scales or (), options.window, options.boundary
    rules = (
        ("--scales", scales, all(0 < scale <= 8 for scale in scales), "in (0, 8]"),
        ("--window", window, window is None or window >= 32, "at least 32"),
        ("--overlap", options.overlap, 0 <= options.overlap <= 0.9, "in 0 .. 0.9"),
        ("--boundary", boundary, boundary is None or 0 < boundary <= 0.5, "in (0, 0.5]"),
    )
    for flag, value, valid, expected in rules:
        if not valid:
            raise ConfigError(f"{flag}: found {value}, expected {expected}")
    if options.mode == "whole" and (options.scales or options.window):
        flag = "--scales" if options.scales else "--window"
        fix = "multiscale" if options.scales else "sliding"
        raise ConfigError(f"{flag} has no effect in mode whole\n  fix: --mode {fix}")


def _config(options: argparse.Namespace, checkpoint: Mapping[str, Any]) -> "Config":
    from utils.config.config import load_config
    from utils.run.checkpoint import config_in

    if options.config is not None:
        return load_config(options.config, options.set)
    return config_in(checkpoint, options.model, options.set)


def _data(config: "Config", split: str | None) -> "tuple[BaseDataset, str | None]":
    """The labelled images, whole, and the name of their split."""
    from base.base_dataset import SPLITTING
    from dataloaders.building import build_whole

    train, val = config.train_loader, config.val_loader
    from_train = val is None or (split is not None and split == train.args.get("split"))
    kind, section = ("train_loader", train) if from_train or val is None else ("val_loader", val)
    args = dict(section.args)
    if split is not None:  # all of what was asked for, not the share that training left out
        args = {key: args[key] for key in args if key not in SPLITTING} | {"split": split}
    data = build_whole(kind, section.type, args, ignore_index=config.ignore_index, seed=config.seed)
    chosen = args.get("split")
    return data, chosen if isinstance(chosen, str) else None


def _check_data(data: "BaseDataset", checkpoint: Mapping[str, Any]) -> None:
    known, found = list(checkpoint["classes"]), list(data.classes)
    if known != found:
        raise CheckpointError(
            f"the model knows {len(known)} classes ({_some(known)}), the data have {len(found)} "
            f"({_some(found)})\n  fix: --config with the data that the model was trained for"
        )
    read = (len(checkpoint["mean"]), checkpoint.get("input_dtype", "uint8"))
    if read != (len(data.mean), data.input_dtype):
        raise CheckpointError(
            f"the model reads {read[0]} channels of {read[1]}, the data have {len(data.mean)} of "
            f"{data.input_dtype}\n  fix: --config with the data that the model was trained for"
        )
    if data.pairs and all(pair.mask is None for pair in data.pairs):
        raise DataError(
            f"{data.name(0)} and the {len(data) - 1} other images have no masks\n"
            "  fix: --split with a part whose labels are published"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _evaluate(
    options: argparse.Namespace,
    checkpoint: Mapping[str, Any],
    config: "Config",
    data: "BaseDataset",
    device: "torch.device",
) -> "Evaluation":
    from utils.evaluation.report_images import draw
    from utils.evaluation.scoring import Evaluator
    from utils.hardware import distributed
    from utils.hardware.precision import full_fp32
    from utils.metrics.scores import places
    from utils.run.progress import ProgressBar

    draws = partial(draw, palette=data.palette, ignore_index=data.ignore_index)
    evaluator = Evaluator(
        data,
        _predict(checkpoint, _settings(options, config), options.precision, device),
        draw=draws,
        boundary_ratio=options.boundary,
        scored=places(config.scored_classes, data.classes),
    )
    first, processes = distributed.rank() == 0, distributed.world_size()
    bar = ProgressBar("EVAL", -(-len(data) // processes), shown=first)
    with closing(bar), full_fp32():
        evaluation = evaluator.run(advance=bar.advance)
    if not evaluation.counts.any():
        raise DataError(
            f"{data.name(0)} and the {len(data) - 1} other images have no labelled pixel: "
            "expected masks with labels\n  fix: --split with a part whose labels are published"
        )
    return evaluation


def _settings(options: argparse.Namespace, config: "Config") -> "Settings":
    from utils.inference.prediction import WINDOW
    from utils.inference.predictor import Settings

    crop_size = config.train_loader.args.get("crop_size")
    return Settings(
        mode=options.mode,
        scales=tuple(options.scales) if options.scales else None,
        flip=options.flip,
        window=options.window,
        tile=crop_size if isinstance(crop_size, int) else WINDOW,
        overlap=options.overlap,
    )


def _predict(
    checkpoint: Mapping[str, Any], settings: "Settings", precision: str, device: "torch.device"
) -> "Predict":
    """From an image (H, W, channels) to its class numbers, as inference computes them."""
    from models import model_from_checkpoint
    from utils.inference.segmenter import Segmenter

    segmenter = Segmenter(
        model_from_checkpoint(checkpoint),
        checkpoint,
        settings=settings,
        device=device,
        precision=precision,
        say=lambda line: print(line, file=sys.stderr),
    )
    return lambda image: segmenter.segment(image).mask


def _about(
    options: argparse.Namespace,
    checkpoint: Mapping[str, Any],
    config: "Config",
    device: "torch.device",
    split: str | None,
) -> dict[str, Any]:
    from utils.hardware.precision import resolve_precision

    settings = _settings(options, config)
    section = config.val_loader or config.train_loader
    return {
        "arch": checkpoint["arch"],
        "data": section.type,
        "split": split,
        "checkpoint": str(options.model),
        "epoch": checkpoint.get("epoch"),
        "mode": settings.mode,
        "scales": list(settings.used_scales) if settings.used_scales != (1.0,) else None,
        "flip": settings.flip,
        "window": settings.used_window,
        "overlap": settings.overlap if settings.used_window else None,
        "boundary_ratio": options.boundary,
        "scored_classes": config.scored_classes,
        "precision": resolve_precision(options.precision, device),
        "device": device.type,
    }


def _write(
    evaluation: "Evaluation", data: "BaseDataset", about: Mapping[str, Any], output: Path
) -> None:
    from utils.evaluation.report import render
    from utils.evaluation.summary import confusion_csv, summarize, table
    from utils.files.outputs import write_whole

    summary = summarize(evaluation, classes=data.classes, about=about)
    files = {
        "metrics.json": json.dumps(summary, indent=2, ensure_ascii=False) + "\n",
        "confusion.csv": confusion_csv(evaluation.counts, data.classes),
        "report.html": render(evaluation, summary, palette=data.palette),
    }
    for name, text in files.items():
        encoded = text.encode(errors="backslashreplace")  # names of files need not be UTF-8
        write_whole(output / name, lambda path, encoded=encoded: path.write_bytes(encoded))
    print(table(summary))
    print(f"\n{summary['rules']} Predicted in {about['precision']} on {about['device']}.")
    print(f"{summary['images']} whole images; written: {', '.join(files)} in {output}")


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

"""Score a trained model on whole labelled images.

    python evaluate.py --model best_model.pth                       # the checkpoint's val data
    python evaluate.py --model best_model.pth --split test --boundary
    python evaluate.py --model best_model.pth --mode multiscale --flip
    python evaluate.py --model best_model.pth --images test/images --masks test/masks
    python evaluate.py --predictions out --masks test/masks --classes background road
    torchrun --nproc_per_node 4 evaluate.py --model best_model.pth  # the same numbers, sooner

Images are predicted at native size and masks are never resized, so the numbers can be compared
with published ones. Writes metrics.json, confusion.csv and report.html (which opens offline).
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import prediction_flags
from utils import VERSION
from utils.errors import ConfigError, DataError, guard
from utils.files.written import Written
from utils.hardware.devices import pick_device, restrict_gpus

if TYPE_CHECKING:
    import torch

    from base.base_dataset import BaseDataset
    from dataloaders.scored import Predictions
    from utils.config.config import Config
    from utils.evaluation.scoring import Evaluation, Predict
    from utils.inference.predictor import Settings

_FILES = ("metrics.json", "confusion.csv", "report.html")
# Where what is scored comes from: the flags that it needs, and those without effect.
_SOURCES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "predictions": (
        ("masks", "classes"),
        ("model", "images", "config", "set", "split", "scales", "flip", "window"),
    ),
    "images": (("model", "masks"), ("classes", "split")),
    "model": ((), ("masks", "classes")),
}


class Scored(NamedTuple):
    """What is scored: data, the model's answers, and what the report says of both."""

    data: "BaseDataset | Predictions"
    predict: "Predict"
    about: dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    written, results = Written(options.output), [options.output / name for name in _FILES]
    written.refuse_others(results, overwrite=options.overwrite)
    restrict_gpus(options.device)
    # Late: --help and wrong flags answer without waiting for torch.
    from utils.hardware import distributed

    device = pick_device(options.device, local_rank=distributed.local_rank())
    with distributed.process_group(device.type):
        scored = _of_model(options, device) if options.model else _of_predictions(options)
        with written.opened(results) if distributed.rank() == 0 else nullcontext():
            evaluation = _evaluate(options, scored)
            if distributed.rank() == 0:
                _write(evaluation, scored, written, options.output)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--version", action="version", version=f"%(prog)s {VERSION}")
    add("-m", "--model", type=Path, help="checkpoint (best_model.pth) or run folder")
    add("-i", "--images", type=Path, help="score these images, which the model has not seen")
    add("--masks", type=Path, help="the masks of --images, coded as in the training")
    add("--predictions", type=Path, help="instead of --model: masks from elsewhere; with --masks")
    add(
        "--classes",
        nargs="+",
        metavar="NAME[=KEY]",
        help="of --predictions in order; KEY is a label value or #RRGGBB",
    )
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
    add(
        "-o", "--output", type=Path, default=Path("evaluation"), help="folder (default: evaluation)"
    )
    add("--overwrite", action="store_true", help="replace files that this program did not write")
    prediction_flags.add_flags(parser, mode="whole")
    options = parser.parse_args(arguments)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    prediction_flags.check(options)
    ratio = options.boundary
    valid = ratio is None or 0 < ratio <= 0.5
    prediction_flags.require("--boundary", ratio, "in (0, 0.5]", valid=valid)
    source = next((name for name in _SOURCES if getattr(options, name)), None)
    if source is None:
        raise ConfigError("found nothing to score, expected --model, or --predictions with --masks")
    needed, useless = _SOURCES[source]
    if missing := [f"--{name}" for name in needed if not getattr(options, name)]:
        raise ConfigError(f"--{source} is given: {' and '.join(missing)} is missing")
    extra = [f"--{name}" for name in useless if getattr(options, name)]
    if source == "predictions" and (options.mode, options.precision) != ("whole", "fp32"):
        extra.append("--mode or --precision")
    if extra:
        raise ConfigError(f"{', '.join(extra)}: without effect beside --{source} alone")


def _of_model(options: argparse.Namespace, device: "torch.device") -> Scored:
    from assembly import check_class_names
    from dataloaders.scored import check_data
    from models.stored import read_model
    from tables import add_plugins
    from utils.inference.model import Model
    from utils.run.checkpoint import config_in
    from utils.run.names import date_of

    add_plugins(options.plugin)
    file, network, checkpoint = read_model(options.model)
    config = config_in(checkpoint, file, options.set)
    if options.config is not None:
        from utils.config.config import load_config

        config = load_config(options.config, options.set)
    data, about = _data(options, config, checkpoint)
    check_data(data, checkpoint)
    check_class_names(config, data.classes)
    settings = prediction_flags.settings(options, config.train_loader.args.get("crop_size"))
    model = Model(
        network,
        checkpoint,
        settings=settings,
        device=device,
        precision=options.precision,
        say=lambda line: print(line, file=sys.stderr),
    )
    run = {"run": config.name, "date": date_of(file.parent), "arch": checkpoint["arch"]}
    about |= {"scored_classes": config.scored_classes, "checkpoint": str(file)}
    about = run | about | {"epoch": checkpoint.get("epoch")}
    return Scored(data, model, about | _about(options, settings, device))


def _of_predictions(options: argparse.Namespace) -> Scored:
    from dataloaders.scored import Predictions

    data = Predictions(options.predictions, options.masks, options.classes)
    if data.left_out:
        print(f"{data.left_out} predictions without a mask are left out", file=sys.stderr)
    about = {"arch": str(options.predictions), "data": str(options.masks)}
    return Scored(data, lambda image: image[..., -1], about)


def _data(
    options: argparse.Namespace, config: "Config", checkpoint: Mapping[str, Any]
) -> "tuple[BaseDataset, dict[str, Any]]":
    """The labelled images, whole, and what the report says of them."""
    from dataloaders.building import SPLITTING, build_whole
    from dataloaders.scored import labelled_folders
    from utils.run.names import data_name

    train, val, split = config.train_loader, config.val_loader, options.split
    if options.images is not None:
        folders = options.images, options.masks
        about = {"data": str(options.images)}
        return labelled_folders(*folders, train.type, train.args, checkpoint), about
    if val is None and split is None and not any(map(train.args.get, SPLITTING)):
        raise ConfigError(
            "--model: the run has no validation data, and those of its training are no measure\n"
            "  fix: --images and --masks, --split, or --config with a val_loader"
        )
    from_train = val is None or (split is not None and split == train.args.get("split"))
    kind, section = ("train_loader", train) if from_train or val is None else ("val_loader", val)
    args = dict(section.args)
    if split is not None:  # all of what was asked for, not the share that training left out
        args = {key: args[key] for key in args if key not in SPLITTING} | {"split": split}
    data = build_whole(kind, section.type, args, ignore_index=config.ignore_index, seed=config.seed)
    chosen = args.get("split")
    name = data_name(section.type, section.args)
    about = {"data": name, "split": chosen if isinstance(chosen, str) else None}
    return data, about


def _evaluate(options: argparse.Namespace, scored: Scored) -> "Evaluation":
    from utils.evaluation.report_images import draw
    from utils.evaluation.scoring import Evaluator
    from utils.hardware import distributed
    from utils.hardware.precision import full_fp32
    from utils.metrics.scores import class_numbers
    from utils.run.progress import ProgressBar

    data = scored.data
    draws = partial(draw, palette=data.palette, ignore_index=data.ignore_index)
    evaluator = Evaluator(
        data,
        scored.predict,
        draw=draws,
        boundary_ratio=options.boundary,
        scored=class_numbers(scored.about.get("scored_classes"), data.classes),
    )
    first, processes = distributed.rank() == 0, distributed.world_size()
    bar = ProgressBar("EVAL", -(-len(data) // processes), shown=first)
    with closing(bar), full_fp32():
        evaluation = evaluator.run(advance=bar.advance)
    if not evaluation.counts.any():
        fix = "--masks with labels" if options.masks else "--split with a part that has labels"
        raise DataError(
            f"{data.name(0)} and the {len(data) - 1} other images have no labelled pixel: "
            f"expected masks with labels\n  fix: {fix}"
        )
    foreground = evaluation.counts[1:].any() or data.num_classes == 1
    if options.masks and not foreground and any(one.void_pixels for one in evaluation.images):
        raise DataError(
            f"--masks {options.masks}: found class 0 and void alone, expected other classes too\n"
            "  hint: where 255 is a class, --classes background=0 object=255 with --predictions, "
            'with --model --set \'train_loader.args.label_map={"0": 0, "255": 1}\''
        )
    return evaluation


def _about(
    options: argparse.Namespace, settings: "Settings", device: "torch.device"
) -> dict[str, Any]:
    from utils.hardware.precision import resolve_precision

    return {
        "mode": settings.mode,
        "scales": list(settings.used_scales) if settings.used_scales != (1.0,) else None,
        "flip": settings.flip,
        "window": settings.used_window,
        "overlap": settings.overlap if settings.used_window else None,
        "boundary_ratio": options.boundary,
        "precision": resolve_precision(options.precision, device),
        "device": device.type,
    }


def _write(evaluation: "Evaluation", scored: Scored, written: Written, output: Path) -> None:
    from utils.evaluation.report import render
    from utils.evaluation.summary import confusion_csv, summarize, table

    data, about = scored.data, scored.about
    summary = summarize(evaluation, classes=data.classes, about=about)
    metrics = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    counts = confusion_csv(evaluation.counts, data.classes)
    page = render(evaluation, summary, palette=data.palette)
    for name, text in zip(_FILES, (metrics, counts, page), strict=True):
        encoded = text.encode(errors="backslashreplace")  # names of files need not be UTF-8
        written.write(output / name, lambda path, encoded=encoded: path.write_bytes(encoded))
    how = f" Predicted in {about['precision']} on {about['device']}." if "device" in about else ""
    print(f"{table(summary)}\n\n{summary['rules']}{how}")
    print(f"{summary['images']} whole images; written: {', '.join(_FILES)} in {output}")


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

"""Segment images with a trained model; nothing is needed but the checkpoint.

    python inference.py --model best_model.pth --images photos
    python inference.py --model best_model.pth --images photo.jpg --mode whole --overlay
    python inference.py --model best_model.pth --images photos --recursive --flip --device 0
    python inference.py --model best_model.pth --images photos --mode sliding --window 769

Each image gives a palette PNG of its own size in --output. Images larger than memory,
and everything else: docs/inference.md.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import VERSION
from utils.errors import ConfigError, DataError, UserError, guard
from utils.files.outputs import Job, find_images, refuse_overwriting
from utils.files.written import Written
from utils.hardware.devices import pick_device, restrict_gpus

if TYPE_CHECKING:
    from utils.inference.segmenter import Segmenter


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    jobs = find_images(
        options.images,
        extension=options.extension,
        recursive=options.recursive,
        output=options.output,
    )
    refuse_overwriting(jobs)
    written, results = Written(options.output), _results(jobs, options)
    written.refuse_others(results, overwrite=options.overwrite)
    restrict_gpus(options.device)
    segmenter = _segmenter(options)
    with written.opened(results):
        failures = _run(jobs, segmenter, written)
    print(f"{len(jobs) - len(failures)} of {len(jobs)} images segmented, masks in {options.output}")
    if failures:
        listed = "\n".join(f"  {error}" for error in failures)
        raise DataError(f"{len(failures)} of {len(jobs)} images failed:\n{listed}")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--version", action="version", version=f"%(prog)s {VERSION}")
    add("-m", "--model", type=Path, required=True, help="checkpoint (best_model.pth)")
    add("-i", "--images", type=Path, required=True, help="folder of images, or one image")
    add("-o", "--output", type=Path, default=Path("outputs"), help="folder (default: outputs)")
    add("-e", "--extension", default="jpg", help="of the images, in any case (default: jpg)")
    modes = ("multiscale", "sliding", "whole")
    add("-mo", "--mode", choices=modes, default="multiscale", help="(default: multiscale)")
    add("-c", "--config", type=Path, help="take precision and window from here, not the checkpoint")
    add("-d", "--device", help="a GPU's index, cpu, cuda or mps (default: what is there)")
    add("--scales", type=float, nargs="+", metavar="S", help="default: 0.75 1 1.25 1.5 1.75 2")
    add("--flip", action="store_true", help="average with the mirror image")
    add("--window", type=int, metavar="PIXELS", help="side of a window (default: as trained)")
    add("--overlap", type=float, default=1 / 3, help="of neighboring windows (default: 1/3)")
    add("--batch-size", type=int, default=4, metavar="N", help="windows at a time (default: 4)")
    add("--overlay", action="store_true", help="also the image with its classes drawn in")
    add("--save-probs", action="store_true", help="also probabilities, float16 (K, H, W) .npy")
    add("--recursive", action="store_true", help="folders inside --images too; the tree is kept")
    add("--overwrite", action="store_true", help="replace files in --output that are not ours, too")
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
    rules = (
        ("--scales", options.scales, all(0 < s <= 8 for s in options.scales or ()), "in (0, 8]"),
        ("--window", options.window, options.window is None or options.window >= 32, "at least 32"),
        ("--overlap", options.overlap, 0 <= options.overlap <= 0.9, "in 0 .. 0.9"),
        ("--batch-size", options.batch_size, options.batch_size >= 1, "at least 1"),
    )
    for flag, value, valid, expected in rules:
        if not valid:
            raise ConfigError(f"{flag}: found {value}, expected {expected}")
    if "," in (options.device or ""):
        raise ConfigError(
            f"--device {options.device}: inference runs on one device\n"
            "  fix: one index here, and a share of the images for each further process"
        )
    if options.mode == "whole" and (options.scales or options.window):
        flag = "--scales" if options.scales else "--window"
        fix = "multiscale" if options.scales else "sliding"
        raise ConfigError(f"{flag} has no effect in mode whole\n  fix: --mode {fix}")


def _results(jobs: Sequence[Job], options: argparse.Namespace) -> list[Path]:
    """The files that may be written; the mask of a TIFF is a TIFF where it has a place."""
    from utils.files.rasters import SUFFIXES

    extras = [".overlay.jpg"] * options.overlay + [".npy"] * options.save_probs
    return [
        job.result(suffix)
        for job in jobs
        for suffix in (".png", *extras, *([".tif"] if job.image.suffix.lower() in SUFFIXES else []))
    ]


def _segmenter(options: argparse.Namespace) -> "Segmenter":
    # Late: --help and wrong paths answer without waiting for torch.
    from models import model_from_checkpoint
    from tables import add_plugins
    from utils.inference.prediction import WINDOW
    from utils.inference.predictor import Settings
    from utils.inference.results import Extras
    from utils.inference.segmenter import Segmenter
    from utils.run.checkpoint import load

    add_plugins(options.plugin)
    checkpoint = load(options.model)
    config = checkpoint["config"] if options.config is None else _config(options.config, checkpoint)
    crop_size = config["train_loader"]["args"].get("crop_size")
    settings = Settings(
        mode=options.mode,
        scales=tuple(options.scales) if options.scales else None,
        flip=options.flip,
        window=options.window,
        tile=crop_size or WINDOW,
        overlap=options.overlap,
        batch_size=options.batch_size,
    )
    return Segmenter(
        model_from_checkpoint(checkpoint),
        checkpoint,
        settings=settings,
        device=pick_device(options.device),
        precision=config["trainer"].get("precision", "auto"),
        extras=Extras(overlay=options.overlay, probabilities=options.save_probs),
        say=_say,
    )


def _config(path: Path, checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    from utils.config.config import load_config

    config = load_config(path).resolved()
    if config["arch"]["type"] != checkpoint["arch"]:
        raise ConfigError(
            f"{path}: arch.type is {config['arch']['type']}, the checkpoint holds "
            f"{checkpoint['arch']}\n  fix: leave out --config, the checkpoint has its own"
        )
    return config


def _run(jobs: Sequence[Job], segmenter: "Segmenter", written: Written) -> list[UserError]:
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    failures = []
    started = said = time.monotonic()
    with tqdm(total=len(jobs), unit="image", dynamic_ncols=True, disable=not terminal) as bar:
        for done, (_, error) in enumerate(segmenter.run(jobs, written.write), start=1):
            bar.update()
            if error is not None:
                failures.append(error)
                _say(f"failed: {error}")
            now = time.monotonic()
            if not terminal and (now - said > 10 or done == len(jobs)):
                said, speed = now, done / (now - started)
                left = (len(jobs) - done) / speed
                _say(f"{done}/{len(jobs)}  {speed:.2f} images/s  {left:.0f} s left")
    return failures


def _say(message: str) -> None:
    from tqdm import tqdm

    tqdm.write(message, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

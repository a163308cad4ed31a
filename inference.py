"""Segment images with a trained model; nothing is needed but the checkpoint.

From Python, `load("best_model.pth")` returns a function of arrays. From the command line:

    python inference.py --model best_model.pth --images photos
    python inference.py --model best_model.pth --images photos --extension jpg png tif
    python inference.py --model best_model.pth --images a.jpg b.jpg --mode whole --overlay 0.3
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

import prediction_flags
from utils import VERSION
from utils.errors import ConfigError, DataError, UserError, guard
from utils.files.outputs import Job, find_images, refuse_overwriting
from utils.files.written import Written
from utils.hardware.devices import pick_device, restrict_gpus

if TYPE_CHECKING:
    import torch

    from utils.inference.model import Model
    from utils.inference.predictor import Mode
    from utils.inference.segmenter import Segmenter


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    jobs, left_out = find_images(
        options.images,
        extensions=options.extension,
        recursive=options.recursive,
        output=options.output,
    )
    if left_out:
        print(f"left out, by --extension: {left_out}", file=sys.stderr)
    refuse_overwriting(jobs)
    written, results = Written(options.output), _results(jobs, options)
    written.refuse_others(results, overwrite=options.overwrite)
    restrict_gpus(options.device)
    model = _model(options)
    from utils.inference.results import Extras

    extras = Extras(options.overlay, array=options.save_probs, confidence=options.save_confidence)
    segmenter = model.segmenter(extras=extras)
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
    add("-m", "--model", type=Path, required=True, help="checkpoint (best_model.pth) or run folder")
    add("-i", "--images", type=Path, nargs="+", required=True, help="folders and images")
    add("-o", "--output", type=Path, default=Path("outputs"), help="folder (default: outputs)")
    add("--overwrite", action="store_true", help="replace files that this program did not write")
    add(
        "-e",
        "--extension",
        nargs="+",
        default=["jpg"],
        help="of the images in folders, in any case, several or all (default: jpg)",
    )
    add("-c", "--config", type=Path, help="take precision and window from here, not the checkpoint")
    add("--batch-size", type=int, default=4, metavar="N", help="windows at a time (default: 4)")
    add(
        "--overlay",
        type=float,
        nargs="?",
        const=0.5,
        default=0.0,
        metavar="OPACITY",
        help="also the image with its classes drawn in (0.5)",
    )
    add("--save-probs", action="store_true", help="also probabilities, float16 (K, H, W) .npy")
    add("--save-confidence", action="store_true", help="also the highest probability, gray .png")
    add("--recursive", action="store_true", help="folders inside --images too; the tree is kept")
    prediction_flags.add_flags(parser, mode="multiscale")
    options = parser.parse_args(arguments)
    _check(options)
    opacity = options.overlay
    prediction_flags.require("--overlay", opacity, "in 0 .. 1", valid=0 <= opacity <= 1)
    return options


def _check(options: argparse.Namespace) -> None:
    prediction_flags.check(options)
    size = options.batch_size
    prediction_flags.require("--batch-size", size, "at least 1", valid=size >= 1)
    if "," in (options.device or ""):
        raise ConfigError(
            f"--device {options.device}: inference runs on one device\n"
            "  fix: one index here, and a share of the images for each further process"
        )


def _results(jobs: Sequence[Job], options: argparse.Namespace) -> list[Path]:
    """The files that may be written; the mask of a TIFF is a TIFF where it has a place."""
    from utils.files.rasters import SUFFIXES

    extras = [".overlay.jpg"] * bool(options.overlay) + [".npy"] * options.save_probs
    extras += [".confidence.png"] * options.save_confidence
    return [
        job.result(suffix)
        for job in jobs
        for suffix in (".png", *extras, *([".tif"] if job.image.suffix.lower() in SUFFIXES else []))
    ]


def load(  # noqa: PLR0913  the flags
    model: str | Path,
    *,
    mode: "Mode" = "multiscale",
    scales: Sequence[float] | None = None,
    flip: bool = False,
    window: int | None = None,
    overlap: float = 1 / 3,
    batch_size: int = 4,
    config: str | Path | None = None,
    device: "str | torch.device | None" = None,
    plugin: Sequence[str] = (),
) -> "Model":
    """Load a trained model, to be called with arrays; the settings are the flags of inference.py.

    Args:
        model: A checkpoint (best_model.pth), or a run folder.
        mode: "multiscale", "sliding" or "whole".
        scales: Factors on the size; None: 0.75 1 1.25 1.5 1.75 2, in mode "sliding" 1.
        flip: Average with the mirror image.
        window: Side of a window in pixels; None: as trained.
        overlap: Of neighboring windows, in [0, 0.9].
        batch_size: Windows at a time.
        config: A config to take precision and window from, not the checkpoint.
        device: "cpu", "cuda", "mps", "cuda:1", or a GPU's index; None: a GPU where there is one.
        plugin: Python files with models of yours.

    Raises:
        ConfigError: A setting out of range or without effect.
        CheckpointError: No model, or a damaged one.
    """
    device = None if device is None else str(device).removeprefix("cuda:")
    options = argparse.Namespace(**locals())
    _check(options)
    return _model(options, gpu=_gpu(device))


def _gpu(device: str | None) -> int:
    """Which GPU a caller means, whose CUDA_VISIBLE_DEVICES is left alone: torch may be at work."""
    if device in (None, "cpu", "cuda", "mps"):
        return 0
    import torch

    count = torch.cuda.device_count()
    known = device.isdigit() and int(device) < count
    expected = f"cpu, cuda, mps, or the index of one of {count} GPUs"
    prediction_flags.require("device", device, expected, valid=known)
    return int(device)


def _model(options: argparse.Namespace, *, gpu: int = 0) -> "Model":
    # Late: --help and wrong paths answer without waiting for torch.
    from models.stored import read_model
    from tables import add_plugins
    from utils.inference.model import Model

    add_plugins(options.plugin)
    _, network, checkpoint = read_model(Path(options.model))
    config = checkpoint["config"]
    if options.config is not None:
        config = _config(Path(options.config), checkpoint)
    crop_size = config["train_loader"]["args"].get("crop_size")
    return Model(
        network,
        checkpoint,
        settings=prediction_flags.settings(options, crop_size),
        device=pick_device(options.device, local_rank=gpu),
        precision=config["trainer"].get("precision", "auto"),
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

"""What to do with a finished run: the commands, and pictures to try them on."""

import shlex
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from utils.run import folder as run_folder
from utils.run.monitor import Monitor

_SAMPLES = 8  # pictures written out for a first try at inference


class Pictures(Protocol):
    """A data set."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The picture, uint8 (H, W, 3), and its mask."""
        ...

    def name(self, index: int) -> str:
        """What it is called."""
        ...


def best_line(monitor: Monitor, *, crop: int | None) -> str:
    """The best score in words.

    Args:
        monitor: Followed it.
        crop: The side of the centre crops that were scored, or None: whole images.
    """
    if monitor.best is None:
        return "no score to choose by: the last weights are the ones to use"
    note = "" if crop is None else f", scored on centre crops of {crop} px, not whole images"
    return f"best {monitor.metric} {monitor.best:.4f} (epoch {monitor.best_epoch}{note})"


def example_picture(data: Pictures, folder: Path) -> Path:
    """A picture of a data set; one that draws them leaves a few in the run folder as JPEG."""
    first = Path(data.name(0))
    if first.is_file():
        return first
    samples = folder / "samples"
    samples.mkdir(exist_ok=True)
    paths = [samples / f"{data.name(index)}.jpg" for index in range(min(_SAMPLES, len(data)))]
    for index, path in enumerate(paths):
        Image.fromarray(data.load(index)[0]).save(path, quality=95)
    return paths[0]


def commands(folder: Path, *, example: Path, log_dir: str | None, on_cpu: bool) -> list[str]:
    """Command lines to go on with.

    Args:
        folder: The run folder.
        example: A picture such as those that the model was trained on.
        log_dir: Where TensorBoard's files are, or None.
        on_cpu: Whether the run was on a CPU, where the quickest mode of inference is offered.
    """
    lines = [] if log_dir is None else [f"tensorboard --logdir {shlex.quote(log_dir)}"]
    files = (folder / name for name in (run_folder.BEST, run_folder.LAST))
    model = next(filter(Path.exists, files), None)
    if model is None:  # a file resumed in a new folder, of a run that was done
        return lines
    inference = ["python", "inference.py", "--model", str(model), "--images", str(example.parent)]
    extension = example.suffix.removeprefix(".").lower()
    if extension != "jpg":
        inference += ["--extension", extension]
    if on_cpu:
        inference += ["--mode", "whole"]
    evaluation = ["python", "evaluate.py", "--model", str(model)]
    return [*lines, shlex.join(inference), shlex.join(evaluation)]

"""What to do with a finished run: the commands, and pictures to try them on."""

import shlex
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from utils import run_folder

_SAMPLES = 8  # pictures written out for a first try at inference


class Pictures(Protocol):
    """A data set that draws its pictures."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The picture, uint8 (H, W, 3), and its mask."""
        ...

    def name(self, index: int) -> str:
        """What it is called."""
        ...


def write_samples(data: Pictures, folder: Path) -> Path:
    """Write a few pictures as JPEG files and return the first one's path."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{data.name(index)}.jpg" for index in range(min(_SAMPLES, len(data)))]
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
    best = folder / run_folder.BEST
    model = best if best.exists() else folder / run_folder.LAST
    inference = ["python", "inference.py", "--model", str(model), "--images", str(example.parent)]
    extension = example.suffix.removeprefix(".").lower()
    if extension != "jpg":
        inference += ["--extension", extension]
    if on_cpu:
        inference += ["--mode", "whole"]
    evaluation = ["python", "evaluate.py", "--model", str(model)]
    return [*lines, shlex.join(inference), shlex.join(evaluation)]

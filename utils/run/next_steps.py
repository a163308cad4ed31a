"""What came of a run, and the commands to go on with."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.run import folder as run_folder
from utils.run.monitor import Monitor

_ROOT = Path(__file__).resolve().parents[2]


def result_lines(
    folder: Path,
    monitor: Monitor,
    *,
    example: Path,
    crop: int | None,
    log_dir: str | None,
    on_cpu: bool,
    plugins: Sequence[str],
) -> list[str]:
    """The best score, the run folder, and commands to go on with.

    Args:
        folder: The run folder.
        monitor: Followed the score.
        example: An image such as those that the model was trained on.
        crop: The side of the center crops that were scored, or None: whole images.
        log_dir: Where TensorBoard's files are, or None.
        on_cpu: Whether the run was on a CPU, where the quickest mode of inference is offered.
        plugins: Files that the run took components from.
    """
    lines = [_best(monitor, crop), f"run folder: {folder}"]
    if log_dir is not None:
        lines.append(f"next: {_quoted('tensorboard', '--logdir', log_dir)}")
    files = (folder / name for name in (run_folder.BEST, run_folder.LAST))
    model = next(filter(Path.exists, files), None)
    if model is None:  # a file resumed in a new folder, of a run that was done
        return lines
    inference = ["--model", str(model), "--images", str(example.parent)]
    extension = example.suffix.removeprefix(".").lower()
    if extension != "jpg":
        inference += ["--extension", extension]
    if on_cpu:
        inference += ["--mode", "whole"]
    lines.append(f"next: {command_line('inference.py', *inference, plugins=plugins)}")
    evaluation = command_line("evaluate.py", "--model", str(model), plugins=plugins)
    return [*lines, f"next: {evaluation}"]


def _best(monitor: Monitor, crop: int | None) -> str:
    if monitor.best is None:
        return "no score to choose by: the last weights are the ones to use"
    note = "" if crop is None else f", scored on center crops of {crop} px, not whole images"
    return f"best {monitor.shown()} (epoch {monitor.best_epoch}{note})"


def command_line(script: str, *words: str, plugins: Sequence[str] = ()) -> str:
    """A command that works from where the user stands; `script` is in the program's folder."""
    name = Path(sys.executable).name
    python = name if shutil.which(name) == sys.executable else sys.executable
    place = script if Path.cwd() == _ROOT else str(_ROOT / script)
    return _quoted(python, place, *words, *(f"--plugin={file}" for file in plugins))


def _quoted(*words: str) -> str:
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)

"""What came of a run, and the commands to go on with."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from utils import PACKAGE, ROOT
from utils.run import folder as run_folder
from utils.run.monitor import Monitor


def result_lines(
    folder: Path,
    monitor: Monitor,
    *,
    example: Path,
    crop: int | None,
    validated: bool,
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
        validated: Whether the run has validation data, which `evaluate` scores.
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
    lines.append(f"next: {command_line('inference', *inference, plugins=plugins)}")
    if not validated:
        return lines
    evaluation = command_line("evaluate", "--model", str(model), plugins=plugins)
    return [*lines, f"next: {evaluation}"]


def _best(monitor: Monitor, crop: int | None) -> str:
    if monitor.best is None:
        return "no score to choose by: the last weights are the ones to use"
    note = "" if crop is None else f", scored on center crops of {crop} px, not whole images"
    return f"best {monitor.shown()} (epoch {monitor.best_epoch}{note})"


def command_line(command: str, *words: str, plugins: Sequence[str] = ()) -> str:
    """A command, such as train, that works from where the user stands."""
    start = _installed(command) if PACKAGE else _in_checkout(command)
    return _quoted(*start, *words, *(f"--plugin={file}" for file in plugins))


def _installed(command: str) -> list[str]:
    program = PACKAGE.removesuffix(".")
    beside = shutil.which(program, path=str(Path(sys.executable).parent))
    if beside is None:
        return [_shortest(sys.executable), "-m", PACKAGE + command]
    return [program if shutil.which(program) == beside else beside, command]


def _in_checkout(command: str) -> list[str]:
    script = Path(f"{command}.py")
    return [_shortest(sys.executable), str(script if Path.cwd() == ROOT else ROOT / script)]


def _shortest(program: str) -> str:
    """A program's name, where the shell finds this one under it, else its place."""
    name = Path(program).name
    return name if shutil.which(name) == program else program


def _quoted(*words: str) -> str:
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)

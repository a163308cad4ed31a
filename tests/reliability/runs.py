"""The run that trials interrupt, and what it has to end with."""

import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import mkdtemp

from conftest import tiny_config
from forks import Ended, run
from test_resume import contents, differing

import train
from utils.run import checkpoint


def write(folder: Path, **changes) -> Path:
    """ENet (it has dropout), averaged weights, two batches an update, saved every iteration."""
    options = {"epochs": 2, "accumulate": 2, "save_per_iters": 1, "ema": 0.9, "log_per_iter": 1}
    config = tiny_config(folder, **(options | changes.pop("trainer", {})))
    for kind in ("train_loader", "val_loader"):
        config[kind]["args"] |= {"height": 32, "width": 32, **changes.pop(kind, {})}
    config["train_loader"]["args"] |= {"base_size": 32, "crop_size": 32, "batch_size": 3}
    path = folder / "config.json"
    path.write_text(json.dumps(config | changes))
    return path


def run_of(folder: Path) -> Path | None:
    """The only run folder, if there is one yet."""
    runs = list((folder / "saved" / "tiny").glob("*"))
    assert len(runs) < 2, runs
    return runs[0] if runs else None


def begin(config: Path):
    """The command that starts a run."""
    return lambda _: train.main(["--config", str(config)])


def resume(place: Path):
    """The command that goes on with one."""
    return lambda _: train.main(["--resume", str(place)])


@cache
def warm() -> None:
    """A run in this process, so that no child has to import and set up what all need."""
    folder = Path(mkdtemp())
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            train.main(["--config", str(write(folder))])
    finally:
        shutil.rmtree(folder)


@cache
def reference() -> dict:
    """What the uninterrupted run ends with."""
    warm()
    folder = Path(mkdtemp())
    try:
        ended = run(begin(write(folder)), folder / "words")
        assert (ended.code, ended.fault) == (0, ""), ended
        return left_in(run_of(folder))
    finally:
        shutil.rmtree(folder)


def brought_to_its_end(folder: Path, expected: dict | None = None) -> str:
    """Resume, or start again where nothing was saved; what differs from a run never stopped."""
    words, place = folder / "words", run_of(folder)
    files = [] if place is None else list(place.glob("*.pth"))
    for file in files:  # the old one or the new one, never a torn one
        try:
            checkpoint.load(file)
        except checkpoint.CheckpointError as error:
            return str(error)
    saved = bool(files)
    if place is not None and not saved:
        shutil.rmtree(place)
    ended = run(resume(place) if saved else begin(folder / "config.json"), words)
    return fault_of(folder, ended, expected)


def left_in(place: Path) -> dict:
    """All that a run has left, but its config: trials differ in the number of workers."""
    return {name: value for name, value in contents(place).items() if "/config/" not in name}


def fault_of(folder: Path, ended: Ended, expected: dict | None = None) -> str:
    """What is wrong with a run that should have ended like the reference."""
    if ended.fault or ended.code:
        return ended.fault or f"exit {ended.code}: {ended.words[-300:]}"
    place = run_of(folder)
    if left := [file.name for file in place.glob(".*.partial")]:
        return f"left {left}"
    expected = reference() if expected is None else expected
    return ", ".join(differing(left_in(place), expected)[:3])

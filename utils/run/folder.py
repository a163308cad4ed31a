"""The folder of a run: made exclusively, searched on resume, trimmed as it grows."""

import logging
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.errors import CheckpointError, ConfigError, ResourceError
from utils.run import checkpoint

log = logging.getLogger("segmentation")

LAST = "last.pth"
BEST = "best_model.pth"
ROWS = "metrics.jsonl"
OURS = re.compile(
    r"(last|best_model|checkpoint-(epoch|iter)\d+)\.pth|(config|nonfinite)\.json"
    r"|validation\.png|report\.html"
)
_LONGEST_NAME = 255  # bytes, on all file systems in use
_KEPT_ITERATIONS = 2  # the newest may be damaged by what ended the run


def check_folders(*, save_dir: Path | None, log_dir: Path | None) -> None:
    """Refuse folders that cannot be made, before the data are looked at; makes nothing.

    Args:
        save_dir: Where the run's own folder will be, or None when it is there.
        log_dir: Where TensorBoard's will be, or None without it.

    Raises:
        ConfigError: What there is of a path is no folder, or cannot be written.
    """
    for key, folder in (("trainer.save_dir", save_dir), ("trainer.log_dir", log_dir)):
        if folder is None:
            continue
        if fault := _cannot_make(folder / "a run's date, and a file in it"):
            raise ConfigError(
                f"{key}: cannot make {folder}: {fault}\n  set {key} to a folder that can be written"
            )


def _cannot_make(folder: Path) -> str | None:
    for one in (folder, *folder.parents):
        try:
            mode = one.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            if one.is_symlink():
                return f"{one} is a link to what is not there"
            if len(os.fsencode(one.name)) > _LONGEST_NAME:
                return f"{one}: File name too long"
            continue
        except OSError as error:
            return f"{one}: {error.strerror}"
        if not stat.S_ISDIR(mode):
            return f"{one} is not a folder"
        return None if os.access(one, os.W_OK | os.X_OK) else f"{one} cannot be written"
    return f"{folder.anchor or folder} is not there"


def create(save_dir: Path, name: str) -> Path:
    """Make `<save_dir>/<name>/<YYYY-MM-DD_HH-MM-SS>/`, which no other run has or gets.

    Raises:
        ResourceError: The folder cannot be made.
    """
    stamp = datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    parent = save_dir / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            folder = parent / (stamp if attempt == 1 else f"{stamp}-{attempt}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            for one in (parent, save_dir, save_dir.parent):
                checkpoint.sync_folder(one)
            return folder
    except OSError as error:
        raise ResourceError(
            f"cannot make a run folder in {parent}: {error.strerror}\n"
            "  set trainer.save_dir to a folder that can be written"
        ) from error
    raise ResourceError(f"cannot make a run folder in {parent}: a thousand runs this second")


def find_checkpoint(path: Path) -> tuple[Path, dict]:
    """The checkpoint to resume from: the file itself, or the furthest sound one of a folder.

    Args:
        path: A checkpoint, or a run folder.

    Returns:
        The file and its content.

    Raises:
        CheckpointError: None can be used; names every file tried and its fault.
    """
    if not path.is_dir():
        return path, checkpoint.load(path)
    kinds = ([path / LAST], _newest(path, "epoch"), _newest(path, "iter"))
    furthest, faults = None, []
    for files in kinds:
        for file in filter(Path.exists, files):  # of one kind the newest sound one is the furthest
            try:
                content = checkpoint.load(file)
            except CheckpointError as error:
                faults.append(str(error))
                continue
            if furthest is None or content.get("step", 0) > furthest[1].get("step", 0):
                furthest = file, content
            break
    if furthest is None:
        tried = "\n  ".join(faults) or f"no {LAST}, no checkpoint-*.pth{_runs_below(path)}"
        raise CheckpointError(f"{path}: nothing to resume from\n  {tried}")
    for fault in faults:
        log.warning("passed over: %s", fault)
    return furthest


def begin_history(folder: Path, state: Mapping[str, Any], rows: bytes) -> None:
    """Make a checkpoint the last of its run, which has one history at a time.

    What lies ahead of it, of a history that is left, goes to a folder of its own, with all rows so
    far. A kill in between leaves the one history or the other: `last.pth` goes first, the rows are
    cut after this.

    Args:
        folder: The run folder.
        state: The content of the checkpoint that the run goes on from.
        rows: Those of metrics.jsonl.
    """
    last, best = folder / LAST, folder / BEST
    step = step_of(last)
    later = [last] if step > state["step"] else []
    for kind, done in (("epoch", state["epoch"]), ("iter", state["step"])):
        later += [file for file in _newest(folder, kind) if _number(file) > done]
    # Of a run that goes back. Else a kill before last.pth was saved may have left it ahead.
    if (later or step < 0) and step_of(best) > state["step"]:
        later.append(best)
    if later:
        aside = next(one for n in range(1, 10**6) if not (one := folder / f"left-{n}").exists())
        aside.mkdir()
        (aside / ROWS).write_bytes(rows)
        for file in later:
            file.rename(aside / file.name)
        log.warning(
            "a history is left: %s and a copy of %s, later than iteration %d, are in %s now",
            ", ".join(file.name for file in later),
            ROWS,
            state["step"],
            aside,
        )
    if step != state["step"]:
        checkpoint.save([last], state)


def step_of(file: Path) -> int:
    """Return the iteration of a checkpoint; -1 of one that is missing or damaged."""
    try:
        return checkpoint.load(file).get("step", -1)
    except CheckpointError:
        return -1


def find_model(path: Path) -> Path:
    """Return the file to take a network from: `path` itself, of a run folder its best model.

    Raises:
        CheckpointError: The folder holds none; names the runs in it.
    """
    if not path.is_dir():
        return path
    files = [path / BEST, path / LAST, *_newest(path, "iter"), *_newest(path, "epoch")]
    found = next(filter(Path.exists, files), None)
    if found is None:
        raise CheckpointError(f"{path}: a folder without {BEST} and {LAST}{_runs_below(path)}")
    return found


def _runs_below(path: Path) -> str:
    """Whoever names `saved` or `saved/<name>` means one of the runs in it: the newest ones."""
    files = [*path.glob("*/*.pth"), *path.glob("*/*/*.pth")]
    runs = sorted({file.parent for file in files}, key=lambda run: run.name, reverse=True)
    return "".join(f"\n  a run folder in it: {run}" for run in runs[:3])


def trim(folder: Path, *, keep: int | None) -> None:
    """Delete old checkpoints: of epochs all but `keep` (None: all stay), of iterations two."""
    old = [] if keep is None else _newest(folder, "epoch")[keep:]
    for file in [*old, *_newest(folder, "iter")[_KEPT_ITERATIONS:]]:
        with suppress(PermissionError):  # on Windows somebody reads it: the next time, then
            file.unlink()


def _newest(folder: Path, kind: str) -> list[Path]:
    # By the number in the name: clocks jump, and copying changes a file's time.
    numbered = {
        _number(path): path
        for path in folder.glob(f"checkpoint-{kind}*.pth")
        if OURS.fullmatch(path.name)
    }
    return [numbered[number] for number in sorted(numbered, reverse=True)]


def _number(path: Path) -> int:
    return int("".join(filter(str.isdigit, path.stem)))

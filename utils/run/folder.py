"""The folder of a run: made exclusively, searched on resume, trimmed as it grows."""

import logging
import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from utils.errors import CheckpointError, ConfigError, ResourceError
from utils.run import checkpoint

log = logging.getLogger("segmentation")

LAST = "last.pth"
BEST = "best_model.pth"
IMAGES = "validation.png"  # of the last validation
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
        there = next((one for one in (folder, *folder.parents) if os.access(one, os.F_OK)), folder)
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            fault = "cannot be written" if there.is_dir() else "is not a folder"
            raise ConfigError(
                f"{key}: cannot make {folder}: {there} {fault}\n"
                f"  set {key} to a folder that can be written"
            )


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
            return folder
    except OSError as error:
        raise ResourceError(
            f"cannot make a run folder in {parent}: {error.strerror}\n"
            "  set trainer.save_dir to a folder that can be written"
        ) from error
    raise ResourceError(f"cannot make a run folder in {parent}: a thousand runs this second")


def date_of(folder: Path) -> str | None:
    """The minute at which a run began, as its folder's name tells it: "2026-01-31 12:00"."""
    found = re.match(r"(\d{4}-\d\d-\d\d)_(\d\d)-(\d\d)-\d\d", folder.absolute().name)
    return found and f"{found[1]} {found[2]}:{found[3]}"


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
    candidates = [path / LAST, *_newest(path, "iter")[:2], *_newest(path, "epoch")[:2]]
    furthest, faults = None, []
    for candidate in filter(Path.exists, candidates):
        try:
            content = checkpoint.load(candidate)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if furthest is None or content.get("step", 0) > furthest[1].get("step", 0):
            furthest = candidate, content
    if furthest is None:
        tried = "\n  ".join(faults) or f"no {LAST}, no checkpoint-*.pth{_runs_below(path)}"
        raise CheckpointError(f"{path}: nothing to resume from\n  {tried}")
    for fault in faults:
        log.warning("%s", fault)
    return furthest


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


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of a process that was killed while it wrote."""
    for leftover in folder.glob(".*.partial"):
        leftover.unlink(missing_ok=True)


def _newest(folder: Path, kind: str) -> list[Path]:
    # By the number in the name: clocks jump, and copying changes a file's time.
    numbered = {
        int(match[1]): path
        for path in folder.glob(f"checkpoint-{kind}*.pth")
        if (match := re.fullmatch(rf"checkpoint-{kind}(\d+)\.pth", path.name))
    }
    return [numbered[number] for number in sorted(numbered, reverse=True)]

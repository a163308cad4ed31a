"""The run that --resume goes on with: its checkpoint, its own config, its folder."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.config.config import Config
from utils.errors import CheckpointError, ConfigError
from utils.run import folder as run_folder
from utils.run.checkpoint import config_in

log = logging.getLogger("segmentation")

_ORDER = ("split", "length", "val_split", "val_fold", "group", "shuffle", "drop_last")


def resumed_run(path: Path, overrides: Sequence[str]) -> tuple[Config, dict, Path | None]:
    """Find a run and apply changes to its config.

    Args:
        path: A checkpoint or a run folder.
        overrides: `--set` arguments; differences are listed in the log.

    Returns:
        The config, the checkpoint's content, and the run folder; None for a file that was moved
        away from its folder, which starts a new one.

    Raises:
        CheckpointError: Nothing sound to go on from.
        ConfigError: Faulty overrides, or another network.
    """
    file, state = run_folder.find_checkpoint(path)
    if state.get("kind") != "training":
        raise CheckpointError(
            f"{file}: holds no optimizer state, so a run cannot go on from it\n"
            f"  resume from last.pth or checkpoint-*.pth, or start anew with --set init_from={file}"
        )
    own, config = config_in(state, file), config_in(state, file, overrides)
    if config.arch != own.arch:
        raise ConfigError(
            f"--set arch: a resumed run keeps its network ({own.arch.type}); to start another one "
            f"from these weights, train anew with --set init_from={file}"
        )
    if config.init_from != own.init_from:
        raise ConfigError(
            f"--set init_from: found {config.init_from}, and a resumed run goes on with its own "
            "weights\n  fix: train anew, with --config instead of --resume"
        )
    _check_place(own, config, state, file)
    _report_changes(own.resolved(), config.resolved())
    if state["epoch"] >= config.trainer.epochs:
        log.warning(
            "%s: all %d epochs are done, nothing is left to train; more: --set trainer.epochs=%d",
            file,
            config.trainer.epochs,
            2 * max(config.trainer.epochs, state["epoch"]),
        )
    log.info("going on from %s (epoch %d, iteration %d)", file, state["epoch"], state["step"])
    theirs = path.is_dir() or any(
        (file.parent / name).exists() for name in ("metrics.jsonl", "train.log")
    )
    folder = file.parent if theirs else None
    _forget_lost_best(state, folder)
    return config, state, folder


def _forget_lost_best(state: dict, folder: Path | None) -> None:
    """Without the best model of the checkpoint's history, the best from here on is kept.

    All processes must see the same: a file of a later iteration, which the first process may be
    moving away, counts as one that is gone.
    """
    if state["monitor_best"] is None:
        return
    step = -1 if folder is None else run_folder.step_of(folder / run_folder.BEST)
    if not 0 <= step <= state["step"]:
        state["monitor_best"] = None
        log.info("no %s up to iteration %d: kept from here on", run_folder.BEST, state["step"])


def _check_place(own: Config, config: Config, state: Mapping, file: Path) -> None:
    """A place in an epoch is counted in updates: until its end these and their order must stay."""
    if not state["iteration"]:
        return
    middle = (
        f"{file} is in the middle of epoch {state['epoch'] + 1}\n"
        "  fix: change it when the epoch is over, or --resume from a checkpoint-epoch*.pth"
    )
    sizes = [(one.train_loader.args["batch_size"], one.trainer.accumulate) for one in (own, config)]
    before, after = map(math.prod, sizes)
    if before != after:
        raise ConfigError(
            f"--set: found {after} images an update (batch_size x accumulate), expected {before}: "
            f"{middle}"
        )
    if _order(own) != _order(config):
        raise ConfigError(f"--set: found other training images, or another order: {middle}")


def _order(config: Config) -> list[object]:
    return [config.seed, *(config.train_loader.args.get(key) for key in _ORDER)]


def check_classes(classes: Sequence[str], state: Mapping | None) -> None:
    """Refuse to go on with other classes.

    Raises:
        CheckpointError: The data set's classes are not those of the checkpoint.
    """
    if state is not None and list(classes) != state["classes"]:
        raise CheckpointError(
            f"the checkpoint's classes are not the data set's: {_some(state['classes'])} against "
            f"{_some(classes)}\n"
            "  a resumed run keeps its classes; train anew with init_from to change them"
        )


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _report_changes(old: Mapping, new: Mapping, path: str = "") -> None:
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            _report_changes(before, after, f"{path}{key}.")
        elif before != after:
            log.info("changed: %s%s from %s to %s", path, key, before, after)

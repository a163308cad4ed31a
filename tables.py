"""The tables that a config names, together, and `--plugin FILE`, which adds to them.

A plugin is a Python file of the user's. It is imported, and assigns its own components:

    from models import MODELS

    class Tiny(BaseModel): ...

    MODELS["Tiny"] = Tiny
"""

import sys
from collections.abc import Mapping, MutableMapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from traceback import extract_tb
from typing import Any

from dataloaders import DATASETS
from models import MODELS
from utils import PACKAGE
from utils.config.registry import signature_faults
from utils.errors import ConfigError
from utils.losses.table import LOSSES
from utils.optim.lr_scheduler import SCHEDULERS
from utils.optim.optimizers import OPTIMIZERS

TABLES: Mapping[str, MutableMapping[str, Any]] = {
    "arch": MODELS,
    "train_loader": DATASETS,
    "optimizer": OPTIMIZERS,
    "loss": LOSSES,
    "lr_scheduler": SCHEDULERS,
}
"""By the section of the config that chooses from it."""

_EXPECTED = {"arch": ("num_classes", "in_channels", "pretrained", "freeze_bn", "freeze_backbone")}
"""Arguments that each entry of a table must take, whatever it does with them."""

_NAMES_ELSEWHERE = ("base", "dataloaders", "models", "utils") if PACKAGE else ("segmentation",)
"""What a plugin for a checkout imports, where the program is installed; or the reverse."""


def add_plugins(files: Sequence[str]) -> None:
    """Import files that add components, and check those like our own.

    A file's folder goes to the end of the search path, so that processes which load data find it.

    Args:
        files: What `--plugin` was given.

    Raises:
        ConfigError: A file that is missing, cannot be imported, has a module's name, or adds a
            component whose signature a config cannot be checked against.
    """
    for file in map(Path, files):
        if not file.is_file() or file.suffix != ".py":
            raise ConfigError(f"--plugin {file}: found no such file, expected a Python file (.py)")
        before = {kind: dict.fromkeys(table) for kind, table in TABLES.items()}
        _import(file)
        faults = [
            f"  {fault}"
            for kind, table in TABLES.items()
            for name in table
            if name not in before[kind]
            for fault in signature_faults(name, table[name], expected=_EXPECTED.get(kind, ()))
        ]
        if faults:
            raise ConfigError("\n".join([f"--plugin {file}:", *faults]))


def require_plugins(given: Sequence[str], state: Mapping[str, Any]) -> None:
    """Refuse to go on with a run without the plugins that it was started with.

    Raises:
        ConfigError: One is missing, with the flag to add.
    """
    names = {Path(file).name for file in given}
    for file in state.get("plugins", ()):
        if Path(file).name not in names:
            raise ConfigError(f"the run was started with --plugin {file}\n  fix: give it again")


def _import(file: Path) -> None:
    found = find_spec(file.stem)  # raises nothing: a stem has no dots
    if found is not None and found.origin != str(file.resolve()):
        raise ConfigError(
            f"--plugin {file}: a module {file.stem!r} is there already; give the file another name"
        )
    sys.path.append(str(file.resolve().parent))
    try:
        import_module(file.stem)
    except Exception as error:
        frames = extract_tb(error.__traceback__)
        own = [frame.lineno for frame in frames if Path(frame.filename) == file.resolve()]
        line = f", line {own[-1]}" if own else ""
        missing = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
        here = f"\n  fix: here it is: from {PACKAGE}models import MODELS"
        fix = here if missing in _NAMES_ELSEWHERE else ""
        raise ConfigError(
            f"--plugin {file}{line}: cannot be imported: {type(error).__name__}: {error}{fix}"
        ) from error

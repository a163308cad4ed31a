"""The flags that say how images are predicted, the same in inference.py and evaluate.py."""

import argparse
from typing import TYPE_CHECKING

from utils.errors import ConfigError

if TYPE_CHECKING:
    from utils.inference.predictor import Settings

_MODES = ("multiscale", "sliding", "whole")


def add_flags(parser: argparse.ArgumentParser, *, mode: str) -> None:
    """Add the flags; `mode` is the default of --mode."""
    add = parser.add_argument
    add("-mo", "--mode", choices=_MODES, default=mode, help=f"(default: {mode})")
    add("--scales", type=float, nargs="+", metavar="S", help="default: 0.75 1 1.25 1.5 1.75 2")
    add("--flip", action="store_true", help="average with the mirror image")
    add("--window", type=int, metavar="PIXELS", help="side of a window (default: as trained)")
    add("--overlap", type=float, default=1 / 3, help="of neighboring windows (default: 1/3)")
    add("-d", "--device", help="a GPU's index, cpu, cuda or mps (default: what is there)")
    add(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file with models, losses or data sets of yours",
    )


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for values out of range, and for flags without effect."""
    scales, window = options.scales or (), options.window
    rules = (
        ("--mode", options.mode, options.mode in _MODES, f"one of {', '.join(_MODES)}"),
        ("--scales", scales, all(0 < scale <= 8 for scale in scales), "in (0, 8]"),
        ("--window", window, window is None or window >= 32, "at least 32"),
        ("--overlap", options.overlap, 0 <= options.overlap <= 0.9, "in 0 .. 0.9"),
    )
    for flag, value, valid, expected in rules:
        require(flag, value, expected, valid=valid)
    if options.mode == "whole" and (options.scales or options.window):
        flag = "--scales" if options.scales else "--window"
        fix = "multiscale" if options.scales else "sliding"
        raise ConfigError(f"{flag} has no effect in mode whole\n  fix: --mode {fix}")


def require(flag: str, value: object, expected: str, *, valid: bool) -> None:
    """Raise ConfigError unless a flag's value is valid."""
    if not valid:
        raise ConfigError(f"{flag}: found {value}, expected {expected}")


def settings(options: argparse.Namespace, crop_size: object) -> "Settings":
    """What the flags ask for; `crop_size` is that of the training, None without one."""
    from utils.inference.prediction import WINDOW
    from utils.inference.predictor import Settings

    return Settings(
        mode=options.mode,
        scales=tuple(options.scales) if options.scales else None,
        flip=options.flip,
        window=options.window,
        tile=crop_size if isinstance(crop_size, int) else WINDOW,
        overlap=options.overlap,
        batch_size=getattr(options, "batch_size", Settings.batch_size),
    )

"""Mean and standard deviation of a data set's channels, as the lines that a config needs.

    python tools/mean_std.py --config config.json           # of the training data
    python tools/mean_std.py --config config.json --images 500

Every pixel counts the same. Values are fractions of the dtype's full scale: uint8 by 255, uint16 by
65535, floats as they are.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.errors import ConfigError, guard


def main(arguments: Sequence[str]) -> int:
    """Run the command; see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-c", "--config", default="config.json", help="the JSON file")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="change keys of the config",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=int, metavar="N", help="a seeded sample of N images; default: all"
    )
    args = parser.parse_args(arguments)
    if args.images is not None and args.images < 1:
        raise ConfigError(f"--images: found {args.images}, expected at least 1")
    from utils.config.config import load_config

    config = load_config(args.config, args.set)
    from dataloaders.statistics import channel_statistics, unnormalized

    dataset = unnormalized(
        config.train_loader.type,
        config.train_loader.args,
        ignore_index=config.ignore_index,
        seed=config.seed,
    )
    count = len(dataset) if args.images is None else min(args.images, len(dataset))
    mean, std = channel_statistics(dataset, count=count)
    print(f"{count} of {len(dataset)} images, {len(mean)} channels of {dataset.input_dtype}")
    print(f'"mean": {_list(mean)}, "std": {_list(std)}')
    return 0


def _list(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"


if __name__ == "__main__":
    raise SystemExit(guard(main, sys.argv[1:]))

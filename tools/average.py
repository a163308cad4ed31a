"""Average the weights of several checkpoints of one network.

    python tools/average.py a.pth b.pth c.pth -o average.pth

Epochs of one run, or runs that started from the same weights, often do better together than each
alone (Izmailov et al., Averaging Weights Leads to Wider Optima, 2018). The result is for inference
and fine-tuning; everything but the weights is the first file's.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `python tools/...` puts tools/ on the path, not its parent

from utils.errors import CheckpointError, guard  # noqa: E402
from utils.files.written import Written  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

# What inference and fine-tuning need; an average has no optimizer to go on with.
_KEPT = (
    *("arch", "epoch", "step", "config", "classes", "palette", "mean", "std", "ignore_index"),
    *("input_dtype", "monitor_best", "plugins"),
)


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace other programs' files")
    options = parser.parse_args(arguments)
    written = Written(options.output.parent)
    written.refuse_others([options.output], overwrite=options.overwrite)
    from utils.run.checkpoint import load, save
    from utils.run.folder import find_model

    files = [find_model(path) for path in options.checkpoints]
    with written.opened([options.output]):
        save([options.output], average(files, [load(file) for file in files]))
        written.add(options.output, content=options.output)
    print(f"{options.output}: the average of {len(options.checkpoints)} checkpoints")
    return 0


def average(paths: Sequence[Path], checkpoints: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The checkpoint whose weights are the mean of the others'.

    Floating-point tensors are averaged in float64, counters are the largest; of a file with
    averaged weights (`ema`) those are taken.

    Raises:
        CheckpointError: Another architecture, other classes, or tensors of other shapes.
    """
    from models import weights_of_checkpoint

    first = checkpoints[0]
    weights = [weights_of_checkpoint(checkpoint) for checkpoint in checkpoints]
    for path, checkpoint, state in zip(paths, checkpoints, weights, strict=True):
        for key in ("arch", "classes", "mean", "std", "input_dtype"):
            if checkpoint.get(key) != first.get(key):
                raise CheckpointError(
                    f"{path}: {key} is {checkpoint.get(key)}, in {paths[0]} {first.get(key)}"
                )
        _require_same_tensors(path, state, weights[0])
    mean = {name: _mean([state[name] for state in weights]) for name in weights[0]}
    return {key: first[key] for key in _KEPT if key in first} | {"state_dict": mean}


def _require_same_tensors(
    path: Path, state: Mapping[str, "Tensor"], first: Mapping[str, "Tensor"]
) -> None:
    for name in sorted({*state, *first}):
        found = tuple(state[name].shape) if name in state else "no tensor"
        expected = tuple(first[name].shape) if name in first else "no tensor"
        if found != expected:
            raise CheckpointError(f"{path}: {name} is {found}, in the first file {expected}")


def _mean(tensors: Sequence["Tensor"]) -> "Tensor":
    import torch

    if not tensors[0].is_floating_point():
        return torch.stack(list(tensors)).amax(0)
    return torch.stack([one.double() for one in tensors]).mean(0).to(tensors[0].dtype)


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

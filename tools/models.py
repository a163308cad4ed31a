"""Print a table of all networks, in Markdown.

    python tools/models.py                  19 classes, 3 channels, 512 x 512
    python tools/models.py --classes 150

Parameters count everything that is trained, auxiliary heads too; multiply-adds are those of one
forward pass in eval mode. Nothing is downloaded and no weights are made.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `python tools/...` puts tools/ on the path, not its parent

from utils.errors import ConfigError, guard  # noqa: E402

if TYPE_CHECKING:
    from base.base_model import BaseModel


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, default=19, help="default: 19")
    parser.add_argument("--channels", type=int, default=3, help="default: 3")
    parser.add_argument("--size", type=int, default=512, help="of the image, default: 512")
    options = parser.parse_args(arguments)
    if min(options.classes, options.channels) < 1 or options.size < 32:
        raise ConfigError("--classes and --channels must be at least 1, --size at least 32")
    print(table(options.classes, channels=options.channels, size=options.size))
    return 0


@functools.cache
def table(num_classes: int, *, channels: int = 3, size: int = 512) -> str:
    """Return the table in Markdown, one row a network at its default encoder."""
    import torch

    from models import MODELS

    adds = f"multiply-adds at {size}x{size}"
    head = f"| model | paper | default encoder | parameters | {adds} | output stride | encoders |"
    rows = [head, "|---" * 7 + "|"]
    for name, kind in MODELS.items():
        facts = kind.facts
        with torch.device("meta"):  # shapes without numbers
            model = kind(num_classes, in_channels=channels, pretrained=False)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        rows.append(
            f"| {name} | [{facts.paper}](https://arxiv.org/abs/{facts.arxiv}) | "
            f"{default_encoder(kind)} | {parameters / 1e6:.2f} M | "
            f"{multiply_adds(model, size) / 1e9:.1f} G | {facts.strides} | {facts.encoders} |"
        )
    return "\n".join(rows)


def default_encoder(kind: "Callable[..., BaseModel]") -> str:
    """Return the default of a network's `backbone`, or a dash."""
    import inspect

    parameter = inspect.signature(kind).parameters.get("backbone")
    return "-" if parameter is None else str(parameter.default)


def multiply_adds(model: "BaseModel", size: int) -> int:
    """Count the multiply-adds of one image through a network that lies on the meta device."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    image = torch.empty(1, model.in_channels, size, size, device="meta")
    with torch.no_grad(), counter:
        model.eval()(image)
    return counter.get_total_flops() // 2  # torch counts a multiply-add as two


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

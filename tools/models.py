"""Print a table of all networks, in Markdown.

    python tools/models.py                  19 classes, 3 channels, 512 x 512
    python tools/models.py --classes 150

Parameters count everything that is trained, auxiliary heads too; multiply-adds are those of one
forward pass in eval mode. Nothing is downloaded and no weights are made.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `python tools/...` puts tools/ on the path, not its parent

from utils.errors import ConfigError, guard  # noqa: E402

if TYPE_CHECKING:
    from base.base_model import BaseModel

ANY = "any of timm's"
DILATED = "any of timm's that can be dilated"


class Facts(NamedTuple):
    """What cannot be read from a network."""

    paper: str
    link: str
    strides: str
    encoders: str


FACTS = {
    "FCN8": Facts("FCN, 2015", "1411.4038", "32", "vgg16, vgg16_bn"),
    "UNet": Facts("U-Net, 2015", "1505.04597", "16", "its own"),
    "UNetResnet": Facts("U-Net on an encoder", "1505.04597", "32", ANY),
    "SegNet": Facts("SegNet, 2017", "1511.00561", "32", "vgg16, vgg16_bn"),
    "SegResNet": Facts("SegNet on a ResNet", "1511.00561", "32", "ResNets"),
    "ENet": Facts("ENet, 2016", "1606.02147", "8", "its own"),
    "GCN": Facts("Large Kernel Matters, 2017", "1703.02719", "32", ANY),
    "DeepLab": Facts("DeepLabV3+, 2018", "1802.02611", "8, 16", DILATED),
    "DeepLab_DUC_HDC": Facts("DUC and HDC, 2018", "1702.08502", "8", "ResNets"),
    "UperNet": Facts("UPerNet, 2018", "1807.10221", "32", ANY),
    "PSPNet": Facts("PSPNet, 2017", "1612.01105", "8, 16, 32", DILATED),
    "PSPDenseNet": Facts("PSPNet on a DenseNet", "1612.01105", "8", "DenseNets"),
}
"""Papers, the output strides of each encoder, and the encoders."""


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


def table(num_classes: int, *, channels: int = 3, size: int = 512) -> str:
    """Return the table in Markdown, one row a network at its default encoder."""
    import torch

    from models import MODELS

    adds = f"multiply-adds at {size}x{size}"
    head = f"| model | paper | default encoder | parameters | {adds} | output stride | encoders |"
    rows = [head, "|---" * 7 + "|"]
    for name, kind in MODELS.items():
        facts = FACTS[name]
        with torch.device("meta"):  # shapes without numbers
            model = kind(num_classes, in_channels=channels, pretrained=False)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        rows.append(
            f"| {name} | [{facts.paper}](https://arxiv.org/abs/{facts.link}) | "
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


def table_in(text: str) -> str | None:
    """Find the table in a document, to compare it with `table`."""
    match = re.search(r"^\| model \| paper .*(?:\n\|.*)+", text, re.MULTILINE)
    return None if match is None else match[0]


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

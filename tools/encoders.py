"""Write docs/encoders.md: which families of timm each model takes, with the licenses of weights.

    python tools/encoders.py            writes it; nothing is downloaded, no weights are made
    python tools/encoders.py --check    exit 2 when it is out of step with the code or with timm

A small model of each family stands for it. It takes many minutes.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `python tools/...` puts tools/ on the path, not its parent

from utils.errors import ConfigError, guard  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

    from models.backbones import Backbone

FILE = ROOT / "docs" / "encoders.md"
MARK = "<!-- Below this line: written by tools/encoders.py. -->"

MODELS = ("Linear", "UperNet", "UNetResnet", "SegFormer", "GCN")
"""What takes encoders of many families; PSPNet and DeepLab take those that can be dilated."""

SIZES = ((65, 97), (131, 58))
"""Of the images that each is tried with."""

_SMALL = 15_000_000  # parameters
# Where some of a family take any size, and the first of them does not.
_INSTEAD = {"byoanet": "halonet_h1", "maxxvit": "maxvit_nano_rw_256"}


class Row(NamedTuple):
    """A family of timm's."""

    family: str
    model: str
    parameters: int
    """Of the encoder without a classifier."""
    strides: tuple[float, ...]
    taken_by: tuple[str, ...]
    dilates: bool
    """Whether its deepest features can have stride 8."""
    licenses: tuple[str, ...]
    refusal: str
    """Why no model takes it, or nothing."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare, write nothing")
    check = parser.parse_args(arguments).check
    written = FILE.read_text(encoding="utf-8")
    content = written.partition(MARK)[0] + MARK + "\n\n" + document(list(rows()))
    if check and content != written:
        raise ConfigError(f"{FILE.name}: out of step; run python tools/encoders.py")
    if not check:
        FILE.write_text(content, encoding="utf-8")
    print(f"{'in step' if content == written else 'written'}: {FILE.name}")
    return 0


def rows() -> Iterator[Row]:
    """Try every family of the installed timm."""
    import timm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's, over what it deprecates in itself
        for family in timm.list_modules():
            yield row(family, _INSTEAD.get(family) or small(family))


def row(family: str, name: str) -> Row:
    """Try a model of a family.

    Raises:
        RuntimeError: Its features are not as large as the encoder says.
    """
    import timm
    import torch

    from models.backbones import build_backbone

    tags = timm.list_models(module=family, pretrained=True, include_tags=True)
    weights = map(timm.models.get_pretrained_cfg, tags)
    found = {one.license for one in weights if one is not None and one.license}
    licenses = tuple(sorted(found))
    with torch.device("meta"), torch.no_grad():
        try:
            backbone = build_backbone(name, pretrained=False).eval()
        except ConfigError as error:
            reason = str(error).partition("any size, it is ")[2].partition("\n")[0] or str(error)
            return Row(family, name, _parameters(name), (), (), False, licenses, reason)
        features = {size: _features(backbone, size) for size in SIZES}
        taken = tuple(model for model in MODELS if takes(model, backbone, features))
        try:
            build_backbone(name, output_stride=8, pretrained=False)
            dilates = not backbone.plain
        except ConfigError:
            dilates = False
    parameters = sum(p.numel() for p in backbone.parameters())
    return Row(family, name, parameters, backbone.strides, taken, dilates, licenses, "")


def _features(backbone: "Backbone", size: tuple[int, int]) -> "list[Tensor]":
    import torch

    features = backbone(torch.empty(1, 3, *size))
    for feature, width, stride in zip(features, backbone.channels, backbone.strides, strict=True):
        pairs = zip(feature.shape[2:], size, strict=True)
        if feature.shape[1] != width or any(abs(n - side / stride) > 1 for n, side in pairs):
            raise RuntimeError(
                f"{backbone.name}: {tuple(feature.shape)} at stride {stride}, {size}"
            )
    return features


def takes(
    model: str, backbone: "Backbone", features: "Mapping[tuple[int, int], list[Tensor]]"
) -> bool:
    """Whether a model can be built on an encoder and answers images of odd sizes.

    Args:
        model: Of `MODELS`.
        backbone: The encoder, which is not asked again.
        features: What it answers to images of each size.
    """
    import torch

    from models import MODELS as TABLE

    network_class = TABLE[model]
    where = f"{network_class.__module__}.build_backbone"
    with (
        mock.patch(where, return_value=backbone),
        mock.patch.object(backbone, "forward", lambda images: list(features[images.shape[2:]])),
    ):
        try:
            network = network_class(2, backbone=backbone.name, pretrained=False).eval()
        except ConfigError:
            return False
        return all(network(torch.empty(1, 3, *size)).shape[2:] == size for size in SIZES)


def small(family: str) -> str:
    """Return the first model of a family with few parameters, else the smallest.

    Those that timm keeps for tests count only where there is no other.
    """
    import timm

    names = timm.list_models(module=family)
    sizes: dict[str, int] = {}
    for name in [n for n in names if not n.startswith("test_")] or names:
        sizes[name] = _parameters(name)
        if sizes[name] < _SMALL:
            return name
    return min(sizes, key=lambda name: sizes[name])


def _parameters(name: str) -> int:
    import timm
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name, num_classes=0).parameters())


def document(found: Sequence[Row]) -> str:
    """Return the tables in Markdown."""
    import timm

    taken = [one for one in found if not one.refusal]
    counts = [f"{model} takes {sum(model in one.taken_by for one in found)}" for model in MODELS]
    sizes = " and ".join(f"{height} x {width}" for height, width in SIZES)
    dilated = sum(one.dilates for one in found)
    tried = f"Of the {len(found)} families of timm {timm.__version__}, tried with a small model at"
    lines = [
        f"{tried} {sizes} pixels: {', '.join(counts)}; {dilated} can be dilated.",
        "",
        "| family | tried with | strides | parameters | models | dilated | licenses of weights |",
        "|---" * 7 + "|",
    ]
    lines += [
        f"| {one.family} | {one.model} | {', '.join(map(str, one.strides))} "
        f"| {one.parameters / 1e6:.1f} M | {_but(one.taken_by)} | {'yes' if one.dilates else ''} "
        f"| {', '.join(one.licenses)} |"
        for one in taken
    ]
    lines += ["", "Refused:", "", "| family | tried with | reason |", "|---" * 3 + "|"]
    lines += [f"| {one.family} | {one.model} | {one.refusal} |" for one in found if one.refusal]
    return "\n".join([*lines, ""])


def _but(models: Sequence[str]) -> str:
    missing = [model for model in MODELS if model not in models]
    return f"all but {', '.join(missing)}" if missing else "all"


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

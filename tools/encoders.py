"""Write docs/encoders.md: which families of timm each model takes, with the licenses of weights.

    python tools/encoders.py            writes it; nothing is downloaded, no weights are made
    python tools/encoders.py --check    exit 2 when it is out of step with the code or with timm

The smallest model of each family stands for it. It takes minutes.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `python tools/...` puts tools/ on the path, not its parent

from utils.errors import ConfigError, guard  # noqa: E402

FILE = ROOT / "docs" / "encoders.md"
MARK = "<!-- Below this line: written by tools/encoders.py. -->"

MODELS = ("Linear", "UperNet", "UNetResnet", "SegFormer", "GCN", "PSPNet", "DeepLab")
"""What takes encoders of several families; the others have their own."""

SIZES = ((65, 97), (131, 58))
"""Of the images that each is tried with."""

_STRIDES = {"PSPNet": (8, 16, 32), "DeepLab": (8, 16)}
# Where not all of a family takes any size, and the smallest does not.
_INSTEAD = {"maxxvit": "maxvit_nano_rw_256"}


class Row(NamedTuple):
    """A family of timm's."""

    family: str
    model: str
    parameters: int
    """Of the encoder without a classifier."""
    strides: tuple[float, ...]
    taken_by: tuple[str, ...]
    """Models, with the output strides where a model has them to choose."""
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
            yield row(family, _INSTEAD.get(family) or smallest(family))


def row(family: str, name: str) -> Row:
    """Try a model of a family."""
    import timm
    import torch

    from models.backbones import build_backbone

    tags = timm.list_models(module=family, pretrained=True, include_tags=True)
    weights = map(timm.models.get_pretrained_cfg, tags)
    licenses = {one.license for one in weights if one is not None and one.license}
    strides: tuple[float, ...] = ()
    try:
        with torch.device("meta"):
            backbone = build_backbone(name, pretrained=False)
        strides, refusal = backbone.strides, ""
        parameters = sum(p.numel() for p in backbone.parameters())
    except ConfigError as error:
        refusal = str(error).partition(" does not take ")[2].partition("\n")[0] or str(error)
        parameters = _parameters(name)
    taken = () if refusal else tuple(filter(None, (taken_by(model, name) for model in MODELS)))
    return Row(family, name, parameters, strides, taken, tuple(sorted(licenses)), refusal)


def taken_by(model: str, encoder: str) -> str:
    """Return a model's name, with the output strides it offers on an encoder; nothing if none."""
    choices = _STRIDES.get(model)
    if choices is None:
        return model if takes(model, encoder) else ""
    found = [stride for stride in choices if takes(model, encoder, output_stride=stride)]
    return f"{model} ({', '.join(map(str, found))})" if found else ""


def takes(model: str, encoder: str, **arguments: object) -> bool:
    """Whether a model can be built on an encoder and answers images of odd sizes."""
    import torch

    from models import MODELS as TABLE

    try:
        with torch.device("meta"), torch.no_grad():
            network = TABLE[model](2, backbone=encoder, pretrained=False, **arguments).eval()
            return all(network(torch.empty(1, 3, *size)).shape[2:] == size for size in SIZES)
    except ConfigError:
        return False


def smallest(family: str) -> str:
    """Return the model of a family with the fewest parameters; those for tests only if no other."""
    import timm

    names = timm.list_models(module=family)
    return min([n for n in names if not n.startswith("test_")] or names, key=_parameters)


def _parameters(name: str) -> int:
    import timm
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name).parameters())


def document(found: Sequence[Row]) -> str:
    """Return the tables in Markdown."""
    import timm

    taken = [one for one in found if not one.refusal]
    counts = {
        model: sum(any(t.startswith(model) for t in r.taken_by) for r in taken) for model in MODELS
    }
    said = ", ".join(f"{model} {count}" for model, count in counts.items())
    sizes = " and ".join(f"{height} x {width}" for height, width in SIZES)
    timm_s = f"Of the {len(found)} families of timm {timm.__version__}"
    lines = [
        f"{timm_s}, tried with their smallest model at {sizes} pixels: {said}.",
        "",
        "| family | tried with | strides | parameters | taken by (output strides) | licenses |",
        "|---" * 6 + "|",
    ]
    lines += [
        f"| {one.family} | {one.model} | {', '.join(map(str, one.strides))} "
        f"| {one.parameters / 1e6:.1f} M | {', '.join(one.taken_by)} | {', '.join(one.licenses)} |"
        for one in taken
    ]
    lines += [
        "",
        "Refused, with the reason:",
        "",
        "| family | tried with | reason |",
        "|---" * 3 + "|",
    ]
    lines += [f"| {one.family} | {one.model} | {one.refusal} |" for one in found if one.refusal]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

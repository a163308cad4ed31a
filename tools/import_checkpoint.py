"""Turn a PSPNet checkpoint of yassouali/pytorch-segmentation into one of this program.

    python tools/import_checkpoint.py PSPnet.pth psp.pth
    python inference.py --model psp.pth --images dir

The logits stay the same. Only PSPNet has published weights; of the other networks the message says
what stands in the way.
"""

import argparse
import copy
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

NORMALIZATION: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "VOC": ((0.45734706, 0.43338275, 0.40058118), (0.23965294, 0.23532275, 0.2398498)),
    "CityScapes": ((0.28689529, 0.32513294, 0.28389176), (0.17613647, 0.18099176, 0.17772235)),
    "ADE20K": ((0.48897059, 0.46548275, 0.4294), (0.22861765, 0.22948039, 0.24054667)),
    "COCO": ((0.43931922, 0.41310471, 0.37480941), (0.24272706, 0.23649098, 0.23429529)),
}
"""The mean and deviation that the old program trained with, by data set; ours may differ."""

OBSTACLES: Mapping[str, str] = {
    "FCN8": "it pads the image by 100 pixels and crops, where ours pads fc6: the borders differ",
    "UNet": "its skips are taken after pooling and its convolutions have half the width",
    "UNetResnet": "its encoder has stride 8 and its decoder no nonlinearity",
    "SegNet": "only the names differ; a table from stage{1..5}_encoder/decoder to ours would do",
    "SegResNet": "it unpools overlapping 3x3 windows and its decoder's blocks have another shape",
    "ENet": "its bottlenecks have other widths where they change the size of the map",
    "GCN": "it ends in one more 1x1 convolution, and resizes corner to corner",
    "DeepLab": "it resizes corner to corner and, on Xception, has blocks of its own",
    "DeepLab_DUC_HDC": "it has the decoder of DeepLabV3+ and a ReLU on its logits",
    "UperNet": "its pyramid keeps 2048 channels and its top-down path adds the raw laterals",
    "PSPDenseNet": "only the names differ (block0..4, transition1..3, master_branch, "
    "auxiliary_branch); a table to ours would do",
}
"""What an import of each other network would need."""

_RENAMED = (
    ("initial.0.", "backbone.network.conv1."),
    ("initial.1.", "backbone.network.bn1."),
    ("layer", "backbone.network.layer"),
    ("master_branch.0.bottleneck.", "head.0.fuse."),
    ("master_branch.1.", "head.2."),
    ("auxiliary_branch.4.", "aux.classifier."),
    ("auxiliary_branch.", "aux.conv."),
)


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="a checkpoint of pytorch-segmentation")
    parser.add_argument("new", type=Path, help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace other programs' files")
    options = parser.parse_args(arguments)
    written = Written(options.new.parent)
    written.refuse_others([options.new], overwrite=options.overwrite)

    from models import model_from_checkpoint
    from utils.run import checkpoint
    from utils.run.next_steps import command_line

    content = convert(read_foreign(options.old), source=str(options.old))
    model = model_from_checkpoint(content)
    with written.opened([options.new]):
        checkpoint.save([options.new], content)
        written.add(options.new, content=options.new)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{options.new}: {content['arch']}, {len(content['classes'])} classes, "
        f"{parameters / 1e6:.2f} M parameters"
    )
    print(f"next: {command_line('inference', '--model', str(options.new), '--images', 'DIR')}")
    return 0


def read_foreign(path: Path) -> dict[str, Any]:
    """Read a checkpoint of the old program without running any code that it may hold.

    Args:
        path: A `.pth` file, of any version of torch.

    Raises:
        CheckpointError: Missing, damaged, unsafe, or not of that program.
    """
    import numpy as np
    import torch

    from utils.files.tensor_files import read

    # Its `monitor_best` is a NumPy number once a score improved: these few names rebuild one.
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        np.dtypes.Float64DType,
        np.dtypes.Float32DType,
    ]
    with torch.serialization.safe_globals(allowed):
        content = read(path)
    if not isinstance(content, dict) or not {"state_dict", "config"} <= content.keys():
        found = (
            ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        )
        raise CheckpointError(
            f"{path}: no checkpoint of pytorch-segmentation\n  found: {found[:200]}\n"
            "  expected: arch, epoch, state_dict, optimizer, monitor_best, config"
        )
    return content


def convert(old: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Convert a checkpoint of the old program's PSPNet.

    Args:
        old: What `read_foreign` returned.
        source: The file's name, for messages.

    Returns:
        The content of a checkpoint of ours: model and data, no optimizer.

    Raises:
        CheckpointError: Another network, an unknown data set, or a config that says nothing.
    """
    from utils.files.tensor_files import weights_in

    arch = _section(old["config"], "arch", source)
    data = _section(old["config"], "train_loader", source)
    _require_known(arch["type"], data["type"], source)
    state = rename(weights_in(old["state_dict"], Path(source)))
    if "head.2.weight" not in state:
        raise CheckpointError(
            f"{source}: its tensors are not those of a PSPNet: master_branch.1.weight is missing\n"
            f"  found: {', '.join(list(old['state_dict'])[:5])}, ..."
        )
    arguments = {
        **{key: value for key, value in arch.get("args", {}).items() if key.startswith("freeze")},
        "backbone": _encoder(arch.get("args", {}).get("backbone", "resnet152"), state),
        "pretrained": False,
        "use_aux": "aux.classifier.weight" in state,
    }
    config = _config(old["config"], arguments, source)
    mean, std = NORMALIZATION[data["type"]]
    return {
        "format_version": _format_version(),
        "arch": "PSPNet",
        "epoch": epoch if isinstance(epoch := old.get("epoch"), int) else 0,
        "state_dict": state,
        "config": config,
        **_classes(data["type"], state["head.2.weight"].shape[0]),
        "mean": mean,
        "std": std,
        "ignore_index": config.get("ignore_index", 255),
        "input_dtype": "uint8",
        "crop_size": data.get("args", {}).get("crop_size"),
    }


def _require_known(arch: str, data: str, source: str) -> None:
    if arch != "PSPNet":
        raise CheckpointError(
            f"{source}: holds a {arch}; only PSPNet can be imported\n"
            f"  in the way: {OBSTACLES.get(arch, 'it is unknown here')}"
        )
    if data not in NORMALIZATION:
        raise CheckpointError(
            f"{source}: trained on {data}, whose mean and deviation are not known here\n"
            f"  known: {', '.join(NORMALIZATION)}"
        )


def rename(state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Give the tensors of the old PSPNet our names, and leave out the `module.` of DataParallel."""
    return {_rename(name.removeprefix("module.")): tensor for name, tensor in state.items()}


def _rename(name: str) -> str:
    stage = name.removeprefix("master_branch.0.stages.")
    if stage != name:  # N.1 is the convolution, N.2 its normalization; N.0 pooled
        level, layer, rest = stage.split(".", 2)
        return f"head.0.levels.{level}.{int(layer) - 1}.{rest}"
    for old, new in _RENAMED:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _encoder(backbone: str, state: Mapping[str, "Tensor"]) -> str:
    """Name timm's ResNet with the same stem: three 3x3 convolutions are its variant "s"."""
    return f"{backbone}s" if "backbone.network.conv1.6.weight" in state else backbone


def _section(config: Mapping[str, Any], key: str, source: str) -> Mapping[str, Any]:
    section = config.get(key)
    if not isinstance(section, dict) or "type" not in section:
        raise CheckpointError(f"{source}: its config has no {key}.type")
    return section


def _config(old: Mapping[str, Any], arguments: Mapping[str, object], source: str) -> dict[str, Any]:
    """The old config with our network; as it is where the program does not take it."""
    from utils.config.config import parse_config
    from utils.errors import ConfigError

    config = copy.deepcopy(dict(old))
    config["arch"] = {"type": "PSPNet", "args": dict(arguments)}
    config.setdefault("trainer", {})
    config["train_loader"].setdefault("args", {})
    try:
        return parse_config(config, source=f"note: the config in {source}").resolved()
    except ConfigError as error:
        advice = "the weights need none of it; mend it for evaluate.py with --set or --config"
        print(f"{error}\n  {advice}", file=sys.stderr)
        return config


def _classes(data: str, count: int) -> dict[str, object]:
    from dataloaders import DATASETS
    from utils.drawing.palette import voc_palette

    known = DATASETS[data]
    if len(known.classes) == count:
        return {"classes": known.classes, "palette": known.palette}
    names = tuple(f"class {index}" for index in range(count))
    return {"classes": names, "palette": voc_palette(count)}


def _format_version() -> int:
    from utils.run.checkpoint import FORMAT_VERSION

    return FORMAT_VERSION


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

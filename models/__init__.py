"""The networks: one paper a file, and the table that names them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from base.base_model import BaseModel, Network
from utils.config.registry import Choice, Table, choose
from utils.errors import CheckpointError, ConfigError
from utils.files.matching import Match, align, match, require

__all__ = [
    "MODELS",
    "build_network",
    "check_weights",
    "load_matching",
    "model_from_checkpoint",
]

MODELS: Table[Network] = Table(
    {
        "FCN8": "models.fcn",
        "UNet": "models.unet",
        "UNetResnet": "models.unet",
        "SegNet": "models.segnet",
        "SegResNet": "models.segnet",
        "ENet": "models.enet",
        "GCN": "models.gcn",
        "DeepLab": "models.deeplab",
        "DeepLab_DUC_HDC": "models.duc_hdc",
        "UperNet": "models.upernet",
        "PSPNet": "models.pspnet",
        "PSPDenseNet": "models.pspnet",
        "SegFormer": "models.segformer",
        "Linear": "models.linear",
    }
)
"""What `arch.type` may say."""


class _Unfilled(TorchFunctionMode):
    """Leaves normal numbers out: for them the meta device imports torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        return args[0] if func is Tensor.normal_ else func(*args, **(kwargs or {}))


def build_network(arch: Choice[BaseModel], *, num_classes: int, in_channels: int) -> BaseModel:
    """Build a network of the table; a first image tells whether its channels are the classes.

    Raises:
        ConfigError: Weights that cannot be had, or other channels.
    """
    model = arch.build(num_classes=num_classes, in_channels=in_channels)
    with torch.no_grad():
        found = model.eval()(torch.zeros(1, model.in_channels, 32, 32)).shape[1]
    if found != num_classes:
        raise ConfigError(f"arch.type: {arch.name} has {found} outputs for {num_classes} classes")
    return model.train()


def model_from_checkpoint(checkpoint: Mapping) -> BaseModel:
    """Rebuild the network of a checkpoint with its weights, averaged ones where there are any.

    Args:
        checkpoint: What `utils.run.checkpoint.load` returned.

    Returns:
        The network in eval mode, on the CPU.

    Raises:
        CheckpointError: The stored architecture cannot be built, or the weights are not its own.
    """
    check_weights(checkpoint)
    model = _built(checkpoint, build_network)
    model.load_state_dict(_required(checkpoint, model))
    return model.eval()


def check_weights(checkpoint: Mapping) -> None:
    """Refuse weights that are not the network's, before it takes memory of whatever size.

    Raises:
        CheckpointError: They are not.
    """
    try:
        with torch.device("meta"), _Unfilled():
            _required(checkpoint, _built(checkpoint, Choice.build))
    except CheckpointError as error:
        # What computes with values while it is built cannot be built there, and is left to later.
        if "meta" not in str(error).split():
            raise


def _built(checkpoint: Mapping, factory: Callable[..., BaseModel]) -> BaseModel:
    arch = checkpoint["config"].get("arch", {})
    try:
        args = {**arch.get("args", {}), "pretrained": False}
        return factory(
            choose("arch", MODELS, arch["type"], args),
            num_classes=len(checkpoint["classes"]),
            in_channels=len(checkpoint["mean"]),
        )
    except Exception as error:  # constructors raise whatever there is over forged arguments
        plugins = " ".join(f"--plugin {file}" for file in checkpoint.get("plugins", ()))
        cause = f"it was trained with {plugins}: give that again"
        if arch.get("type") in MODELS or not plugins:
            cause = "it was written by another version of this program, or edited"
        raise CheckpointError(
            f"the checkpoint's architecture cannot be built: {error}\n  {cause}"
        ) from error


def _required(checkpoint: Mapping, model: BaseModel) -> dict[str, Tensor]:
    what = f"the checkpoint's weights are not those of its {type(model).__name__}:"
    return require(weights_of_checkpoint(checkpoint), model.state_dict(), what)


def weights_of_checkpoint(checkpoint: Mapping) -> Mapping:
    """Return a checkpoint's averaged weights, where it has any, else its weights."""
    ema = checkpoint.get("ema")
    return ema["state_dict"] if ema else checkpoint["state_dict"]


def load_matching(model: BaseModel, weights: Mapping[str, Tensor]) -> Match:
    """Start from another network's weights (`init_from`): all that fit by name and shape.

    Args:
        model: Changed in place; its other tensors stay as they were.
        weights: Tensors by the names of whatever program they come from.

    Raises:
        CheckpointError: Nothing fits.
    """
    own = model.state_dict()
    found = match(align(weights, own), own)
    if not any(tensor.is_floating_point() for tensor in found.taken.values()):
        raise CheckpointError(
            f"init_from: nothing in the file fits this {type(model).__name__}\n"
            f"  found: {', '.join(list(weights)[:3])}, ...; expected: {', '.join(list(own)[:3])}, "
            "...\n  take a file of the same arch.type or backbone"
        )
    model.load_state_dict(found.taken, strict=False)
    return found

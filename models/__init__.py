"""The networks: one paper a file, and the table that names them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from base.base_model import BaseModel, Network
from utils.config.registry import Table, build
from utils.errors import CheckpointError, ConfigError

__all__ = ["MODELS", "build_network", "load_matching", "model_from_checkpoint"]

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

_SHOWN = 5


def build_network(
    name: str, args: Mapping[str, object], *, num_classes: int, in_channels: int
) -> BaseModel:
    """Build a network of the table; a first image tells whether its channels are the classes.

    Raises:
        ConfigError: Unknown name or arguments, weights that cannot be had, or other channels.
    """
    model = build("arch", MODELS, name, args, num_classes=num_classes, in_channels=in_channels)
    with torch.no_grad():
        found = model.eval()(torch.zeros(1, model.in_channels, 32, 32)).shape[1]
    if found != num_classes:
        raise ConfigError(f"arch.type: {name} has {found} outputs for {num_classes} classes")
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
    arch = checkpoint["config"].get("arch", {})
    try:
        model = build_network(
            arch["type"],
            {**arch.get("args", {}), "pretrained": False},
            num_classes=len(checkpoint["classes"]),
            in_channels=len(checkpoint["mean"]),
        )
    except (ConfigError, KeyError) as error:
        plugins = " ".join(f"--plugin {file}" for file in checkpoint.get("plugins", ()))
        cause = f"it was trained with {plugins}: give that again"
        if arch.get("type") in MODELS or not plugins:
            cause = "it was written by another version of this program, or edited"
        raise CheckpointError(
            f"the checkpoint's architecture cannot be built: {error}\n  {cause}"
        ) from error
    _load_strictly(model, weights_of_checkpoint(checkpoint))
    return model.eval()


def weights_of_checkpoint(checkpoint: Mapping) -> Mapping:
    """Return a checkpoint's averaged weights, where it has any, else its weights."""
    ema = checkpoint.get("ema")
    return ema["state_dict"] if ema else checkpoint["state_dict"]


def load_matching(model: BaseModel, checkpoint: Mapping) -> tuple[list[str], list[str]]:
    """Start from a checkpoint with other classes or another head (`init_from`).

    Every tensor of the model whose name and shape occur in the checkpoint is taken.

    Args:
        model: Changed in place; its other tensors stay as they were.
        checkpoint: What `utils.run.checkpoint.load` returned.

    Returns:
        The names of the tensors taken, and one line for each that was left, with the reason.

    Raises:
        CheckpointError: Nothing fits.
    """
    weights = weights_of_checkpoint(checkpoint)
    own = model.state_dict()
    taken = {name: weights[name] for name in own if _fits(own[name], weights.get(name))}
    if not taken:
        raise CheckpointError(
            f"init_from: no tensor of this {type(model).__name__} is in the checkpoint, which "
            f"holds a {checkpoint['arch']}; take one of the same arch.type and backbone"
        )
    left = [
        f"{name}: {_shape(weights[name])} in the file, {_shape(value)} here"
        if name in weights
        else f"{name}: not in the file"
        for name, value in own.items()
        if name not in taken
    ]
    model.load_state_dict(taken, strict=False)
    return list(taken), left


def _load_strictly(model: BaseModel, weights: Mapping) -> None:
    own = model.state_dict()
    faults = [f"{name}: missing" for name in own if name not in weights]
    faults += [f"{name}: unknown" for name in weights if name not in own]
    faults += [
        f"{name}: {_shape(weights[name])} in the file, {_shape(value)} expected"
        for name, value in own.items()
        if name in weights and not _fits(value, weights[name])
    ]
    if faults:
        more = f"\n  ... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise CheckpointError(
            f"the checkpoint's weights are not those of its {type(model).__name__}:\n  "
            + "\n  ".join(faults[:_SHOWN])
            + more
        )
    model.load_state_dict(dict(weights))


def _fits(own: object, other: object) -> bool:
    return isinstance(other, Tensor) and isinstance(own, Tensor) and own.shape == other.shape


def _shape(value: object) -> str:
    return "x".join(map(str, value.shape)) or "scalar" if isinstance(value, Tensor) else "no tensor"

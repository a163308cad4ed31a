"""The networks: one paper a file, and the table that names them."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from base.base_model import BaseModel
from models.deeplab import DeepLab
from models.duc_hdc import DeepLab_DUC_HDC
from models.enet import ENet
from models.fcn import FCN8
from models.gcn import GCN
from models.pspnet import PSPDenseNet, PSPNet
from models.segnet import SegNet, SegResNet
from models.unet import UNet, UNetResnet
from models.upernet import UperNet
from utils.config.registry import build
from utils.errors import CheckpointError, ConfigError
from utils.files.matching import Match, align, match, require

__all__ = ["MODELS", "check_weights", "load_matching", "model_from_checkpoint"]

MODELS: Mapping[str, Callable[..., BaseModel]] = {
    model.__name__: model
    for model in (
        FCN8,
        UNet,
        UNetResnet,
        SegNet,
        SegResNet,
        ENet,
        GCN,
        DeepLab,
        DeepLab_DUC_HDC,
        UperNet,
        PSPNet,
        PSPDenseNet,
    )
}
"""What `arch.type` may say."""

# What constructors raise over forged arguments.
_UNBUILDABLE = (
    *(ConfigError, ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError),
    *(TypeError, ValueError),
)


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
    model = _built(checkpoint)
    model.load_state_dict(_required(checkpoint, model))
    return model.eval()


def check_weights(checkpoint: Mapping) -> None:
    """Refuse weights that are not the network's, before it takes memory of whatever size.

    Raises:
        CheckpointError: They are not.
    """
    try:
        with torch.device("meta"):
            _required(checkpoint, _built(checkpoint))
    except CheckpointError as error:
        # What computes with values while it is built cannot be built there, and is left to later.
        if "meta" not in str(error).split():
            raise


def _built(checkpoint: Mapping) -> BaseModel:
    arch = checkpoint["config"].get("arch", {})
    try:
        return build(
            "arch",
            MODELS,
            arch["type"],
            {**arch.get("args", {}), "pretrained": False},
            num_classes=len(checkpoint["classes"]),
            in_channels=len(checkpoint["mean"]),
        )
    except _UNBUILDABLE as error:
        raise CheckpointError(
            f"the checkpoint's architecture cannot be built: {error}\n  it was written by another "
            "version of this program, or edited"
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
        names = [
            f"{len(some)} tensors: {', '.join(list(some)[:3])}, ..." for some in (weights, own)
        ]
        raise CheckpointError(
            f"init_from: nothing in the file fits this {type(model).__name__}\n  found {names[0]}\n"
            f"  expected {names[1]}\n  take a file of the same arch.type or backbone"
        )
    model.load_state_dict(found.taken, strict=False)
    return found

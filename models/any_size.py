"""What an encoder that was made for one image size needs to take any: found out by asking it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.blocks import crop
from utils.errors import ConfigError

_SMALLEST = 32  # side of the images that every network must take
_LOST = 4  # as many cells as the unpadded convolutions of an Inception cost a map

# All ways in which timm's networks say that a size does not fit.
_REFUSALS = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)


def fit(
    network: nn.Module, *, in_channels: int, native: int, name: str
) -> tuple[int, tuple[int, ...]]:
    """Return what side images are padded to multiples of, and how many cells each map lacks then.

    Tried in this order: any size, multiples of the finest and of the coarsest stride, of three of
    these (unpadded convolutions shrink small images to nothing), and of the side that the encoder
    was made for, of which windows may be a fixed share (MaxViT, HaloNet).

    Raises:
        ConfigError: It works at that one size only.
    """
    info: Any = network.feature_info
    strides, reason = info.reduction(), ""
    most = max(strides)
    for multiple in dict.fromkeys((1, min(strides), most, 3 * most, native)):
        size = (33, 47) if multiple == 1 else (cells(_SMALLEST, multiple) * multiple, 13 * multiple)
        try:
            shapes = _shapes(network, (1, in_channels, *size), meta=multiple > 1)
        except _REFUSALS as error:
            reason = f"timm: {str(error).partition(chr(10))[0] or 'its windows'}"
            continue
        lost = [_lost(shape[2:], size, s) for shape, s in zip(shapes, strides, strict=True)]
        follows = [shape[1] for shape in shapes] == info.channels() and None not in lost
        if follows and (multiple >= most or not any(lost)):
            return multiple, tuple(cells or 0 for cells in lost)
        reason = "its features do not follow the image"
    raise ConfigError(
        f"arch.args.backbone: {name} does not take images of any size, it is made for {native} x "
        f"{native} ({reason})\n"
        "  take one that docs/encoders.md lists, such as a ResNet, ConvNeXt, Swin or plain ViT"
    )


def cells(side: int, stride: float) -> int:
    """Return how many cells of a stride, a multiple of a quarter, cover a side of an image."""
    quarters = round(4 * stride)
    return (4 * side + quarters - 1) // quarters


def within(features: Tensor, size: Sequence[int], stride: float) -> Tensor:
    """Crop features ``(N, C, h, w)`` of padded images to the cells that cover ``size``."""
    rows, columns = (cells(side, stride) for side in size)
    if torch.compiler.is_compiling():  # a slice ties the graph to whether it cuts anything off
        return crop(features, (rows, columns))
    return features[:, :, :rows, :columns]


def _shapes(network: nn.Module, size: Sequence[int], *, meta: bool) -> list[torch.Size]:
    """Return the shapes of a new encoder's features; on the meta device nothing is computed."""
    tensors = dict((*network.named_parameters(), *network.named_buffers()))
    place = torch.device("meta") if meta else next(iter(tensors.values())).device
    weights: dict[str, Tensor] = {name: tensor.to(place) for name, tensor in tensors.items()}
    with torch.no_grad(), place:
        features = functional_call(network.eval(), weights, (torch.zeros(size),))
    network.train()
    return [feature.shape for feature in features]


def _lost(found: Sequence[int], size: Sequence[int], stride: float) -> int | None:
    """Return how many rows and columns a map lacks; None where it does not follow the image."""
    lost, other = (side / stride - cells for side, cells in zip(size, found, strict=True))
    if abs(lost) <= 1 and abs(other) <= 1:
        return 0
    return int(lost) if lost == other and lost in range(_LOST + 1) else None

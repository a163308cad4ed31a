"""What a network that was made for one image size needs to take any: found out by asking it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from utils.errors import ConfigError

_SMALLEST = 32  # side of the images that every network must take
_LOST = 4  # as many cells as the unpadded convolutions of an Inception cost a map

# All ways in which timm's networks say that a size does not fit.
_REFUSALS = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)


class Fit(NamedTuple):
    """How images and features are brought to any size."""

    multiple: int
    """Images are padded to multiples of this side."""
    channels: tuple[int, ...]
    """Width of each map."""
    lost: tuple[int, ...] | None
    """Rows and columns that each map lacks then; None where maps are right as they come."""


def fit(network: nn.Module, *, in_channels: int, native: int, name: str) -> Fit:
    """Try image sizes on a network.

    In this order: any size, multiples of the finest and of the coarsest stride, of three of these
    (unpadded convolutions shrink small images to nothing), and of the side that the network was
    made for, of which windows may be a fixed share (MaxViT, HaloNet).

    Args:
        network: Maps images to a list of features, which `feature_info` describes; it stays as
            it is.
        in_channels: Channels of the images.
        native: Side of the images that the network was made for.
        name: What messages call it.

    Raises:
        ConfigError: It works at that one size only.
    """
    info: Any = network.feature_info
    strides = info.reduction()
    least, most = min(strides), max(strides)
    reason = ""
    for multiple in dict.fromkeys((1, least, most, 3 * most, native)):
        smallest = -(-_SMALLEST // multiple) * multiple
        try:
            if multiple == 1:  # cheap, and most networks need no more
                first, size = tuple(info.channels()), (33, 47)
            else:
                first = _widths(_shapes(network, (1, in_channels, smallest, smallest), "meta"))
                size = (9 * multiple, 13 * multiple)
            shapes = _shapes(network, (1, in_channels, *size), "meta" if multiple > 1 else None)
        except _REFUSALS as error:
            reason = str(error).partition("\n")[0]
            continue
        lost = [_missing(shape[2:], size, s) for shape, s in zip(shapes, strides, strict=True)]
        follows = first == _widths(shapes) and None not in lost
        if follows and (multiple >= most or not any(lost)):
            place = any(lost) or multiple >= most > least
            return Fit(multiple, first, tuple(cells or 0 for cells in lost) if place else None)
        reason = "its features do not follow the image"
    raise ConfigError(
        f"arch.args.backbone: {name} does not take images of any size: a position table or mixing "
        f"layer belongs to {native} x {native} (timm: {reason or 'its windows'})\n"
        "  take one that docs/encoders.md lists, such as a ResNet, ConvNeXt, Swin or plain ViT"
    )


def cells(side: int, stride: float) -> int:
    """Return how many cells of a stride, a multiple of a quarter, cover a side of an image."""
    quarters = round(4 * stride)
    return (4 * side + quarters - 1) // quarters


def _shapes(network: nn.Module, size: Sequence[int], device: str | None) -> list[torch.Size]:
    """Return the shapes of a network's features; on the meta device without computing them."""
    tensors = dict((*network.named_parameters(), *network.named_buffers()))
    place = device or next(iter(tensors.values())).device
    weights: dict[str, Tensor] = {name: tensor.to(place) for name, tensor in tensors.items()}
    mode = network.training
    try:
        with torch.no_grad(), torch.device(place):
            features = functional_call(network.eval(), weights, (torch.zeros(size),))
    finally:
        network.train(mode)
    return [feature.shape for feature in features]


def _widths(shapes: Sequence[torch.Size]) -> tuple[int, ...]:
    return tuple(shape[1] for shape in shapes)


def _missing(found: Sequence[int], size: Sequence[int], stride: float) -> int | None:
    """Return how many rows and columns a map lacks; None where it does not follow the image."""
    lost = [side / stride - cells for side, cells in zip(size, found, strict=True)]
    if max(map(abs, lost)) <= 1:
        return 0
    same = lost[0] == lost[1] == int(lost[0]) and 0 < lost[0] <= _LOST
    return int(lost[0]) if same else None

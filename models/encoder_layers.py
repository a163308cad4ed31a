"""The layers of an encoder, for learning rates that fall from layer to layer."""

from typing import Any

import torch
from torch import nn

from base.base_model import BaseModel
from models.backbones import Backbone
from utils.errors import ConfigError


def layer_groups(model: BaseModel, decay: float) -> list[tuple[list[nn.Parameter], float]]:
    """Divide a model's encoder into the layers of `timm.optim.param_groups_layer_decay`.

    The decoder takes the place of the classifier, whose rate is 1.

    Args:
        model: Has an encoder of timm's as its `backbone`.
        decay: Each layer's rate as a share of the rate of the one above it.

    Returns:
        The parameters of each layer with their rate, the last layer first.

    Raises:
        ConfigError: There is no such encoder, or timm does not divide it into layers.
    """
    import timm
    from timm.models import group_parameters

    backbone = getattr(model, "backbone", None)
    whole: Any = None
    if isinstance(backbone, Backbone):
        with torch.device("meta"):  # what hands out features has parameters of other names
            whole = timm.create_model(backbone.name)
    if not hasattr(whole, "group_matcher"):
        raise ConfigError(
            f"optimizer.layer_decay: found {decay}, and the encoder of this "
            f"{type(model).__name__} is not divided into layers\n  fix: delete it"
        )
    found: Any = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
    layer_of = {_plain(key): layer for key, layer in found.items()}
    top = max(layer_of.values())
    layers: dict[int, list[nn.Parameter]] = {}
    for key, parameter in backbone.network.named_parameters():
        layers.setdefault(top - layer_of.get(_plain(key), top), []).append(parameter)
    return [(layers[below], decay**below) for below in sorted(layers)]


def _plain(name: str) -> str:
    """Take from a name what timm's extractors of features change in it."""
    return name.removeprefix("model.").replace(".", "_")

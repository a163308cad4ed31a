"""The layers of an encoder, for learning rates that fall from layer to layer."""

from typing import Any

import torch
from torch import nn

from base.base_model import BaseModel
from models.backbones import Backbone
from utils.errors import ConfigError


def layer_groups(model: BaseModel, decay: float) -> list[tuple[list[nn.Parameter], float]]:
    """Return the layers of a model's encoder, the last one first, with their learning rates.

    They are those of `timm.optim.param_groups_layer_decay`, with the decoder as the classifier:
    its rate is 1, and each layer has the share `decay` of the rate of the one above it.

    Raises:
        ConfigError: There is no encoder of timm's, or timm does not divide it into layers.
    """
    import timm
    from timm.models import group_parameters

    backbone: Any = getattr(model, "backbone", None)
    whole: Any = None
    if isinstance(backbone, Backbone):
        with torch.device("meta"):  # what hands out features has parameters of other names
            whole = timm.create_model(backbone.name)
    if not hasattr(whole, "group_matcher"):
        raise ConfigError(
            f"optimizer.layer_decay: found {decay}, and this {type(model).__name__} has no encoder "
            "that timm divides into layers\n  fix: delete it"
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

"""The layers of a timm encoder, for learning rates that fall from layer to layer."""

from typing import Any

from torch import nn

from utils.errors import ConfigError


def layers_below(network: nn.Module, name: str) -> list[tuple[nn.Parameter, int]]:
    """Return each parameter of an encoder with how many layers it lies below the decoder.

    The layers are those of `timm.optim.param_groups_layer_decay`, the decoder in the place of the
    classifier.

    Args:
        network: The encoder as `models.backbones` builds it.
        name: timm's name of it.

    Raises:
        ConfigError: timm does not divide it into layers.
    """
    import timm
    import torch
    from timm.models import group_parameters

    with torch.device("meta"):  # what hands out features has parameters of other names
        whole: Any = timm.create_model(name)
    if not hasattr(whole, "group_matcher"):
        raise ConfigError(f"optimizer.layer_decay: timm does not divide {name} into layers")
    groups: Any = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
    layers = {_plain(key): layer for key, layer in groups.items()}
    top = max(layers.values())
    return [
        (parameter, top - layers.get(_plain(key), top))
        for key, parameter in network.named_parameters()
    ]


def _plain(name: str) -> str:
    """Take from a name what timm's extractors of features change in it."""
    return name.removeprefix("model.").replace(".", "_")

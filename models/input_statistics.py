"""The mean and deviation of the images that an encoder's weights were trained with."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from models import MODELS
from models.encoder_names import timm_name
from utils.errors import ConfigError

_FAR = 0.1  # a difference of means or deviations that changes what the first layer sees


class Statistics(NamedTuple):
    """One value a channel, as fractions of the full scale."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def weight_statistics(name: str, args: Mapping[str, Any], *, needed: bool) -> Statistics | None:
    """Return what timm says about the images that a model's encoder was trained with.

    Args:
        name: A model of the table.
        args: Its arguments.
        needed: Whether the config asks for them.

    Returns:
        None where the model has no encoder.

    Raises:
        ConfigError: timm has no such encoder, or there is none where it is needed.
    """
    parameter = inspect.signature(MODELS[name]).parameters.get("backbone")
    if parameter is None:
        if needed:
            raise ConfigError(
                f"normalize: {name} has no encoder whose weights saw other images; delete it"
            )
        return None
    from timm.models import get_pretrained_cfg

    configuration = get_pretrained_cfg(timm_name(args.get("backbone", parameter.default)))
    return Statistics(configuration.mean, configuration.std) if configuration else None


def difference(weights: Statistics, *, mean: Sequence[float], std: Sequence[float]) -> str | None:
    """Say how images differ from those that weights were trained with, where it is much.

    Args:
        weights: Of the weights' images.
        mean: Of the data, one value a channel.
        std: Likewise.
    """
    pairs = [*zip(mean, weights.mean, strict=False), *zip(std, weights.std, strict=False)]
    if len(mean) != len(weights.mean) or max(abs(ours - theirs) for ours, theirs in pairs) <= _FAR:
        return None
    return (
        f"images are normalised by mean {_text(mean)}, std {_text(std)}, and the encoder's weights "
        f"were trained with {_text(weights.mean)}, {_text(weights.std)}: "
        'with "normalize": "weights" they are taken'
    )


def _text(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)

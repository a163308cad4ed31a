"""The mean and deviation of the images that an encoder's weights were trained with."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from models import MODELS
from models.encoder_names import timm_name
from utils.errors import ConfigError

log = logging.getLogger("segmentation")

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
        None where the model has no encoder, or starts without its weights.

    Raises:
        ConfigError: timm has no such encoder, or there are none and they are needed.
    """
    parameters = inspect.signature(MODELS[name]).parameters
    arguments = {key: args.get(key, parameter.default) for key, parameter in parameters.items()}
    if "backbone" in arguments and (needed or arguments["pretrained"] is not False):
        from timm.models import get_pretrained_cfg

        if configuration := get_pretrained_cfg(timm_name(arguments["backbone"])):
            return Statistics(configuration.mean, configuration.std)
    if needed:
        raise ConfigError(
            f"normalize: {name} has no encoder whose weights saw other images\n  fix: delete it"
        )
    return None


def log_difference(weights: Statistics, *, mean: Sequence[float], std: Sequence[float]) -> None:
    """Say where images differ much from those that weights were trained with.

    Args:
        weights: Of the weights' images.
        mean: Of the data, one value a channel.
        std: Likewise.
    """
    pairs = [*zip(mean, weights.mean, strict=False), *zip(std, weights.std, strict=False)]
    if len(mean) == len(weights.mean) and any(abs(one - other) > _FAR for one, other in pairs):
        log.info(
            "normalize: the images' mean is %s and their deviation %s, those of the encoder's "
            'weights %s and %s: "normalize": "weights" takes the latter',
            *map(_text, (mean, std, *weights)),
        )


def _text(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)

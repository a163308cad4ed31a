"""The mean and deviation of the images that an encoder's weights were trained with."""

import inspect
import logging
from collections.abc import Sequence
from typing import Any

from base.base_dataset import BaseDataset
from base.base_model import BaseModel
from models.encoder_names import timm_name
from utils.config.registry import Choice
from utils.errors import ConfigError

log = logging.getLogger("segmentation")

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation, a value a channel

_FAR = 0.1  # a difference of means or deviations that changes what the first layer sees


def weight_statistics(arch: Choice[BaseModel], *, asked: bool) -> Statistics | None:
    """Return the statistics of the images that a model's encoder was trained with.

    Args:
        arch: The model.
        asked: Whether the config asks for them; else weights that are not loaded have none.

    Raises:
        ConfigError: timm has no such encoder, or they are asked for and there are none.
    """
    parameters = inspect.signature(arch.factory).parameters.values()
    arguments: dict[str, Any] = {**{one.name: one.default for one in parameters}, **arch.args}
    if "backbone" in arguments and (asked or arguments["pretrained"] is not False):
        from timm.models import get_pretrained_cfg

        if weights := get_pretrained_cfg(timm_name(arguments["backbone"])):
            return weights.mean, weights.std
    if asked:
        raise ConfigError(f"normalize: {arch.name} has no encoder with weights\n  fix: delete it")
    return None


def take_statistics(datasets: Sequence[BaseDataset], weights: Statistics, *, asked: bool) -> None:
    """Normalize images as those of the weights were, or say where the two differ much.

    Raises:
        ConfigError: They have other channels.
    """
    own = datasets[0].mean, datasets[0].std
    if asked and len(own[0]) != len(weights[0]):
        raise ConfigError(
            f"normalize: the encoder's weights saw images of {len(weights[0])} channels, these "
            f"have {len(own[0])}\n  fix: delete it"
        )
    if asked:
        for dataset in datasets:
            dataset.normalize_by(*weights)
    elif len(own[0]) == len(weights[0]) and any(
        abs(one - other) > _FAR
        for mine, theirs in zip(own, weights, strict=True)
        for one, other in zip(mine, theirs, strict=True)
    ):
        log.info(
            "normalize: images are normalized by mean %s and deviation %s, those of the encoder's "
            'weights were by %s and %s; "normalize": "weights" takes the latter',
            *([round(value, 3) for value in values] for values in (*own, *weights)),
        )

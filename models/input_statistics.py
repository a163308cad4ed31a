"""The mean and deviation of the images that an encoder's weights were trained with."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from base.base_dataset import BaseDataset
from models import MODELS
from models.encoder_names import timm_name
from utils.errors import ConfigError

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

log = logging.getLogger("segmentation")

_FAR = 0.1  # a difference of means or deviations that changes what the first layer sees


def weight_statistics(name: str, args: Mapping[str, Any], *, asked: bool) -> "PretrainedCfg | None":
    """Return timm's configuration of the weights that a model's encoder starts from.

    Args:
        name: A model of the table.
        args: Its arguments.
        asked: Whether the config asks for the statistics; else weights that are not loaded have
            none.

    Raises:
        ConfigError: timm has no such encoder, or they are asked for and there are none.
    """
    parameters = inspect.signature(MODELS[name]).parameters
    arguments = {key: args.get(key, parameter.default) for key, parameter in parameters.items()}
    if "backbone" in arguments and (asked or arguments["pretrained"] is not False):
        from timm.models import get_pretrained_cfg

        return get_pretrained_cfg(timm_name(arguments["backbone"]))
    if asked:
        raise ConfigError(f"normalize: {name} has no encoder with weights\n  fix: delete it")
    return None


def take_statistics(
    datasets: Sequence[BaseDataset], weights: "PretrainedCfg", *, asked: bool
) -> None:
    """Normalize images as those of the weights were, or say where the two differ much.

    Raises:
        ConfigError: They have other channels.
    """
    mean, std = datasets[0].mean, datasets[0].std
    if len(mean) != len(weights.mean):
        if asked:
            raise ConfigError(
                f"normalize: the weights saw images of {len(weights.mean)} channels, these have "
                f"{len(mean)}\n  fix: delete it"
            )
        return
    if asked:
        for dataset in datasets:
            dataset.normalize_by(weights.mean, weights.std)
        return
    pairs = zip((*mean, *std), (*weights.mean, *weights.std), strict=True)
    if any(abs(one - other) > _FAR for one, other in pairs):
        log.info(
            "normalize: the images are normalized by mean %s and deviation %s, the encoder's "
            'weights saw %s and %s: "normalize": "weights" takes these',
            *(
                [round(one, 3) for one in values]
                for values in (mean, std, weights.mean, weights.std)
            ),
        )

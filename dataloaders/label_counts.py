"""How often each class is labelled: counted once from each mask."""

import logging
from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from base.base_dataset import BaseDataset
from dataloaders.known_files import known
from utils.config.sections import ClassWeightRule
from utils.errors import DataError
from utils.hardware import distributed
from utils.losses.class_weights import class_weights
from utils.run.progress import progress

log = logging.getLogger("segmentation")


class LabelCounts(NamedTuple):
    """Of each class its labelled pixels, and those of any class in the images that have it."""

    pixels: list[int]
    surroundings: list[int]


def loss_weights(
    setting: ClassWeightRule | Sequence[float], dataset: BaseDataset
) -> tuple[float, ...]:
    """What `class_weights` of a config means for a data set; named ones are logged class by class.

    Args:
        setting: The name of a formula, or the weights.
        dataset: The training data; their masks are counted for a formula, once for all runs.

    Raises:
        DataError: No pixel of the training data is labelled.
    """
    if not isinstance(setting, str):
        return tuple(setting)
    counts = count_labels(dataset)
    if not any(counts.pixels):
        raise DataError(
            f"class_weights: none of the {len(dataset)} training masks has a labelled pixel"
        )
    weights = class_weights(setting, counts.pixels, counts.surroundings)
    total = sum(counts.pixels)
    for name, weight, count in zip(dataset.classes, weights, counts.pixels, strict=True):
        log.info(
            "class_weights: %8.4f  %s (%.2f%% of the labels)", weight, name, 100 * count / total
        )
    return weights


def count_labels(dataset: BaseDataset) -> LabelCounts:
    """Count the labels of a data set; a mask that was counted before is not read again.

    With several processes the first one counts for all, which wait for it.

    Raises:
        DataError: A mask cannot be read.
    """
    return distributed.by_first(lambda: _count(dataset))


def _count(dataset: BaseDataset) -> LabelCounts:
    masks = [pair.mask for pair in dataset.pairs if pair.mask is not None]
    # Of files the mask alone is read; decoding its image would take most of the time.
    found = known(
        masks,
        lambda index: _labels(dataset, dataset.read_labels(masks[index])),
        about=f"labels {_meaning(dataset)}",
        title="LABELS",
    )
    if not dataset.pairs:  # drawn, not read: nothing tells whether it is still the same
        drawn = progress(range(len(dataset)), "labels", len(dataset))
        found = [_labels(dataset, dataset.load(index)[1]) for index in drawn]
    pixels, surroundings = ([0] * dataset.num_classes for _ in range(2))
    for counts in found:
        if isinstance(counts, Exception):
            raise counts
        for label, count in zip(counts[::2], counts[1::2], strict=True):
            pixels[label] += count
            surroundings[label] += sum(counts[1::2])
    return LabelCounts(pixels, surroundings)


def _labels(dataset: BaseDataset, mask: np.ndarray) -> list[int]:
    """Each class in a mask of train ids and its pixels, by turns: flat lists load the fastest."""
    counts = dataset.label_counts(mask)
    there = np.flatnonzero(counts)
    return np.stack([there, counts[there]], axis=1).ravel().tolist()


def _meaning(dataset: BaseDataset) -> str:
    """Changes when the values of the masks come to mean something else."""
    shared = {field.name for field in fields(BaseDataset)} - {"ignore_index"}
    own = [field.name for field in fields(dataset) if field.name not in shared]
    settings = {name: getattr(dataset, name) for name in own}
    return f"{type(dataset).__name__} {dataset.classes} {settings}"

"""How often each class is labelled: counted once from the masks, remembered by their files."""

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from base.base_dataset import BaseDataset
from dataloaders.known_files import stamps
from utils.config.sections import ClassWeightRule
from utils.data.pixel_cache import default_folder
from utils.errors import DataError
from utils.files.outputs import write_whole
from utils.hardware import distributed
from utils.losses.class_weights import class_weights
from utils.run.progress import ProgressBar

log = logging.getLogger("segmentation")

_SHARED = {field.name for field in fields(BaseDataset)}


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


def count_labels(dataset: BaseDataset, *, folder: Path | None = None) -> LabelCounts:
    """Count the labels of a data set, or take the counts of an earlier run over the same files.

    With several processes the first one counts for all, which wait for it.

    Args:
        dataset: Read whole and without augmentation.
        folder: Where counts are remembered; None: the user's cache.
    """
    return distributed.by_first(lambda: _remembered(dataset, folder))


def _remembered(dataset: BaseDataset, folder: Path | None) -> LabelCounts:
    if not dataset.pairs:  # drawn, not read: nothing tells whether it is still the same
        return _count(dataset)
    file = (folder or default_folder().parent / "labels") / f"{_digest(dataset)}.json"
    try:
        return LabelCounts(*json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        counts = _count(dataset)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda path: path.write_text(json.dumps(counts)))
    except OSError as error:
        log.info("class_weights: counts are not remembered in %s (%s)", file.parent, error.strerror)
    return counts


def _count(dataset: BaseDataset) -> LabelCounts:
    pixels = np.zeros(dataset.num_classes, np.int64)
    surroundings = np.zeros_like(pixels)
    with closing(ProgressBar("LABELS", len(dataset))) as bar:
        for index in range(len(dataset)):
            # Of files the mask alone is read; decoding its image would take most of the time.
            file = dataset.pairs[index].mask if dataset.pairs else None
            mask = dataset.load(index)[1] if file is None else dataset.read_labels(file)
            counts = dataset.label_counts(mask)
            pixels += counts
            surroundings += (counts > 0) * counts.sum()
            bar.advance()
    return LabelCounts(pixels.tolist(), surroundings.tolist())


def _digest(dataset: BaseDataset) -> str:
    """Changes when a mask file, the list of them, or the meaning of their values does."""
    own = {
        field.name: repr(getattr(dataset, field.name))
        for field in fields(dataset)
        if field.name not in _SHARED or field.name == "ignore_index"
    }
    masks = [pair.mask for pair in dataset.pairs if pair.mask is not None]
    files = [f"{stamp} {mask.absolute()}" for stamp, mask in zip(stamps(masks), masks, strict=True)]
    text = json.dumps([type(dataset).__name__, list(dataset.classes), own, files])
    return hashlib.sha256(text.encode()).hexdigest()[:32]

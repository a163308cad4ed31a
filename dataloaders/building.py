"""From what a config says about a loader to batches: the data set, then its loader."""

import logging
from collections.abc import Mapping
from dataclasses import fields

from base.base_data_loader import BaseDataLoader
from base.base_dataset import BaseDataset
from dataloaders import DATASETS
from utils import distributed
from utils.registry import build, loader_arguments

log = logging.getLogger("segmentation")


def build_loader(
    kind: str,
    name: str,
    args: Mapping[str, object],
    *,
    ignore_index: int,
    seed: int,
    pin_memory: bool = False,
) -> BaseDataLoader:
    """Build the loader of this process.

    Args:
        kind: Its place in the config: "train_loader" or "val_loader".
        name: A data set of the table.
        args: Arguments of the data set and of `BaseDataLoader` together.
        ignore_index: The mask value of void.
        seed: Seed of order and augmentation.
        pin_memory: Page-locked batches, for a CUDA device.

    Raises:
        ConfigError: Unknown name or arguments.
        DataError: The data are not where `args` say.
    """
    for_data, for_batches = loader_arguments(kind, DATASETS, name, args, loader=BaseDataLoader)
    dataset = build(kind, DATASETS, name, for_data, ignore_index=ignore_index, seed=seed)
    loader = build(
        kind,
        {name: BaseDataLoader},
        name,
        for_batches,
        dataset=dataset,
        seed=seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        pin_memory=pin_memory,
        train=kind == "train_loader",
    )
    log.info("%s: %s, %d images", kind, name, len(dataset))
    if loader.dropped:
        log.info(
            "%s: each epoch leaves out %d images, whose batch would be short; "
            '"drop_last": false keeps them',
            kind,
            loader.dropped,
        )
    return loader


def build_whole(
    kind: str, name: str, args: Mapping[str, object], *, ignore_index: int, seed: int
) -> BaseDataset:
    """Build the data set of a loader without what changes its pictures, for an honest score.

    Args:
        kind: Its place in the config: "train_loader" or "val_loader".
        name: A data set of the table.
        args: As for `build_loader`; cropping, scaling and augmentation are left out.
        ignore_index: The mask value of void.
        seed: Seed of what the data set draws.

    Returns:
        All of its images; with `val_split` the share that is held out of the training.

    Raises:
        ConfigError: Unknown name or arguments.
        DataError: The data are not where `args` say.
    """
    for_data, _ = loader_arguments(kind, DATASETS, name, args, loader=BaseDataLoader)
    shared = {field.name for field in fields(BaseDataset)} - {"val_split"}
    own = {key: value for key, value in for_data.items() if key not in shared}
    dataset = build(kind, DATASETS, name, own, ignore_index=ignore_index, seed=seed)
    return dataset if dataset.val_split is None else dataset.split_off()

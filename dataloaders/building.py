"""From what a config says about a loader to batches: the data set, then its loader."""

import logging
import socket
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace

from base.base_data_loader import BaseDataLoader
from base.base_dataset import SPLITTING, BaseDataset
from dataloaders import DATASETS
from dataloaders.doctor import check
from utils.config.registry import Choice, choose_loader
from utils.data.pixel_cache import require_memory
from utils.errors import ConfigError, DataError
from utils.hardware import distributed
from utils.hardware.workers import usable_cores
from utils.run.next_steps import command_line

log = logging.getLogger("segmentation")

Section = tuple[str, Mapping[str, object]]  # a loader's `type` and `args`


def build_loaders(
    train: Section,
    val: Section | None,
    *,
    ignore_index: int,
    seed: int,
    pin_memory: bool = False,
) -> tuple[BaseDataLoader, BaseDataLoader | None]:
    """Build both loaders of this process, after a first look at their data.

    With `val_split` or `val_fold` in the training loader's args, the validation loader gets what is
    held out: whole images, not augmented.

    Args:
        train: `type` and `args` of the training loader.
        val: Those of the validation loader, or None.
        ignore_index: The mask value of void.
        seed: Seed of order, augmentation and held-out share.
        pin_memory: Page-locked batches, for a CUDA device.

    Raises:
        ConfigError: Unknown names or arguments.
        DataError: The data are not where `args` say, or what was looked at cannot be used.
    """
    common = {"ignore_index": ignore_index, "seed": seed}
    datasets, batches = _datasets(train, val, **common)
    if datasets["train_loader"].holds_out:
        datasets["val_loader"] = datasets["train_loader"].split_off()
        shared = batches["train_loader"].args
        batches["val_loader"] = Choice(
            "val_loader",
            train[0],
            BaseDataLoader,
            {key: shared[key] for key in ("batch_size", "num_workers", "timeout") if key in shared},
        )
    _look_at(datasets, batch_size=_own_share(train))
    _check_memory(datasets.values())
    loaders = {
        kind: _loader(batches[kind], dataset, seed=seed, pin_memory=pin_memory)
        for kind, dataset in datasets.items()
    }
    return loaders["train_loader"], loaders.get("val_loader")


def _look_at(datasets: Mapping[str, BaseDataset], *, batch_size: int) -> None:
    """Let the first process look at the data for all; they learn the images' sizes from it."""
    report, usable, sizes = distributed.by_first(
        lambda: (
            *check(datasets, full=False, batch_size=batch_size),
            [dataset.image_sizes for dataset in datasets.values()],
        )
    )
    if not usable:
        raise DataError(
            f"the data cannot be used\n{report}\n"
            f"  to look at all, with the same config: {command_line('train', '--check-data')}"
        )
    for line in report.splitlines():
        log.info("%s", line)
    for dataset, image_sizes in zip(datasets.values(), sizes, strict=True):
        dataset.image_sizes = image_sizes


def _check_memory(datasets: Iterable[BaseDataset]) -> None:
    """Refuse caches in memory that fit one by one, but not together or in every process."""
    if kept := [dataset for dataset in datasets if dataset.cache == "ram"]:
        hosts = distributed.collect(socket.gethostname())
        processes = hosts.count(hosts[distributed.rank()])
        needed = processes * sum(dataset.decoded_bytes() for dataset in kept)
        require_memory(needed, images=sum(map(len, kept)), processes=processes)


def check_data(
    train: Section, val: Section | None, *, ignore_index: int, seed: int
) -> tuple[str, bool]:
    """Look at every file of both loaders.

    Returns:
        The report of the data doctor, and whether the data can be used.

    Raises:
        ConfigError: Unknown names or arguments.
    """
    datasets: dict[str, BaseDataset | DataError] = {}
    for kind, section in (("train_loader", train), ("val_loader", val)):
        if section is not None:
            try:
                datasets[kind] = _dataset(kind, section, ignore_index=ignore_index, seed=seed)[0]
            except DataError as error:
                datasets[kind] = error
    whole = datasets["train_loader"]
    if isinstance(whole, BaseDataset) and whole.holds_out:
        try:
            datasets["val_loader"] = whole.split_off()
        except DataError as error:
            datasets["train_loader"] = error
    return check(datasets, full=True, batch_size=_own_share(train))


def _own_share(train: Section) -> int:
    size = train[1]["batch_size"]
    assert isinstance(size, int)
    return -(-size // distributed.world_size())


def _datasets(
    train: Section, val: Section | None, *, ignore_index: int, seed: int
) -> tuple[dict[str, BaseDataset], dict[str, Choice[BaseDataLoader]]]:
    datasets: dict[str, BaseDataset] = {}
    batches: dict[str, Choice[BaseDataLoader]] = {}
    for kind, section in (("train_loader", train), ("val_loader", val)):
        if section is not None:
            datasets[kind], batches[kind] = _dataset(
                kind, section, ignore_index=ignore_index, seed=seed
            )
    return datasets, batches


def _dataset(
    kind: str, section: Section, *, ignore_index: int, seed: int
) -> tuple[BaseDataset, Choice[BaseDataLoader]]:
    """Build a loader's data set; also returns what makes its batches."""
    data, batches = choose_loader(kind, DATASETS, *section, loader=BaseDataLoader)
    splitting = [key for key in SPLITTING if data.args.get(key) is not None]
    if kind == "val_loader" and splitting:
        raise ConfigError(
            f"val_loader.args.{splitting[0]}: a share is held out of the training data\n"
            f'  fix: set "{splitting[0]}" in train_loader.args and leave val_loader out'
        )
    if kind == "val_loader" and not data.args.get("val"):
        if data.args.get("augment"):
            raise ConfigError(
                "val_loader.args.augment: scores on augmented images say little\n"
                '  fix: "val": true in its place: whole images, or center crops of "crop_size"'
            )
        data = replace(data, args={**data.args, "val": True})
    return data.build(ignore_index=ignore_index, seed=seed), batches


def _loader(
    batches: Choice[BaseDataLoader], dataset: BaseDataset, *, seed: int, pin_memory: bool
) -> BaseDataLoader:
    kind = batches.kind
    loader = batches.build(
        dataset=dataset,
        seed=seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        pin_memory=pin_memory,
        train=kind == "train_loader",
    )
    if loader.dropped and loader.drop_last is not False:
        log.info(
            "%s: each epoch leaves out %d images, whose batch would be short; "
            '"drop_last": false keeps them',
            kind,
            loader.dropped,
        )
    if loader.num_workers > (cores := usable_cores()):
        log.info("%s: %d workers, %d cores; one a core is as fast", kind, loader.num_workers, cores)
    return loader


def build_dataset(kind: str, section: Section, *, ignore_index: int, seed: int) -> BaseDataset:
    """Build the data set that a loader reads, augmentation and all, without what it holds out.

    Raises:
        ConfigError: Unknown name or arguments.
        DataError: The data are not where `args` say.
    """
    dataset = _dataset(kind, section, ignore_index=ignore_index, seed=seed)[0]
    if dataset.holds_out:
        dataset.split_off()
    return dataset


def build_whole(
    kind: str, name: str, args: Mapping[str, object], *, ignore_index: int, seed: int
) -> BaseDataset:
    """Build the data set of a loader without what changes its images, for an honest score.

    Args:
        kind: Its place in the config: "train_loader" or "val_loader".
        name: A data set of the table.
        args: Cropping, scaling and augmentation are left out; what it holds out stays.
        ignore_index: The mask value of void.
        seed: Seed of what the data set draws.

    Returns:
        All of its images; with `val_split` or `val_fold` what is held out of the training.

    Raises:
        ConfigError: Unknown name or arguments.
        DataError: The data are not where `args` say.
    """
    choice, _ = choose_loader(kind, DATASETS, name, args, loader=BaseDataLoader)
    shared = {field.name for field in fields(BaseDataset)} - {*SPLITTING}
    own = {key: value for key, value in choice.args.items() if key not in shared}
    dataset = replace(choice, args=own).build(ignore_index=ignore_index, seed=seed)
    return dataset.split_off() if dataset.holds_out else dataset

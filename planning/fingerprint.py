"""What a folder of images and masks holds: all that the rules look at."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from base.base_dataset import BaseDataset, Pair
from dataloaders import processes
from dataloaders.building import build_dataset, check_data
from dataloaders.folder import Folder
from dataloaders.folder_files import SHAPES, find_pairs
from dataloaders.known_files import read_sizes
from dataloaders.layout import require_some
from dataloaders.shape_files import shapes_below
from dataloaders.statistics import channel_statistics, pixel_kind
from planning.meaning import VOID, Meaning, find_meaning
from planning.places import Place
from utils.data.labels import LabelTable
from utils.data.mask_causes import Table
from utils.data.mask_facts import MaskFacts, look_at_mask
from utils.errors import DataError
from utils.inference.inputs import RGB
from utils.seeding import check_order

_STATISTICS, _HALVES = 256, 64  # images that are read for them
_PLAIN = LabelTable.identity(2, ignore_index=VOID, void=VOID)  # as masks are read at first


@dataclass(frozen=True)
class Fingerprint:
    """What was found. Sizes are (height, width) in pixels, shares in [0, 1]."""

    loaders: Mapping[str, Mapping[str, object]]
    """What the args of `train_loader`, and perhaps of `val_loader`, say of the data."""
    cures: tuple[str, ...]
    """What was decided about masks that do not hold train ids."""
    images: int
    """To train on, with what a split will hold out."""
    val_images: int
    """In a folder of their own."""
    folders: int
    """Of the images, where no class is in one of them alone; else 1."""
    classes: tuple[str, ...]
    shares: tuple[float, ...]
    """Of the labelled pixels, a class each."""
    occurs: tuple[int, ...]
    """Images with each class."""
    void: float
    """Share of the pixels that have no label."""
    smallest: tuple[int, int]
    median: tuple[int, int]
    """Of the short and of the long sides."""
    largest: tuple[int, int]
    channels: int
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    upright: float
    """How far the labels of upper and lower halves of the images differ."""
    sideways: float
    """The same of left and right."""
    decoded_bytes: int
    """All images and masks in memory."""


def take_fingerprint(root: str, places: Mapping[str, Place]) -> tuple[Fingerprint, str]:
    """Look at all files.

    Args:
        root: `data_dir`.
        places: Where the pairs are, as `find_places` returns it.

    Returns:
        What was found, and the report of the data doctor.

    Raises:
        DataError: What the doctor refuses, with its report.
    """
    roles = {"train_loader": "train" if "train" in places else "all", "val_loader": "val"}
    loaders: dict[str, dict[str, Any]] = {
        kind: {"data_dir": root, **places[role]._asdict()}
        for kind, role in roles.items()
        if role in places
    }
    pairs = {kind: _pairs(Path(root), args) for kind, args in loaders.items()}
    first = pairs["train_loader"][0]
    kind = pixel_kind(first.image)
    kind = kind._replace(channels=3) if kind == (1, "uint8") else kind
    # Until the doctor has seen that all images can be read.
    data: dict[str, Any] = (
        {} if kind == RGB else {"mean": (0.5,) * kind.channels, "std": (0.5,) * kind.channels}
    )
    looked: list[MaskFacts | None] = []
    if first.mask is not None and first.mask.suffix.lower() in SHAPES:
        meaning = Meaning(Folder(**loaders["train_loader"], **data).classes)
    else:
        looked = _facts([pair for found in pairs.values() for pair in found])
        meaning = find_meaning([one for one in looked if one])
    for args in loaders.values():
        args |= {"classes": meaning.classes, **meaning.args, **data}
    sections = [("Folder", {**args, "batch_size": 1}) for args in loaders.values()]
    held_out = sections[1] if len(sections) > 1 else None
    report, usable = check_data(sections[0], held_out, ignore_index=VOID, seed=0)
    if not usable:
        raise DataError(f"the data cannot be used\n{report}")
    sets = [build_dataset("train_loader", one, ignore_index=VOID, seed=0) for one in sections]
    if not looked or sets[0].color_table is not None:  # of drawn masks, and of palettes' colors
        looked = _facts(sets[0].pairs, sets[0].color_table or _PLAIN)
    facts = _of_images(sets) | _of_masks(sets[0], looked[: len(sets[0])])
    if data:
        for args in loaders.values():
            args |= {"mean": facts["mean"], "std": facts["std"]}
    return Fingerprint(
        loaders=loaders, cures=meaning.cures, classes=sets[0].classes, **facts
    ), report


def _pairs(root: Path, args: Mapping[str, Any]) -> tuple[Pair, ...]:
    """Find the pairs, or say what the doctor says."""
    images, masks = args["images"], args["masks"]
    try:
        pairs, _ = find_pairs(root, images=images, masks=masks, split=None)
    except DataError as error:
        raise shapes_below(error, root, images=images, masks=masks) from error
    return require_some(pairs, where=root, layout=f"{images} and {masks}")


def _facts(pairs: Sequence[Pair], table: Table = _PLAIN) -> list[MaskFacts | None]:
    masks = [pair.mask for pair in pairs if pair.mask is not None]
    return processes.run(partial(_look, masks, table), range(len(masks)), title="masks")


def _look(masks: Sequence[Path], table: Table, index: int) -> MaskFacts | None:
    try:
        return look_at_mask(masks[index], table)
    except DataError:  # which the doctor tells with all others
        return None


def _of_images(sets: Sequence[BaseDataset]) -> dict[str, Any]:
    data = sets[0]
    for one in sets:
        read_sizes(one)
    sizes = sorted((data.known_size(index) for index in range(len(data))), key=math.prod)
    mean, std = channel_statistics(data, count=min(len(data), _STATISTICS))
    return {
        "images": len(data),
        "val_images": sum(map(len, sets[1:])),
        "smallest": sizes[0],
        "median": tuple(np.median(np.sort(sizes, axis=1), axis=0).astype(int).tolist()),
        "largest": sizes[-1],
        "channels": len(data.mean),
        "dtype": data.input_dtype,
        "mean": _rounded(mean),
        "std": _rounded(std),
        "decoded_bytes": sum(one.decoded_bytes() for one in sets),
    }


def _of_masks(data: BaseDataset, looked: Sequence[MaskFacts | None]) -> dict[str, Any]:
    count, everything = data.num_classes, 0
    pixels, occurs = np.zeros(count), np.zeros(count, int)
    folders: dict[Path, np.ndarray] = {}
    for pair, one in zip(data.pairs, looked, strict=True):
        assert one is not None
        values = np.array(list(one.values), np.int32)
        if data.color_table is not None:
            ids = data.color_table.lookup(values)
        else:
            ids = data.table.apply(values[None], str(one.path))[0]
        known = (ids >= 0) & (ids < count)
        np.add.at(pixels, ids[known], np.array(list(one.values.values()))[known])
        there = np.bincount(ids[known], minlength=count) > 0
        occurs += there
        everything += one.pixels
        folders[pair.image.parent] = folders.get(pair.image.parent, 0) + there
    shared = np.sum([some > 0 for some in folders.values()], axis=0)[occurs > 0].min() > 1
    upright, sideways = _halves(data)
    return {
        "shares": _rounded(pixels / pixels.sum()),
        "occurs": tuple(occurs.tolist()),
        "void": _rounded([1 - pixels.sum() / everything])[0],
        "folders": len(folders) if shared else 1,
        "upright": upright,
        "sideways": sideways,
    }


def _halves(data: BaseDataset) -> tuple[float, ...]:
    """How far labels differ between upper and lower, and between left and right halves."""
    sums = np.zeros((2, 2, data.num_classes))
    for index in check_order(len(data), seed=0)[:_HALVES]:
        mask = data.read_labels(data.pairs[index].mask or Path())
        for side in (0, 1):
            for half, part in enumerate(np.array_split(mask, 2, axis=side)):
                sums[side, half] += data.label_counts(np.ascontiguousarray(part)) / mask.size
    return _rounded(np.abs(sums[:, 0] - sums[:, 1]).sum(axis=1) / sums[0].sum())


def _rounded(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)

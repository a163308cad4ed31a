"""What a folder of images and masks holds: all that the rules look at."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders import processes
from dataloaders.doctor import check
from dataloaders.folder import Folder
from dataloaders.folder_files import SHAPES
from dataloaders.known_files import read_sizes
from dataloaders.places import Place, labelled_pairs
from dataloaders.statistics import channel_statistics, pixel_kind
from planning.meaning import VOID, Meaning, find_meaning
from utils.data.labels import LabelTable
from utils.data.mask_facts import MaskFacts, look_at_mask
from utils.errors import DataError

_STATISTICS = 256  # images that are read for them
_PLAIN = LabelTable.identity(2, ignore_index=VOID, void=VOID)  # as masks are read at first


@dataclass(frozen=True)
class Fingerprint:
    """What was found. Sizes are (height, width) in pixels, shares in [0, 1]."""

    loaders: Mapping[str, Mapping[str, object]]
    """What the args of `train_loader`, and perhaps of `val_loader`, say of the data."""
    cure: str
    """What was decided about masks that do not hold train ids, or ""."""
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
    given = {
        f"{role}_loader": {key: one for key, one in places[role]._asdict().items() if one}
        for role in ("train", "val")
        if role in places
    }
    pairs = [pair for one in given.values() for pair in labelled_pairs(Path(root), **one)[0]]
    loaders: dict[str, dict[str, Any]] = {
        kind: {"data_dir": root, **one} for kind, one in given.items()
    }
    channels, dtype = pixel_kind(pairs[0].image)
    # Until the doctor has seen that all images can be read.
    unknown = (0.5,) * channels
    plain = dtype == "uint8" and channels in (1, 3)
    data: dict[str, Any] = {} if plain else {"mean": unknown, "std": unknown}
    masks = [pair.mask for pair in pairs if pair.mask is not None]
    if masks[0].suffix.lower() in SHAPES:
        meaning = Meaning(Folder(**loaders["train_loader"], **data).classes)
    else:
        looked = processes.run(partial(_look, masks), range(len(masks)), title="masks")
        meaning = find_meaning([one for one in looked if one])
    if min(len(pairs), len(meaning.classes)) < 2:
        raise DataError(
            f"{root}: found {len(pairs)} pairs, and in masks {', '.join(meaning.classes)}\n"
            "  expected: two of both at least\n"
            "  fix: add images, or name other masks with --images and --masks"
        )
    for args in loaders.values():
        args |= {"classes": meaning.classes, **meaning.args, **data}
    sets = {kind: Folder(**args, ignore_index=VOID) for kind, args in loaders.items()}
    report, usable = check(sets, full=True)
    if not usable:
        raise DataError(f"the data cannot be used\n{report}")
    facts = _of_images(list(sets.values())) | _of_labels(sets["train_loader"])
    for args in loaders.values() if data else ():
        args |= {"mean": facts["mean"], "std": facts["std"]}
    return Fingerprint(loaders, meaning.cure, classes=meaning.classes, **facts), report


def _look(masks: Sequence[Path], index: int) -> MaskFacts | None:
    try:
        return look_at_mask(masks[index], _PLAIN)
    except DataError:  # which the doctor tells with all others
        return None


def _of_images(sets: Sequence[Folder]) -> dict[str, Any]:
    data = sets[0]
    for one in sets:
        read_sizes(one)
    sizes = sorted((data.known_size(index) for index in range(len(data))), key=math.prod)
    mean, std = channel_statistics(data, count=_STATISTICS)
    return {
        "images": len(data),
        "val_images": sum(map(len, sets[1:])),
        "smallest": sizes[0],
        "median": tuple(np.median(np.sort(sizes, axis=1), axis=0).astype(int).tolist()),
        "largest": sizes[-1],
        "channels": data.kind.channels,
        "dtype": data.kind.dtype,
        "mean": _rounded(mean),
        "std": _rounded(std),
        "decoded_bytes": sum(one.decoded_bytes() for one in sets),
    }


def _of_labels(data: Folder) -> dict[str, Any]:
    found = processes.run(partial(_halves, data), range(len(data)), title="labels")
    halves = np.array([counts for counts, _ in found])
    sizes = np.array([size for _, size in found])
    pixels = halves[:, 0].sum(axis=1)  # (images, classes)
    there = pixels > 0
    folders = [pair.image.parent for pair in data.pairs]
    homes = [{*itertools.compress(folders, some)} for some in there.T]
    shared = all(len(some) > 1 for some in homes if some)
    shares = np.tensordot(1 / sizes, halves, 1)  # each image counts the same, however large
    differ = np.abs(shares[:, 0] - shares[:, 1]).sum(axis=1)
    upright, sideways = _rounded(differ / shares[0].sum())
    return {
        "shares": _rounded(pixels.sum(axis=0) / pixels.sum()),
        "occurs": tuple(there.sum(axis=0).tolist()),
        "void": _rounded([1 - pixels.sum() / sizes.sum()])[0],
        "folders": len({*folders}) if shared else 1,
        "upright": upright,
        "sideways": sideways,
    }


def _halves(data: Folder, index: int) -> tuple[np.ndarray, int]:
    """Pixels of each class (axis, half, class): of upper and lower, of left and right halves."""
    mask = data.read_labels(data.pairs[index].mask or Path())
    parts = [np.array_split(mask, 2, axis=axis) for axis in (0, 1)]
    counts = [[data.label_counts(np.ascontiguousarray(one)) for one in two] for two in parts]
    return np.array(counts), mask.size


def _rounded(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)

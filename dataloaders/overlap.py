"""Images that are both trained on and validated."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from base.base_dataset import BaseDataset
from dataloaders.known_files import known, stamps
from dataloaders.layout import with_examples


def overlap(train: BaseDataset, val: BaseDataset) -> str | None:
    """Return what is wrong when training and validation share images: a file or its content."""
    images = [[pair.image for pair in dataset.pairs] for dataset in (train, val)]
    sizes = [[stamp.partition(" ")[0] for stamp in stamps(paths)] for paths in images]
    of_one_size = set(sizes[0]) & set(sizes[1])
    trained_on, validated = (
        _contents([path for path, size in zip(*part, strict=True) if size in of_one_size])
        for part in zip(images, sizes, strict=True)
    )
    originals = {content: path for path, content in reversed(trained_on)}
    shared = [f"{path} is {originals[one]}" for path, one in validated if one in originals]
    if not shared:
        return None
    return with_examples(
        f"{len(shared)} of {len(val)} validation images are also trained on (same file or same "
        "content): the score would be too good",
        shared,
    )


def _contents(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return what stands for the content of each file that can be read."""
    found = known(paths, lambda index: _digest(paths[index]), about="content", title="CONTENT")
    return [pair for pair in zip(paths, found, strict=True) if isinstance(pair[1], str)]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest()

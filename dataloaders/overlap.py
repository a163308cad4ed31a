"""Images that are both trained on and validated."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from base.base_dataset import BaseDataset
from dataloaders.known_files import known, stamps
from dataloaders.layout import with_examples
from utils.errors import DataError


def overlap(train: BaseDataset, val: BaseDataset) -> str | None:
    """Return what is wrong when training and validation share images: a file or its content."""
    images = [[pair.image for pair in dataset.pairs] for dataset in (train, val)]
    sizes = [[stamp.partition(" ")[0] for stamp in stamps(paths)] for paths in images]
    of_one_size = set(sizes[0]) & set(sizes[1])
    trained_on, validated = (
        _contents([path for path, size in zip(*part, strict=True) if size in of_one_size])
        for part in zip(images, sizes, strict=True)
    )
    originals = {content: path for path, content in reversed(trained_on.items())}
    shared = [
        f"{path} is {originals[content]}"
        for path, content in validated.items()
        if content in originals
    ]
    if not shared:
        return None
    return with_examples(
        f"{len(shared)} of {len(val)} validation images are also trained on (same file or same "
        "content): the score would be too good",
        shared,
    )


def _contents(paths: Sequence[Path]) -> dict[Path, str]:
    """Return what stands for the content of each file that can be read."""
    found = known(paths, lambda index: _digest(paths[index]), about="content", title="CONTENT")
    return {path: one for path, one in zip(paths, found, strict=True) if isinstance(one, str)}


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error

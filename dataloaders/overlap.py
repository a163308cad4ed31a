"""Images that are both trained on and validated."""

import hashlib
from collections import defaultdict
from pathlib import Path

from base.base_dataset import BaseDataset
from dataloaders.layout import with_examples


def overlap(train: BaseDataset, val: BaseDataset) -> str | None:
    """Return what is wrong when training and validation share images: a file or its content."""
    groups: defaultdict[int, list[tuple[str, Path]]] = defaultdict(list)
    for kind, dataset in (("train", train), ("val", val)):
        for pair in dataset.pairs:
            if pair.image.is_file():
                groups[pair.image.stat().st_size].append((kind, pair.image))
    shared = []
    for members in groups.values():
        if len({kind for kind, _ in members}) == 2:
            by_content: dict[bytes, Path] = {}
            for kind, path in members:
                if kind == "train":
                    by_content.setdefault(_digest(path), path)
            shared += [
                f"{path} is {by_content[_digest(path)]}"
                for kind, path in members
                if kind == "val" and _digest(path) in by_content
            ]
    if not shared:
        return None
    return with_examples(
        f"{len(shared)} of {len(val)} validation images are also trained on (same file or same "
        "content): the score would be too good",
        shared,
    )


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()

"""Masks drawn from shapes, kept as PNG in the user's cache: each is drawn once."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from base.samples import Pair
from dataloaders.annotations import NUMBERED, Annotations
from dataloaders.known_files import stamps
from dataloaders.layout import with_examples
from dataloaders.polygons import ShapeError
from utils.data.pixel_cache import default_folder
from utils.errors import DataError, ResourceError
from utils.files.decoding import decoding
from utils.files.outputs import write_whole
from utils.files.raw_pixels import header
from utils.hardware import distributed
from utils.run.progress import ProgressBar

_FORMAT = 2  # to be raised when the same files become other masks
BACKGROUND = ("background", "_background_")


def drawn_labels(num_classes: int) -> Mapping[str, int | Literal["void"]]:
    """What a drawn mask holds, as a `label_map` writes it."""
    void = np.iinfo(_dtype(num_classes)).max
    return {**{str(number): number for number in range(num_classes)}, str(void): "void"}


def _dtype(num_classes: int) -> np.dtype:
    return np.dtype(np.uint8 if num_classes <= 255 else np.uint16)


def draw_masks(
    pairs: Sequence[Pair],
    found: Annotations,
    classes: Sequence[str],
    label_map: Mapping[str, int | str],
    *,
    channels: int,
) -> tuple[Pair, ...]:
    """Draw the shapes of each image, later ones over earlier ones, unless that was done before.

    Args:
        pairs: Images with the files of their shapes.
        found: The shapes.
        classes: Names; a class "background" is where nothing is drawn, else that is void.
        label_map: Train id or "void" of labels that are no class; "*" is every other label.
        channels: Of the images; by them an array (C, H, W) is told from (H, W, C).

    Returns:
        The images with PNG masks, as `drawn_labels` describes them.

    Raises:
        DataError: A damaged file, or a label that is neither class nor in `label_map`.
        ResourceError: The cache cannot be written.
    """
    ids, dtype = _ids(classes, label_map), _dtype(len(classes))
    files = [[file for file in pair if file is not None] for pair in pairs]
    flat = stamps([file for both in files for file in both])
    recipe = f"{_FORMAT} {found.kind} {found.meaning} {len(classes)} {sorted(ids.items())}"
    folder = default_folder().parent / "masks" / _digest(recipe)
    targets = [folder / f"{pair.image.stem}-{_digest(f'{both} {flat[2 * i : 2 * i + 2]}')}.png"
               for i, (pair, both) in enumerate(zip(pairs, files, strict=True))]  # fmt: skip
    missing = [i for i, target in enumerate(targets) if not target.exists()]
    rank, processes = distributed.rank(), distributed.world_size()
    missing.sort(key=lambda i: (i - rank) % processes)  # each begins with what others leave
    faults: list[str] = []
    with closing(ProgressBar(f"MASKS ({found.kind})", len(missing), shown=rank == 0)) as bar:
        for i in missing:
            try:
                if not targets[i].exists():
                    _write(_drawn(pairs[i], found, ids, dtype, channels), targets[i])
            except DataError as error:
                faults.append(str(error))
            bar.advance()
    if faults:
        others = [fault.partition("\n")[0] for fault in faults[1:]]
        more = f"\n  and {len(others)} more like it"
        raise DataError(faults[0] + (with_examples(more, others) if others else ""))
    return tuple(Pair(pair.image, target) for pair, target in zip(pairs, targets, strict=True))


def _ids(classes: Sequence[str], label_map: Mapping[str, int | str]) -> dict[str, int]:
    """The train id of each label; -1: void."""
    ids = {name: number for number, name in enumerate(classes)}
    ids |= {name: -1 if to == "void" else int(to) for name, to in label_map.items()}
    nothing = next((ids[name] for name in BACKGROUND if name in ids), None)
    return ids if nothing is None else dict.fromkeys(BACKGROUND, nothing) | ids


def _drawn(
    pair: Pair, found: Annotations, ids: Mapping[str, int], dtype: np.dtype, channels: int
) -> np.ndarray:
    assert pair.mask is not None
    size = header(pair.image, channels).size
    mask = np.full(size, ids.get(BACKGROUND[0], -1), np.int64)
    with decoding(pair.mask):
        try:
            for label, area in found.shapes(pair, size):
                mask[area] = ids[label] if label in ids else _other(label, ids, found.kind)
        except ShapeError as error:
            raise DataError(f"{pair.mask}: {pair.image.name}: {error}") from error
    return np.where(mask < 0, np.iinfo(dtype).max, mask).astype(dtype)


def _other(label: str, ids: Mapping[str, int], kind: str) -> int:
    """What a label becomes that is no class by its name."""
    if "*" in ids:
        return ids["*"]
    alike = [name for name in ids if name.casefold() == label.casefold() and ids[name] >= 0]
    becomes = json.dumps({label: ids[alike[0]] if alike else "void"})
    fix = "" if alike else 'add it to "classes"'
    if kind != NUMBERED:
        fix += f'{"" if alike else ", or "}"label_map": {becomes}'
    elif alike:  # the config's label_map is the table
        fix = f"write {alike[0]!r} in the table"
    names = ", ".join(name for name in ids if name != BACKGROUND[1])
    raise ShapeError(f"the label {label!r} is no class, expected {names}\n  fix: {fix}")


def _write(mask: np.ndarray, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, lambda path: Image.fromarray(mask).save(path, format="PNG"))
    except OSError as error:
        raise ResourceError(
            f"{target}: a drawn mask cannot be kept ({error.strerror})\n"
            "  fix: set XDG_CACHE_HOME to a folder that can be written, or draw them by "
            "tools/masks.py"
        ) from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]

"""Where in a folder images and masks lie, as `images` and `masks` of a config say it.

Names propose; the pairing that a training uses accepts or refuses. Nothing is paired by position.
"""

import contextlib
import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dataloaders.annotations import json_kind
from dataloaders.folder_files import SHAPES, files_below, find_pairs, likely_patterns
from dataloaders.layout import first_folder, listed
from utils.errors import DataError
from utils.files.endings import EXTENSIONS

_MASKS = re.compile(
    r"(?i)segmentation_?class(raw|aug)?|ground_?truths?|annotations?|annots?|masks?|labels?"
    r"|(?<![a-z])(gts?|seg|segmentations?|lbls?|targets?|json)(?![a-z])"
)
_IMAGES = re.compile(
    r"(?i)(jpeg|original)?[_ -]?images?|imgs?|photos?|pictures?|(?<![a-z])(rgb|inputs?)(?![a-z])"
)
_ROLES = {
    "train": r"(?i)(?<![a-z])train(ing)?(?![a-z])",
    "val": r"(?i)(?<![a-z])(val|valid|validation|dev)(?![a-z])",
    "test": r"(?i)(?<![a-z])test(ing)?(?![a-z])",
}
_Folders = Mapping[str, Sequence[Path]]
_Pairs = list[tuple[str, str]]


class Place(NamedTuple):
    """Sub-folders or patterns, as the args of a loader have them."""

    images: str
    masks: str


def find_places(root: Path) -> dict[str, Place]:
    """Return where the pairs are: under "all", or under "train" and perhaps "val" and "test".

    Raises:
        DataError: No such folder, or several ways to pair.
    """
    first_folder([root], layout="a folder of images and masks")
    folders = defaultdict(list)
    for path in map(Path, files_below(root)):
        if path.suffix.lower() in (*EXTENSIONS, *SHAPES):
            folders[path.parent.relative_to(root).as_posix()].append(path)
    places = dict(_of_coco(root, folders))
    if not places:
        roles: defaultdict[str, _Pairs] = defaultdict(list)
        together = [(folder, folder) for folder, files in folders.items() if all(_apart(files))]
        for pair in _partners(root, folders) or together:
            roles[_role(pair[0])].append(pair)
        places = {role: _merged(root, pairs, folders) for role, pairs in roles.items()}
    if "train" in places:
        return places
    # Without any, the usual names: the doctor says what is missing.
    return {"all": next(iter(places.values()), Place("images", "masks"))}


def _key(folder: str) -> tuple[str, ...]:
    """What is left of a path without the words for images and masks."""
    plain = (_IMAGES.sub("", _MASKS.sub("", part)).strip("_-. ") for part in Path(folder).parts)
    return tuple(part.lower() for part in plain if part)


def _role(folder: str) -> str:
    words = "/".join(_key(folder))
    return next((role for role, word in _ROLES.items() if re.search(word, words)), "all")


def _pixels(files: Sequence[Path]) -> list[Path]:
    return [path for path in files if path.suffix.lower() in EXTENSIONS]


def _partners(root: Path, folders: _Folders) -> _Pairs:
    """Folders of images, each with that of its masks: by path, else by the names of their files."""
    masks = [folder for folder in folders if _MASKS.search(folder)]
    images = [one for one in folders if one not in masks and _pixels(folders[one])]
    every = list(itertools.product(images, masks))
    found: _Pairs = []
    for tried in ([pair for pair in every if _key(pair[0]) == _key(pair[1])], every):
        found = found or [pair for pair in tried if _alike(root, pair, folders)]
    sides = list(itertools.chain(*found))
    if twice := [pair for pair in found if max(map(sides.count, pair)) > 1]:
        ways = listed(f'--images "{image}" --masks "{mask}"' for image, mask in twice)
        raise DataError(
            f"{root}: images and masks can be paired in several ways:\n{ways}\n"
            "  fix: give one of them, or remove a folder"
        )
    return found


def _alike(root: Path, pair: tuple[str, str], folders: _Folders) -> bool:
    files = [folders[folder] for folder in pair]
    stems = [{path.stem for path in some} for some in files]
    return bool(stems[0] & stems[1] or likely_patterns(root, pair, files))


def _apart(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Tell the images of a folder from its masks: by a word, by JPEG, or by files of shapes."""
    pixels = _pixels(files)
    named = [path for path in pixels if _MASKS.search(path.stem)]
    lossless = [path for path in pixels if path.suffix.lower() not in (".jpg", ".jpeg")]
    masks = named or (lossless if len(lossless) < len(pixels) else [])
    masks = masks or [path for path in files if path not in pixels]
    return [path for path in pixels if path not in masks], masks


def _merged(root: Path, pairs: _Pairs, folders: _Folders) -> Place:
    """Say all folders of a role at once."""
    sides = list(zip(*pairs, strict=True))
    kinds = [os.path.commonpath(side) or "." for side in sides]
    inner = [[os.path.relpath(folder, kind) for folder in side]
             for side, kind in zip(sides, kinds, strict=True)]  # fmt: skip
    if inner[0] != inner[1]:  # as in Tile 1/images, Tile 1/masks
        first = _merged(root, pairs[:1], folders)
        names = (Path(one).name if "*" in one else "*.*" for one in first)
        return Place(*(f"{_starred(side)}/{name}" for side, name in zip(sides, names, strict=True)))
    files: list[list[Path]] = [[path for one in side for path in folders[one]] for side in sides]
    if kinds[0] == kinds[1]:
        files = list(_apart(files[0]))
    shapes = files[1][0].suffix.lower() in SHAPES
    if shapes or (kinds[0] != kinds[1] and {p.stem for p in files[0]} & {p.stem for p in files[1]}):
        return Place(*kinds)
    return Place(*(likely_patterns(root, kinds, files) or kinds)[:2])


def _starred(folders: Sequence[str]) -> str:
    parts = itertools.zip_longest(*(Path(folder).parts for folder in folders))
    return "/".join(some[0] if len({*some}) == 1 else "*" for some in parts)


def _of_coco(root: Path, folders: _Folders) -> Iterator[tuple[str, Place]]:
    for files in folders.values():
        texts = [path for path in files if path.suffix.lower() == ".json"]
        with contextlib.suppress(OSError, ValueError):
            if texts and json_kind(json.loads(texts[0].read_text("utf-8-sig"))) == "COCO":
                for path in texts:
                    masks = path.relative_to(root).as_posix()
                    own = path.parent.relative_to(root).as_posix()  # first
                    for images in sorted(filter(folders.get, folders), key=own.__ne__):
                        with contextlib.suppress(DataError):
                            find_pairs(root, images=images, masks=masks, split=None)
                            yield _role(masks), Place(images, masks)
                            break

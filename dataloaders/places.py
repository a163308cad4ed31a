"""Where in a folder images and masks lie, as `images` and `masks` of a config say it.

Names propose; the pairing that a training uses accepts or refuses. Nothing is paired by position.
"""

import contextlib
import functools
import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from base.samples import Pair
from dataloaders.annotations import json_kind, read_json
from dataloaders.folder_files import SHAPES, Split, find_pairs, likely_patterns, readable
from dataloaders.layout import contents, listed, require_some
from dataloaders.patterns import files_below
from utils.errors import DataError
from utils.files.endings import EXTENSIONS

_START, _END = r"(?-i:(?<![a-z])|(?=[A-Z]))", r"(?-i:(?![a-z]))"  # of a word, as in gtFine
_MASKS = re.compile(
    r"(?i)segmentation_?class(raw|aug)?|ground[_ ]?truths?"
    r"|(annotations?|annots?|masks?|labels?)(?!(at|l)?ed)"
    rf"|{_START}(gts?|seg|segmentations?|anns?|lbls?|msks?|targets?){_END}"
    rf"|{_START}((1st|2nd)[_ -]?)?manuals?[12]?{_END}"
)
_IMAGES = re.compile(
    rf"(?i)(jpeg|original)?[_ -]?images?|imgs?|photos?|pictures?|{_START}(rgb|inputs?){_END}"
)
_ROLES = {
    "train": r"(?<![a-z])train(ing)?(?![a-z])",
    "val": r"(?<![a-z])(val|valid|validation|dev)(?![a-z])",
    "test": r"(?<![a-z])test(ing)?(?![a-z])",
}
_OF_OBJECTS = "\n  or, where a mask holds one object: draw those of an image into one mask first"
_FEW = 8  # JSON files of a folder that are looked at: COCO's are few
_Folders = dict[str, list[Path]]  # by their paths below the root
_Pairs = list[tuple[str, str]]  # folders of images and of masks, or COCO files


class Place(NamedTuple):
    """Sub-folders or patterns and a list, as the args of a loader have them."""

    images: str
    masks: str
    split: str | None = None


def labelled_pairs(
    root: Path, *, images: str, masks: str, split: Split = None
) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Find the pairs of a split, one at least, and what to say of them; see `find_pairs`.

    Raises:
        DataError: As `find_pairs`; its fix are other places, where names tell such.
    """
    try:
        pairs, notes = find_pairs(root, images=images, masks=masks, split=split)
    except DataError as error:
        told, _, fix = str(error).partition("\n  fix: ")
        elsewhere = split is not None or Path(images).is_absolute()  # root says nothing of them
        if elsewhere or '"images": ' in fix or not (other := _other_place(root, masks)):
            raise
        raise DataError(f"{told}\n  fix: {other}") from error
    layout = f"data_dir/{images} and data_dir/{masks} with the same names"
    return require_some(pairs, where=root, layout=layout), notes


def _other_place(root: Path, masks: str) -> str:
    with contextlib.suppress(DataError):
        place = find_places(root)[0]["train"]
        if place.masks == masks or not place.masks.endswith(".json"):  # COCO's damages come next
            find_pairs(root, **place._asdict())
        return json.dumps({"images": place.images, "masks": place.masks})[1:-1]
    return ""


def find_places(root: Path) -> tuple[dict[str, Place], list[str]]:
    """Return where the pairs are: of "train" and perhaps of "val"; and folders that are left alone.

    Raises:
        DataError: No such folder, no way to pair, or several ones.
    """
    folders: _Folders = defaultdict(list)
    for path in map(Path, files_below(root)):
        if path.suffix.lower() in (*EXTENSIONS, *SHAPES) and path.name != "classes.txt":
            folders[path.parent.relative_to(root).as_posix()].append(path)
    if not any(map(_pixels, folders.values())) and not readable(root):
        raise DataError(f"{root}: no file in it\n  fix: name the folder of images and masks")
    if any("leftImg8bit" in Path(folder).parts for folder in folders):
        raise DataError(
            f'{root}: the layout of Cityscapes, which "type": "CityScapes" reads\n'
            "  fix: train with one of configs/cityscapes_*.json; for other data in this layout "
            "name folders or patterns with --images and --masks"
        )
    by_files, by_words = _partners(root, folders)
    together = [(folder, folder) for folder, files in folders.items() if all(_apart(files))]
    roles: defaultdict[str, _Pairs] = defaultdict(list)
    for pair in _of_coco(root, folders) or by_files or together or by_words:
        roles[_role(pair)].append(pair)
    if not roles:
        raise DataError(
            f"{root}: names do not tell which files are images and masks\n"
            f"  found: {contents(root)}\n"
            '  fix: name folders or patterns, as in --images "a/*.jpg" --masks "b/*_mask.png"'
        )
    train = next(role for role in ("train", "all", *roles) if role in roles)
    parts = {"train": roles[train], "val": roles["val"] if train != "val" else []}
    places = {role: _merged(root, pairs, folders) for role, pairs in parts.items() if pairs}
    places = places if "val" in places else _by_lists(root, places["train"], folders)
    used = {*itertools.chain(*parts["train"], *parts["val"])}
    return places, [one for one in folders if one not in used and _pixels(folders[one])]


@functools.cache
def _key(folder: str) -> tuple[str, ...]:
    """What is left of a path without the words for images and masks."""
    plain = (_IMAGES.sub("", _MASKS.sub("", part)).strip("_-. ") for part in Path(folder).parts)
    return tuple(part.lower() for part in plain if part)


def _role(pair: tuple[str, str]) -> str:
    words = "/".join(itertools.chain(*map(_key, pair)))
    return next((role for role, word in _ROLES.items() if re.search(word, words)), "all")


def _pixels(files: Sequence[Path]) -> list[Path]:
    return [path for path in files if path.suffix.lower() in EXTENSIONS]


def _of_coco(root: Path, folders: _Folders) -> _Pairs:
    """COCO files, each with the folder that has most of its images."""
    found = []
    for own, files in folders.items():
        for path in [one for one in files if one.suffix.lower() == ".json"][:_FEW]:
            with contextlib.suppress(OSError, ValueError):
                content = read_json(path)
                if json_kind(content) == "COCO":
                    names = _image_names(content)
                    most = [(len(names.intersection(path.name for path in some)), one == own, one)
                            for one, some in folders.items()]  # fmt: skip
                    found.append((max(most)[-1], path.relative_to(root).as_posix()))
    return found


def _image_names(content: Any) -> set[str]:
    with contextlib.suppress(LookupError, TypeError):  # a damaged file is told when it is read
        return {Path(one["file_name"]).name for one in content["images"]}
    return set()


def _partners(root: Path, folders: _Folders) -> tuple[_Pairs, _Pairs]:
    """Folders of images, each with that of its masks: whose files fit, and whose words do."""
    masks = [one for one in folders if _holds_masks(one) or not _pixels(folders[one])]
    images = [one for one in folders if one not in masks]
    near = sorted(itertools.product(images, masks), key=_distance)
    found: _Pairs = []
    for _, level in itertools.groupby(near, key=_distance):
        pairs = list(level)
        if not found and len(pairs) <= 2 * len(folders):  # else it takes long, and tells nothing
            found = [pair for pair in pairs if _alike(root, pair, folders)]
    return found, [pair for pair in near if _distance(pair) == 0]


def _holds_masks(folder: str) -> bool:
    """What the last word for images or masks in its path says."""
    words = (part for part in Path(folder).parts if _MASKS.search(part) or _IMAGES.search(part))
    return bool(_MASKS.search(["", *words][-1]))


def _distance(pair: tuple[str, str]) -> int:
    """How many parts of two paths differ, words for images and masks aside."""
    return len({*_key(pair[0])} ^ {*_key(pair[1])})


def _alike(root: Path, pair: tuple[str, str], folders: _Folders) -> bool:
    files = [folders[folder] for folder in pair]
    stems = [{path.stem for path in some} for some in files]
    return bool(stems[0] & stems[1] or likely_patterns(root, pair, files))


def _apart(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Tell the images of a folder from its masks: by a word, by JPEG, or by files of shapes."""
    pixels = _pixels(files)
    stems = {path.stem for path in pixels}
    named = [path for path in pixels if _MASKS.search(path.stem)]
    lossless = [path for path in pixels if path.suffix.lower() not in (".jpg", ".jpeg")]
    shapes = [path for path in files if path.suffix.lower() in SHAPES and path.stem in stems]
    masks = named or (len(lossless) < len(pixels) and lossless) or shapes
    return sorted({*pixels}.difference(masks)), masks


def _merged(root: Path, pairs: _Pairs, folders: _Folders) -> Place:
    """Say all folders of a role at once."""
    sides = list(zip(*pairs, strict=True))
    stars = [_starred(side) for side in sides]
    twice = any(len({*side}) < len(pairs) for side in sides)
    if twice or (sides[0] != sides[1] and stars[0] == stars[1]):
        ways = listed(f'--images "{image}" --masks "{mask}"' for image, mask in pairs)
        raise DataError(
            f"{root}: images and masks can be paired in several ways:\n{ways}\n"
            "  fix: give one of them, perhaps with stars for several folders, or remove a folder"
        )
    kinds = [os.path.commonpath(side) or "." for side in sides]
    inner = [[os.path.relpath(folder, kind) for folder in side]
             for side, kind in zip(sides, kinds, strict=True)]  # fmt: skip
    if inner[0] != inner[1]:  # as in Tile 1/images, Tile 1/masks
        first, masks = _merged(root, pairs[:1], folders), folders[pairs[0][1]]
        ends = [".*", ".*" if _pixels(masks) else masks[0].suffix]
        names = (
            Path(one).name if "*" in one else f"*{end}"
            for one, end in zip(first[:2], ends, strict=True)
        )
        return Place(*(f"{star}/{name}" for star, name in zip(stars, names, strict=True)))
    images, masks = (
        [path for one in side for path in folders.get(one, [root / one])] for side in sides
    )
    if kinds[0] == kinds[1]:
        images, masks = _apart(images)
    images, masks = _pixels(images), _pixels(masks) or masks
    shapes = masks[0].suffix.lower() in SHAPES
    shared = {path.stem for path in images} & {path.stem for path in masks}
    found = likely_patterns(root, kinds, (images, masks))
    if shapes or (shared and kinds[0] != kinds[1]) or not found:
        return Place(*kinds)
    if found[2] < max(len(images), len(masks)):
        find_pairs(root, images=found[0], masks=found[1], split=None)  # tells what has no mask
        raise DataError(
            f"{root}: of {len(images)} images and {len(masks)} masks {found[2]} would be pairs\n"
            f'  fix: if that is right, --images "{found[0]}" --masks "{found[1]}"; else name others'
            f"{_OF_OBJECTS if len(masks) > len(images) else ''}"
        )
    return Place(*found[:2])


def _by_lists(root: Path, place: Place, folders: _Folders) -> dict[str, Place]:
    """Divide pairs by lists of their names, train.txt and val.txt, where they fit."""
    for train in (path for files in folders.values() for path in files if path.name == "train.txt"):
        lists = {"train": train, "val": train.with_name("val.txt")}
        found = {role: place._replace(split=path.relative_to(root).as_posix())
                 for role, path in lists.items()}  # fmt: skip
        with contextlib.suppress(DataError):
            if all(find_pairs(root, **one._asdict())[0] for one in found.values()):
                return found
    return {"train": place}


def _starred(folders: Sequence[str]) -> str:
    parts = itertools.zip_longest(*(Path(folder).parts for folder in folders))
    return "/".join(some[0] if len({*some}) == 1 else "*" for some in parts)

"""Which files of a user's folder belong together.

Two ways, never by position: the same relative path without the ending (folders), or the same text
under the stars (patterns). A list file chooses among them by name, or names the pairs itself.
"""

import itertools
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from base.samples import Pair
from dataloaders.annotations import coco_files
from dataloaders.folder_lists import chosen, pairs_of, read_rows
from dataloaders.layout import contents, first_folder, match
from dataloaders.patterns import by_patterns, files_below, matches, unique
from utils.errors import ConfigError, DataError
from utils.files.endings import EXTENSIONS, advice

Split = str | Sequence[str] | None
_LISTS = (".txt", ".csv")
SHAPES = (".json", ".txt")
"""Endings of files of shapes."""


def find_pairs(
    root: Path, *, images: str, masks: str, split: Split
) -> tuple[list[Pair], tuple[str, ...]]:
    """Find the pairs of a split.

    Args:
        root: `data_dir`.
        images: A sub-folder or a pattern with stars.
        masks: Likewise; both of one kind.
        split: A sub-folder, a list file, or what the first star may match; None for all.

    Returns:
        The pairs, sorted by key, and what to say of the masks that are left over.

    Raises:
        ConfigError: A folder beside a pattern, or values for a star without a pattern.
        DataError: A folder or list that is not there, images without masks, ambiguous names.
    """
    if ("*" in images) != ("*" in masks):
        raise ConfigError(
            f'Folder: found "images": "{images}" and "masks": "{masks}"\n'
            "  expected: two sub-folders, or two patterns with stars"
        )
    rows, source = None, root / str(split)
    if isinstance(split, str) and split.lower().endswith(_LISTS):
        rows, split = read_rows(source), None
        if all(len(row) == 2 for row in rows):
            return pairs_of(rows, source, root, (images, masks)), ()
    if "*" in images:
        stars = (split,) if isinstance(split, str) else split
        if not root.is_dir():
            first_folder([root], layout=f"data_dir/{images}")
        found, labels = by_patterns(root, (images, masks), stars)
        if not found:
            raise _nothing_matches(root, images, stars)
    elif split is None or isinstance(split, str):
        found, labels = _in_folders(root, images, masks, split)
    else:
        raise ConfigError(
            'Folder: "split" is a list, but "images" has no star that its values could stand '
            'for\n  fix: a pattern such as "*/images/*.jpg", or one sub-folder as "split"'
        )
    _tell_apart(found, labels, root)
    if rows is not None:
        found, notes = chosen(found, rows, source, root)
        return match(found, labels, where=root / masks)[0], notes
    if split is None and "*" not in images and found.keys().isdisjoint(labels):
        _check_names(root, (images, masks), [list(found.values()), list(labels.values())])
    return match(found, labels, where=root / masks)


def _in_folders(
    root: Path, images: str, masks: str, split: str | None
) -> tuple[dict[str, Path], dict[str, Path]]:
    if masks.lower().endswith(".json") and (root / masks).is_file():
        folders = [root / images / (split or ""), root, (root / masks).parent]
        return coco_files(root / masks, folders)
    layout = f"data_dir/{images} and data_dir/{masks} with the same names"
    if split is not None:
        layout = f"data_dir/{images}/{split} and data_dir/{masks}/{split} with the same names"
    folders = []
    for kind in (images, masks):
        places = [root / kind] if split is None else [root / kind / split, root / split / kind]
        folders.append(first_folder(places, layout=layout))
    if folders[0].samefile(folders[1]):
        # No mask is a JPEG where other files lie beside it.
        jpeg, other = [], []
        for path in readable(folders[0]):
            (jpeg if path.suffix.lower() in (".jpg", ".jpeg") else other).append(path)
        if any(Path(file).suffix.lower() in SHAPES for file in files_below(folders[0])):
            return _by_relative_stem(folders[0]), _by_relative_stem(folders[0], SHAPES)
        raise _same_files(folders[0], _patterns(root, (images, masks), [jpeg, other]))
    return _by_relative_stem(folders[0]), _by_relative_stem(folders[1], EXTENSIONS, SHAPES)


def by_key(place: Path) -> dict[str, Path]:
    """Return the files of a folder by relative path without ending, of a pattern by its stars."""
    if "*" not in str(place):
        return _by_relative_stem(place)
    (found,) = by_patterns(Path(), [place.as_posix()], None)
    if not found:
        raise DataError(f"{place}: no file matches")
    return found


def _by_relative_stem(folder: Path, *kinds: Sequence[str]) -> dict[str, Path]:
    """Return all images below a folder by relative path without the ending, or as `_readable`."""
    start = len(str(folder / "x")) - 1
    return unique(
        (str(path)[start:].removesuffix(path.suffix).replace(os.sep, "/"), path)
        for path in readable(folder, *kinds)
    )


def readable(folder: Path, *kinds: Sequence[str]) -> list[Path]:
    """Return the files with endings of the first kind that occurs; no kinds are those of images.

    Raises:
        DataError: There are files, and none with such endings.
    """
    files = [Path(file) for file in files_below(folder)]
    found = (
        [path for path in files if path.suffix.lower() in kind] for kind in kinds or [EXTENSIONS]
    )
    known = next(filter(None, found), [])
    if files and not known:
        there = dict(Counter(path.suffix for path in files).most_common(8))
        raise DataError(
            f"{folder}: no file that can be read\n"
            f"  found: {', '.join(f'{count} of {ending}' for ending, count in there.items())}\n"
            f"  expected: {', '.join(EXTENSIONS)}\n  fix: {advice(there)}"
        )
    return known


def _tell_apart(found: dict[str, Path], labels: dict[str, Path], root: Path) -> None:
    """Leave a file that is in both to the smaller: of "*.tif" and "*_mask.tif" it is a mask."""
    both = set(found.values()) & set(labels.values())
    if both and len(both) == len(found) == len(labels):
        raise _same_files(root, "")
    larger = max(found, labels, key=len)
    for key in [key for key, path in larger.items() if path in both]:
        del larger[key]


def _same_files(where: Path, fix: str) -> DataError:
    usual = '  fix: two sub-folders, or two patterns such as "*.jpg" and "*_mask.png"'
    return DataError(f"{where}: images and masks: both are the same files\n{fix or usual}")


def _check_names(root: Path, kinds: Sequence[str], files: Sequence[Sequence[Path]]) -> None:
    """Raise DataError with the patterns to write when names differ in the same way throughout."""
    if fix := _patterns(root, kinds, files):
        mask = files[1][0]
        raise DataError(
            f"{mask.parent}: no mask has the name of its image\n"
            f"  found: {len(files[1])} masks without an image, such as {mask.name}\n{fix}"
        )


def _patterns(root: Path, kinds: Sequence[str], files: Sequence[Sequence[Path]]) -> str:
    """Return the line with the patterns by which most images have a mask, "" without any."""
    found = likely_patterns(root, kinds, files)
    return found and f'  fix: "images": "{found[0]}", "masks": "{found[1]}" ({found[2]} pairs)'


def likely_patterns(
    root: Path, kinds: Sequence[str], files: Sequence[Sequence[Path]]
) -> tuple[str, str, int] | Literal[""]:
    """Return the patterns by which most images have a mask, and how many do; "" without any.

    Args:
        root: `data_dir`.
        kinds: Sub-folders of the images and of the masks.
        files: The images and the masks.
    """
    if any(Path(kind).is_absolute() for kind in kinds):
        return ""
    deep = "**/" if any(path.parent != root / kinds[0] for path in files[0]) else ""
    endings = [_common_ending(paths) for paths in files]
    votes: Counter[tuple[str, ...]] = Counter()
    for pair in itertools.product(files[0][:8], files[1][:400]):
        for core in _shared(*(path.stem for path in pair)):
            names = [path.stem.replace(core, "*", 1) for path in pair]
            votes[tuple(
                posixpath.normpath(f"{kind}/{deep}{name}{ending}")
                for kind, name, ending in zip(kinds, names, endings, strict=True)
            )] += 1  # fmt: skip
    pairs = Counter[tuple[str, ...]]()
    for patterns, _ in votes.most_common(8):
        one, other = ({match.groups() for match, _ in matches(root, map(str, paths), pattern)}
                      for pattern, paths in zip(patterns, files, strict=True))  # fmt: skip
        pairs[patterns] = len(one & other)
    for (image, mask), count in pairs.most_common(1):
        if 2 * count >= len(files[0]):
            return image, mask, count
    return ""


def _common_ending(paths: Sequence[Path]) -> str:
    endings = {path.suffix.lower() for path in paths}
    return endings.pop() if len(endings) == 1 else ".*"


def _shared(one: str, other: str) -> Iterator[str]:
    """Yield the words with which two names begin alike, and those with which they end."""
    words = [re.findall(r"\d+|[^\W\d_]+|[\W_]+", name) for name in (one, other)]
    for order in (1, -1):
        pairs = zip(*(word[::order] for word in words), strict=False)
        run = [word for word, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
        if core := "".join(run[::order]).strip("_-. "):
            yield core


def _nothing_matches(root: Path, pattern: str, stars: Sequence[str] | None) -> DataError:
    which = "" if stars is None else f" with the first star one of {', '.join(stars)}"
    return DataError(
        f"{root}: no file matches {pattern}{which}\n  found: {root} holds {contents(root)}"
    )

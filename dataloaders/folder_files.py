"""Which files of a user's folder belong together.

Two ways, never by position: the same relative path without the ending (folders), or the same text
under the stars (patterns). A list file chooses among them by name, or names the pairs itself.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from base.base_dataset import Pair
from dataloaders.folder_lists import chosen, composed, pairs_of, read_rows
from dataloaders.layout import contents, first_folder, match, shortened
from utils.errors import ConfigError, DataError
from utils.files.images import EXTENSIONS

Split = str | Sequence[str] | None
_LISTS = (".txt", ".csv")


def find_pairs(root: Path, *, images: str, masks: str, split: Split) -> list[Pair]:
    """Return the pairs of a split, sorted by key.

    Args:
        root: `data_dir`.
        images: A sub-folder or a pattern with stars.
        masks: Likewise; both of one kind.
        split: A sub-folder, a list file, or what the first star may match; None for all.

    Raises:
        ConfigError: A folder beside a pattern, or values for a star without a pattern.
        DataError: A folder or list that is not there, images without masks, ambiguous names.
    """
    if ("*" in images) != ("*" in masks):
        raise ConfigError(
            f'Folder: found "images": "{images}" and "masks": "{masks}"\n'
            "  expected: two sub-folders, or two patterns with stars"
        )
    if isinstance(split, str) and split.lower().endswith(_LISTS):
        return _from_list(root, root / split, images=images, masks=masks)
    if "*" not in images:
        if split is not None and not isinstance(split, str):
            raise ConfigError(
                'Folder: "split" is a list, but "images" has no star that its values could stand '
                'for\n  fix: a pattern such as "*/images/*.jpg", or one sub-folder as "split"'
            )
        found = _in_folders(root, images, masks, split)
        if split is None:
            _check_names(*found, images=images, masks=masks)
        return match(*found, where=root / masks)
    stars = (split,) if isinstance(split, str) else split
    found = [_by_pattern(root, pattern, stars) for pattern in (images, masks)]
    if not found[0]:
        raise _nothing_matches(root, images, stars)
    return match(found[0], found[1], where=root / masks)


def _in_folders(
    root: Path, images: str, masks: str, split: str | None
) -> tuple[dict[str, Path], dict[str, Path]]:
    layout = f"data_dir/{images} and data_dir/{masks} with the same names"
    if split is not None:
        layout = f"data_dir/{images}/{split} and data_dir/{masks}/{split} with the same names"
    folders = []
    for kind in (images, masks):
        places = [root / kind] if split is None else [root / kind / split, root / split / kind]
        folders.append(first_folder(places, layout=layout))
    return _by_relative_stem(folders[0]), _by_relative_stem(folders[1])


def _by_relative_stem(folder: Path) -> dict[str, Path]:
    """Return all pictures below a folder by relative path without the ending."""
    start = len(str(folder / "x")) - 1  # by text: pathlib would take seconds for 100,000 files
    return _unique(
        (str(path)[start:].removesuffix(path.suffix).replace(os.sep, "/"), path)
        for path in _files(folder)
        if path.suffix.lower() in EXTENSIONS
    )


def _files(folder: Path) -> list[Path]:
    """Return every file below a folder but hidden ones, in the byte order of the paths."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        found += [Path(place, name) for name in names if not name.startswith(".")]
        # A link to a folder that it lies in would lead round and round.
        here = Path(place).resolve()
        folders[:] = [name for name in folders
                      if not here.is_relative_to(Path(place, name).resolve())]  # fmt: skip
    return sorted(found, key=os.fsencode)


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error


def _by_pattern(root: Path, pattern: str, stars: Iterable[str] | None) -> dict[str, Path]:
    """Return the files that a pattern matches, by what its stars matched."""
    if not root.is_dir():
        first_folder([root], layout=f"data_dir/{pattern}")
    pieces = re.split(r"(\*\*/|\*)", pattern)
    groups = {"*": "([^/]*)", "**/": "((?:[^/]+/)*)"}
    expression = re.compile(
        "".join(groups.get(piece, re.escape(composed(piece))) for piece in pieces)
    )
    wanted = None if stars is None else {composed(star) for star in stars}
    found, met = [], set()
    for path in _files(root):
        matched = expression.fullmatch(composed(path.relative_to(root).as_posix()))
        if matched:
            met.add(matched[1])
            if wanted is None or matched[1] in wanted:
                found.append(("/".join(matched.groups()), path))
    if found and wanted is not None and wanted - met:
        raise DataError(
            f"{root / pattern}: no file with the first star {', '.join(sorted(wanted - met))}\n"
            f"  found: {shortened(sorted(met))}"
        )
    return _unique(found)


def _unique(found: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    by_key: dict[str, Path] = {}
    for name, path in found:
        key = composed(name)
        if key in by_key:
            raise DataError(
                f"{path}: two files share one name: {by_key[key].name} and {path.name}\n"
                "  expected: one file for each name; the ending does not count\n"
                '  fix: remove one, or use a pattern such as "images/*.jpg"'
            )
        by_key[key] = path
    return by_key


def _check_names(
    found: Mapping[str, Path], labels: Mapping[str, Path], *, images: str, masks: str
) -> None:
    """Raise DataError with the patterns to write when masks have a common addition to the names."""
    if not found or not labels or not found.keys().isdisjoint(labels):
        return
    first = min(found, key=lambda key: key.count("/"))
    image, deep = found[first], "**/" if "/" in first else ""
    for mask in labels.values():
        before, same, after = mask.stem.partition(image.stem)
        if same:
            raise DataError(
                f"{mask.parent}: no mask has the name of its image\n"
                f"  found: {len(labels)} masks without an image, such as {mask.name}\n"
                f'  fix: "images": "{images}/{deep}*{image.suffix}", '
                f'"masks": "{masks}/{deep}{before}*{after}{mask.suffix}"'
            )


def _nothing_matches(root: Path, pattern: str, stars: Sequence[str] | None) -> DataError:
    which = "" if stars is None else f" with the first star one of {', '.join(stars)}"
    return DataError(
        f"{root}: no file matches {pattern}{which}\n  found: {root} holds {contents(root)}"
    )


def _from_list(root: Path, path: Path, *, images: str, masks: str) -> list[Pair]:
    rows = read_rows(path)
    if all(len(row) == 2 for row in rows):
        return pairs_of(rows, path, root, (images, masks))
    if "*" in images:
        found = [_by_pattern(root, pattern, None) for pattern in (images, masks)]
    else:
        found = list(_in_folders(root, images, masks, None))
    return match(chosen(found[0], rows, path, root), found[1], where=root / masks)

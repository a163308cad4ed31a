"""Which files of a user's folder belong together.

Two ways, never by position: the same relative path without the ending (folders), or the same text
under the stars (patterns). A list file chooses among them by name, or names the pairs itself.
"""

import csv
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from base.base_dataset import Pair
from dataloaders.layout import contents, first_folder, listed, match, read_lines
from utils.errors import ConfigError, DataError
from utils.images import EXTENSIONS

Split = str | Sequence[str] | None
_LISTS = (".txt", ".csv")
_HEADERS = ({"image", "mask"}, {"images", "masks"}, {"image", "label"}, {"img", "mask"})


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
        return match(*_in_folders(root, images, masks, split), where=root / masks)
    chosen = (split,) if isinstance(split, str) else split
    found = [_by_pattern(root, pattern, chosen) for pattern in (images, masks)]
    if not found[0]:
        raise _nothing_matches(root, images, chosen)
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
    return _unique(
        (path.relative_to(folder).with_suffix("").as_posix(), path)
        for path in _files(folder)
        if path.suffix.lower() in EXTENSIONS
    )


def _files(folder: Path) -> list[Path]:
    """Return every file below a folder but hidden ones, in the byte order of the paths."""
    found = [
        Path(place, name)
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
        if not name.startswith(".")
    ]
    return sorted(found, key=os.fsencode)


def _by_pattern(root: Path, pattern: str, chosen: Iterable[str] | None) -> dict[str, Path]:
    """Return the files that a pattern matches, by what its stars matched."""
    if not root.is_dir():
        first_folder([root], layout=f"data_dir/{pattern}")
    pieces = re.split(r"(\*\*/|\*)", pattern)
    groups = {"*": "([^/]*)", "**/": "((?:[^/]+/)*)"}
    expression = re.compile("".join(groups.get(piece, re.escape(piece)) for piece in pieces))
    wanted = None if chosen is None else set(chosen)
    found = []
    for path in _files(root):
        matched = expression.fullmatch(path.relative_to(root).as_posix())
        if matched and (wanted is None or matched[1] in wanted):
            found.append(("/".join(matched.groups()), path))
    return _unique(found)


def _unique(found: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    by_key: dict[str, Path] = {}
    for key, path in found:
        if key in by_key:
            raise DataError(
                f"{path}: two files share one name: {by_key[key].name} and {path.name}\n"
                "  expected: one file for each name; the ending does not count\n"
                '  fix: remove one, or use a pattern such as "images/*.jpg"'
            )
        by_key[key] = path
    return by_key


def _nothing_matches(root: Path, pattern: str, chosen: Sequence[str] | None) -> DataError:
    which = "" if chosen is None else f" with the first star one of {', '.join(chosen)}"
    return DataError(
        f"{root}: no file matches {pattern}{which}\n  found: {root} holds {contents(root)}"
    )


def _from_list(root: Path, path: Path, *, images: str, masks: str) -> list[Pair]:
    rows = _rows(path)
    if all(len(row) == 2 for row in rows):
        for column, what in enumerate(("images", "masks")):
            files = [root / row[column].lstrip("/") for row in rows]
            missing = [file for file in files if not file.exists()]
            if missing:
                raise DataError(
                    f"{path}: lists {len(missing)} {what} that are not there:\n{listed(missing)}\n"
                    f"  expected: paths relative to {root}"
                )
        return [Pair(*(root / cell.lstrip("/") for cell in row)) for row in rows]
    if any(len(row) != 1 for row in rows):
        odd = next(row for row in rows if len(row) not in (1, 2)) if rows else []
        raise DataError(
            f"{path}: found a line of {len(odd)} fields: {' '.join(odd)}\n"
            "  expected: `image,mask` or one image name on every line"
        )
    if "*" in images:
        found = [_by_pattern(root, pattern, None) for pattern in (images, masks)]
    else:
        found = list(_in_folders(root, images, masks, None))
    return match(_chosen(found[0], rows, path), found[1], where=root / masks)


def _rows(path: Path) -> list[list[str]]:
    lines = read_lines(path, layout="a list of `image,mask` or of image names")
    if path.suffix.lower() == ".csv" or any("," in line for line in lines):
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    else:
        # File names may hold spaces; two paths on a line are told apart by their endings.
        rows = [_two_paths(line) for line in lines]
    if rows and {cell.lower() for cell in rows[0]} in (*_HEADERS, {"image"}, {"name"}):
        rows = rows[1:]
    return rows


def _two_paths(line: str) -> list[str]:
    endings = "|".join(re.escape(ending) for ending in EXTENSIONS)
    matched = re.fullmatch(rf"(.+(?:{endings}))\s+(.+(?:{endings}))", line, re.IGNORECASE)
    return list(matched.groups()) if matched else [line]


def _chosen(
    images: Mapping[str, Path], rows: Sequence[Sequence[str]], source: Path
) -> dict[str, Path]:
    """Return the listed images; a name may be the key, the file name or the stem."""
    names: dict[str, list[str]] = {}
    for key, path in images.items():
        for name in {key, path.name, path.stem, f"{key}{path.suffix}"}:
            names.setdefault(name, []).append(key)
    wanted = [row[0] for row in rows]
    absent = [name for name in wanted if name not in names]
    if absent:
        raise DataError(
            f"{source}: lists {len(absent)} images that are not there:\n{listed(absent)}"
        )
    doubtful = [name for name in wanted if len(names[name]) > 1]
    if doubtful:
        raise DataError(
            f"{source}: {doubtful[0]} could be any of {', '.join(names[doubtful[0]])}\n"
            "  fix: write the path below the image folder"
        )
    return {names[name][0]: images[names[name][0]] for name in wanted}

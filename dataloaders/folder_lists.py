"""A list file that says which of a user's images belong to a split, and perhaps their masks."""

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from base.samples import Pair
from dataloaders.layout import listed, read_lines
from utils.errors import DataError
from utils.files.endings import EXTENSIONS

_TITLES = ("image", "images", "name", "filename")
_DELIMITERS = ",;\t"


def composed(name: str) -> str:
    """Return a name in the one form in which names are compared; a Mac writes accents apart."""
    return unicodedata.normalize("NFC", name)


def delimiter_of(lines: Sequence[str]) -> str:
    """Return what divides the cells of a table, as its first line has it."""
    return next((mark for mark in _DELIMITERS if lines and mark in lines[0]), ",")


def is_comment(line: str) -> bool:
    """Say whether a line begins with "# "; without the space it may name a file."""
    return line.split(maxsplit=1)[:1] == ["#"]


def read_rows(path: Path) -> list[list[str]]:
    """Return the rows of a list: image and mask, or a name, in all of them.

    A title and comments are left out.

    Raises:
        DataError: No such file, no text, or rows of other lengths.
    """
    lines = read_lines(path, layout="a list of `image,mask` or of image names")
    lines = [line for line in lines if not is_comment(line)]
    if path.suffix.lower() == ".csv" or any("," in line for line in lines):
        reader = csv.reader(lines, delimiter=delimiter_of(lines))
        rows = [[cell.strip() for cell in row] for row in reader]
    else:
        # File names may hold spaces; two paths on a line are told apart by their endings.
        rows = [_two_paths(line) for line in lines]
    if rows and _is_title(rows[0], rows[1:2]):
        rows = rows[1:]
    counts = Counter(len(row) for row in rows)
    if rows and {*counts} not in ({1}, {2}):
        odd = min(rows, key=lambda row: (len(row) in (1, 2), counts[len(row)]))
        raise DataError(
            f"{path}: found a line of {len(odd)} fields: {' '.join(odd)}\n"
            "  expected: `image,mask` or one image name on every line"
        )
    return rows


def pairs_of(
    rows: Sequence[Sequence[str]], source: Path, root: Path, folders: Sequence[str]
) -> list[Pair]:
    """Return the pairs that rows of two paths name.

    Args:
        rows: Image and mask.
        source: The list, for messages.
        root: What paths are relative to.
        folders: Sub-folders of images and of masks, which paths may leave out.

    Raises:
        DataError: Files that are not there.
    """
    columns = []
    for column, (what, folder) in enumerate(zip(("images", "masks"), folders, strict=True)):
        files = [_place(root, folder, row[column]) for row in rows]
        missing = [file for file in files if not file.exists()]
        if missing:
            raise DataError(
                f"{source}: lists {len(missing)} {what} that are not there:\n{listed(missing)}\n"
                f"  expected: paths relative to {root}"
            )
        columns.append(files)
    return [Pair(*files) for files in zip(*columns, strict=True)]


def chosen(
    images: Mapping[str, Path], rows: Sequence[Sequence[str]], source: Path, root: Path
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the listed images by key, and what to say of the list.

    A name may be the key, the file name, the stem or a path.

    Args:
        images: All of them by key.
        rows: One name each.
        source: The list, for messages.
        root: What paths are relative to.

    Raises:
        DataError: A name that no image has, or several have.
    """
    names: dict[str, list[str]] = {}
    for key, path in images.items():
        relative = Path(os.path.relpath(path, root)).as_posix()
        forms = (key, path.name, path.stem, f"{key}{path.suffix}", relative, str(path))
        for name in {composed(form) for form in forms}:
            names.setdefault(name, []).append(key)
    wanted = [_known(composed(row[0]), names) for row in rows]
    absent = [name for name in wanted if name not in names]
    if absent:
        raise DataError(
            f"{source}: lists {len(absent)} images that are not there:\n{listed(absent)}\n"
            f"  expected: names of images, or paths relative to {root}"
        )
    doubtful = [name for name in wanted if len(names[name]) > 1]
    if doubtful:
        raise DataError(
            f"{source}: {doubtful[0]} could be any of {', '.join(names[doubtful[0]])}\n"
            "  fix: write the path below the image folder"
        )
    found = {names[name][0]: images[names[name][0]] for name in wanted}
    again = len(wanted) - len(found)
    note = f"{again} lines of {source.name} name an image again; each image counts once"
    return found, (note,) if again else ()


def _is_title(row: Sequence[str], following: Sequence[Sequence[str]]) -> bool:
    if len(row) == 1:
        return row[0].lower() in _TITLES
    return not _has_image(row) and any(_has_image(other) for other in following)


def _has_image(row: Sequence[str]) -> bool:
    return any(cell.lower().endswith(EXTENSIONS) for cell in row)


def _two_paths(line: str) -> list[str]:
    endings = "|".join(re.escape(ending) for ending in EXTENSIONS)
    matched = re.fullmatch(rf"(.+(?:{endings}))[\s;]+(.+(?:{endings}))", line, re.IGNORECASE)
    return list(matched.groups()) if matched else [line]


def _place(root: Path, folder: str, cell: str) -> Path:
    """Return the file of a cell: below `data_dir`, absolute, or below the folder of its kind."""
    plain = cell.replace("\\", "/")
    places = [root / plain.lstrip("/"), root / cell, root / folder / plain]
    return next((place for place in places if place.exists()), places[0])


def _known(name: str, names: Mapping[str, list[str]]) -> str:
    plain = name.replace("\\", "/")
    return next((form for form in (name, plain, plain.lstrip("/")) if form in names), name)

"""A table that says of which class the numbered objects of masks are: `id,class` a line."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from base.samples import Pair
from dataloaders.folder_lists import composed, delimiter_of, is_comment
from dataloaders.layout import listed
from dataloaders.patterns import files_below
from dataloaders.polygons import ShapeError
from utils.errors import DataError
from utils.files.decoding import decoding
from utils.files.raw_pixels import read_values

_LINES = "`id,class` or `image,id,class`"
Table = Mapping[str, Mapping[int, str]]  # of an image, "" for all of them: class by id


def read_table(file: Path, pairs: Sequence[Pair]) -> Table:
    """Return the classes of objects.

    Args:
        file: The table; a first line without a number is a title.
        pairs: Images and masks of a split.

    Raises:
        DataError: Lines of another form, that contradict each other, or of no image that there is.
    """
    with decoding(file):
        lines = file.read_text("utf-8-sig").splitlines()
    found: dict[str, dict[int, str]] = defaultdict(dict)
    told: dict[tuple[str, int], int] = {}
    for number, cells in _rows(lines):
        where = f"{file}: line {number}"
        if len(cells) not in (2, 3) or not cells[-2].isdecimal() or not cells[-1]:
            raise DataError(
                f"{where}: found {lines[number - 1].strip()!r}, expected {_LINES}, the id a whole "
                "number\n  fix: write it so, or delete the line"
            )
        image, one, label = _plain(cells[0] if cells[2:] else ""), int(cells[-2]), cells[-1]
        before = told.setdefault((image, one), number)
        if found[image].setdefault(one, label) != label:
            of = f" of {cells[0]}" if image else ""
            path = "; where folders have images of one name, write the path of each" * bool(image)
            raise DataError(
                f"{where}: object {one}{of} is {label!r}, but {found[image][one]!r} by line "
                f"{before}\n  expected: one class an object\n  fix: delete one of the lines{path}"
            )
    if not found:
        raise DataError(f"{file}: found no object, expected lines of {_LINES}\n  fix: add them")
    _require_images(file, found, pairs)
    return dict(found)


def _rows(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line and its number, less comments and a title."""
    rows = [(number, line) for number, line in enumerate(lines, 1)
            if line.strip() and not is_comment(line)]  # fmt: skip
    delimiter = delimiter_of([line for _, line in rows])
    for place, (number, line) in enumerate(rows):
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
        title = place == 0 and cells[1:] and not any(sign.isdecimal() for sign in cells[-2])
        if not title:
            yield number, cells


def _plain(name: str) -> str:
    return composed(name.replace("\\", "/")).removeprefix("./").lstrip("/")


def _names(path: Path) -> Iterator[str]:
    """What a line may call an image: its path or an end of it, with its ending or without."""
    parts = composed(path.as_posix()).split("/")
    for start in reversed(range(len(parts))):
        name = "/".join(parts[start:])
        yield from (name, name.removesuffix(path.suffix))


def _require_images(file: Path, table: Table, pairs: Sequence[Pair]) -> None:
    """Refuse images that are not there; those of other splits lie below the table, too.

    A table that does not lie above the images may be of other data as well.
    """
    above = file.parent.absolute()
    missing = {*table} - {""}
    for pair in pairs:
        missing.difference_update(_names(pair.image))
    if not missing or not all(pair.image.absolute().is_relative_to(above) for pair in pairs):
        return
    for path in map(Path, files_below(above)):
        missing.difference_update(_names(path))
    if missing:
        raise DataError(
            f"{file}: names {len(missing)} images that are not there:\n{listed(sorted(missing))}\n"
            f"  expected: names of images below {file.parent}, or ends of their paths\n"
            "  fix: correct the names, or delete the lines"
        )


def objects(pair: Pair, table: Table, file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Give the class and the area of each object of a mask; the longest name of an image counts."""
    assert pair.mask is not None
    ids = read_values(pair.mask, lossy=False).pixels
    classes = dict[int, str]()
    for name in ("", *_names(pair.image)):
        classes.update(table.get(name, {}))
    for one in np.unique(ids).tolist():
        if one in classes:
            yield classes[one], ids == one
        elif one != 0:
            raise ShapeError(f"object {one} is not in {file}\n  fix: add it there as {_LINES}")

"""Text files of YOLO's segmentation: a line is the number of a class and a polygon's corners."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from base.samples import Pair
from dataloaders.polygons import ShapeError, inside
from utils.errors import ConfigError, DataError
from utils.files.decoding import decoding

_NAMES = ("data.yaml", "dataset.yaml", "classes.txt")
_LOW, _HIGH = -0.1, 1.1  # an outline may pass the border a little; pixels lie far beyond


def names_of(first: Path, classes: Sequence[str]) -> tuple[dict[int, str], str]:
    """Return the names of the numbers, and where they stand.

    Args:
        first: A file of lines; names are looked for there and in the folders above.
        classes: Those of the config, for want of such a file.

    Raises:
        ConfigError: There are no names.
        DataError: The file of the names is damaged, or has none.
    """
    places = [place / name for place in first.parents[:4] for name in _NAMES]
    file = next((place for place in places if place.is_file()), None)
    if file is not None:
        return _read(file), str(file)
    if not classes:
        raise ConfigError(
            f"{first}: YOLO's numbers, and no data.yaml that names them\n"
            '  fix: "classes": ["background", ...] in the order of the numbers from 0'
        )
    return dict(enumerate(name for name in classes if name != "background")), '"classes"'


def _read(file: Path) -> dict[int, str]:
    import yaml

    lines = file.suffix == ".txt"
    with decoding(file):
        text = file.read_text(encoding="utf-8")
        found = text.splitlines() if lines else yaml.safe_load(text)
        if not lines:
            found = found.get("names") if isinstance(found, dict) else None
        if not found or not isinstance(found, list | dict):
            raise DataError(
                f"{file}: names no classes, expected {'a name a line' if lines else 'names: [...]'}"
                "\n  fix: write them there, in the order of the numbers from 0"
            )
        found = found if isinstance(found, dict) else dict(enumerate(found))
        return {int(number): str(name) for number, name in found.items()}


def areas(
    pair: Pair, size: tuple[int, int], names: Mapping[int, str], source: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Give the class and the area (H, W) of each line.

    Args:
        pair: An image and its file.
        size: (height, width) of the image.
        names: Those of the numbers.
        source: Where they stand, for messages.
    """
    assert pair.mask is not None
    for place, line in enumerate(pair.mask.read_text().splitlines(), 1):
        number, *rest = line.split() or [""]
        if not number:
            continue
        if len(rest) < 6 or len(rest) % 2:
            raise ShapeError(
                f"a line of {len(rest)} numbers, expected points x y; 4 are a box\n"
                "  fix: labels for segmentation, whose lines are polygons"
            )
        shares = np.array(rest, np.float64)
        beyond = shares[(shares < _LOW) | (shares > _HIGH)]
        if beyond.size:
            raise ShapeError(
                f"line {place}: found {beyond[0]:g}, expected shares of the image, 0 to 1\n"
                "  fix: divide pixels by the width (x) and the height (y), per cent by 100"
            )
        if int(number) not in names:
            known = ", ".join(f"{one} ({names[one]})" for one in sorted(names))
            raise ShapeError(
                f"line {place}: the class {number} has no name in {source}, expected {known}\n"
                "  fix: name it there, or delete the line"
            )
        yield names[int(number)], inside(shares.reshape(-1, 2) * (size[1], size[0]), size)

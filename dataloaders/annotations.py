"""Labels that are shapes: labelme's, COCO's and YOLO's files, and masks of numbered objects.

Of a file the shapes come in its own order; whoever draws them lets a later one cover earlier ones.
COCO's areas are those of pycocotools; those of the others dataloaders/polygons.py draws.
"""

import base64
import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from base.base_dataset import Pair
from dataloaders.layout import listed
from dataloaders.polygons import ShapeError, inside
from utils.errors import ConfigError, DataError
from utils.files.decoding import decoding
from utils.files.endings import JSON_OF
from utils.files.raw_pixels import read_values

Shapes = Iterator[tuple[str, np.ndarray]]  # a label, and its area (H, W) bool
_NAMES = ("data.yaml", "dataset.yaml", "classes.txt")


class Annotations(NamedTuple):
    """What files of shapes say.

    Attributes:
        kind: Who writes such files.
        labels: Those that may occur, in the order of classes where none are given.
        shapes: Gives the shapes of a pair whose image has a size (height, width).
        meaning: What the shapes depend on beside the files of the pair.
    """

    kind: str
    labels: Sequence[str]
    shapes: Callable[[Pair, tuple[int, int]], Shapes]
    meaning: object = None


def coco_files(file: Path, folders: Sequence[Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the images that a COCO file lists by name, and the file for each of them.

    Args:
        file: The file.
        folders: Where the images may lie.

    Raises:
        DataError: No COCO file, or images that are not there.
    """
    with decoding(file):
        content = read_json(file)
        if json_kind(content) != "COCO":
            raise DataError(f"{file}: {_foreign(content)}")
        names = sorted(image["file_name"] for image in content["images"])
    found = {}
    for name in names:
        places = [folder / part for folder in folders for part in (name, Path(name).name)]
        found[name] = next((place for place in places if place.is_file()), places[0])
    if missing := [path for path in found.values() if not path.is_file()]:
        raise DataError(
            f"{file}: lists {len(missing)} of {len(names)} images that are not there:\n"
            f'{listed(missing)}\n  fix: set "images" to their folder'
        )
    return found, dict.fromkeys(found, file)


def read_annotations(
    pairs: Sequence[Pair], classes: Sequence[str], table: Path | None
) -> Annotations | None:
    """Find out what the masks of pairs are: files of shapes, or None for plain masks.

    Args:
        pairs: Images with their files.
        classes: Their names, () where the files are to name them.
        table: A list of `id,class` or `image,id,class` for masks of numbered objects.

    Raises:
        DataError: A JSON file of another program, or a damaged one.
        ConfigError: YOLO's numbers without names.
    """
    first = next((pair.mask for pair in pairs if pair.mask is not None), Path())
    if table is not None:
        return _numbered(table)
    if first.suffix.lower() == ".txt":
        return _yolo(first, classes)
    if first.suffix.lower() != ".json":
        return None
    with decoding(first):
        content = read_json(first)
        kind = json_kind(content)
        if kind == "COCO":
            return _coco(first, content)
        if kind != "labelme":
            raise DataError(f"{first}: {_foreign(content)}")
        files = [pair.mask for pair in pairs if pair.mask is not None]
        return _labelme([] if classes else files)


def json_kind(content: object) -> str:
    """Return "labelme", "COCO", or "" for what neither of them writes."""
    if not isinstance(content, Mapping):
        return ""
    if {"images", "annotations"} <= content.keys():
        return "COCO"
    return "labelme" if "shapes" in content else ""


def _foreign(content: object) -> str:
    keys = list(content) if isinstance(content, Mapping) else [f"a {type(content).__name__}"]
    known = next((fix for key, fix in JSON_OF.items() if key in str(content)[:10_000]), None)
    return (
        f"found JSON of {', '.join(map(str, keys[:5]))}, expected labelme's (shapes) or COCO's "
        f"(images, annotations, categories)\n  fix: {known or 'export it as COCO or labelme JSON'}"
    )


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; a byte order mark is no part of it."""
    return json.loads(path.read_text(encoding="utf-8-sig"))


def _labelme(files: Sequence[Path]) -> Annotations:
    labels = set()
    for file in files:
        with decoding(file):
            labels |= {shape["label"] for shape in read_json(file)["shapes"]}

    def shapes(pair: Pair, size: tuple[int, int]) -> Shapes:
        assert pair.mask is not None
        content = read_json(pair.mask)
        _check_size(pair, size, (content.get("imageHeight"), content.get("imageWidth")))
        for shape in content["shapes"]:
            points = np.array(shape["points"], np.float64).reshape(-1, 2)
            kind = shape.get("shape_type") or "polygon"
            mask = shape["mask"] if kind == "mask" else None
            yield shape["label"], _pasted(mask, points, size) if mask else _area(kind, points, size)

    return Annotations("labelme", sorted(labels), shapes)


def _pasted(png: str, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The area of labelme's tools that find outlines themselves: a PNG, put where its box is."""
    area = np.zeros(size, bool)
    (left, top), (right, bottom) = points.astype(int)
    with Image.open(io.BytesIO(base64.b64decode(png)), formats=("PNG",)) as image:
        area[top : bottom + 1, left : right + 1] = np.asarray(image)
    return area


def _area(kind: str, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if kind == "circle":
        rows, columns = np.ogrid[: size[0], : size[1]]
        (x, y), radius = points[0], np.hypot(*(points[1] - points[0]))
        return np.hypot(columns + 0.5 - x, rows + 0.5 - y) < radius
    if kind == "rectangle":
        (left, top), (right, bottom) = points[0], points[-1]
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    elif kind != "polygon":
        raise ShapeError(
            f"a {kind} has no area, expected polygons, rectangles, circles, masks\n"
            "  fix: delete it, or draw it as a polygon"
        )
    return inside(points, size)


def _coco(file: Path, content: Mapping[str, Any]) -> Annotations:
    try:
        from pycocotools import mask as areas
    except ImportError as error:
        raise ConfigError(
            f"{file}: COCO's files need pycocotools\n  fix: pip install -r requirements-coco.txt"
        ) from error
    names = {one["id"]: one["name"] for one in content["categories"]}
    images = {Path(one["file_name"]).name: one for one in content["images"]}
    images |= {one["file_name"]: one for one in content["images"]}
    drawn = defaultdict(list)
    for one in content["annotations"]:
        drawn[one["image_id"]].append(
            (names[one["category_id"]], one.get("segmentation"), one.get("id"))
        )

    def shapes(pair: Pair, size: tuple[int, int]) -> Shapes:
        parts = pair.image.parts
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        image = next(images[tail] for tail in tails if tail in images)
        _check_size(pair, size, (image["height"], image["width"]))
        for label, found, number in drawn[image["id"]]:
            if not found or (isinstance(found, list) and min(map(len, found)) < 6):
                raise ShapeError(
                    f"annotation {number} has no outline, expected polygons or runs; 4 numbers are "
                    "a box\n  fix: export segmentations, or delete it"
                )
            runs = found
            if isinstance(found, list) or isinstance(found["counts"], list):
                runs = areas.frPyObjects(found, *size)
            yield label, areas.decode(areas.merge(runs) if isinstance(runs, list) else runs) > 0

    return Annotations("COCO", [names[number] for number in sorted(names)], shapes)


def _yolo(first: Path, classes: Sequence[str]) -> Annotations:
    places = [place / name for place in first.parents[:4] for name in _NAMES]
    file = next((place for place in places if place.is_file()), None)
    if file is None and not classes:
        raise ConfigError(
            f"{first}: YOLO's numbers, and no data.yaml that names them\n"
            '  fix: "classes": ["background", ...] in the order of the numbers from 0'
        )
    names = dict(enumerate(name for name in classes if name != "background"))
    if file is not None:
        import yaml

        with decoding(file):
            text = file.read_text(encoding="utf-8")
            found = text.splitlines() if file.suffix == ".txt" else yaml.safe_load(text)["names"]
            found = found if isinstance(found, dict) else dict(enumerate(found))
            names = {int(number): str(name) for number, name in found.items()}

    def shapes(pair: Pair, size: tuple[int, int]) -> Shapes:
        assert pair.mask is not None
        for line in filter(str.strip, pair.mask.read_text().splitlines()):
            number, *rest = line.split()
            if len(rest) < 6 or len(rest) % 2:
                raise ShapeError(
                    f"a line of {len(rest)} numbers, expected points x y; 4 are a box\n"
                    "  fix: labels for segmentation, whose lines are polygons"
                )
            points = np.array(rest, np.float64).reshape(-1, 2) * (size[1], size[0])
            yield names[int(number)], inside(points, size)

    return Annotations("YOLO", [names[one] for one in sorted(names)], shapes, names)


def _numbered(table: Path) -> Annotations:
    with decoding(table):
        rows = [row for row in csv.reader(table.read_text("utf-8-sig").splitlines()) if row]
        rows = [row for row in rows if row[-2].strip().isdigit()]  # less a title
        classes = {
            (row[0].strip() if row[2:] else "", int(row[-2])): row[-1].strip() for row in rows
        }

    def shapes(pair: Pair, _size: tuple[int, int]) -> Shapes:
        assert pair.mask is not None
        ids = read_values(pair.mask, lossy=False).pixels
        for one in np.unique(ids).tolist():
            keys = [(name, one) for name in (pair.image.name, pair.image.stem, "")]
            label = next((classes[key] for key in keys if key in classes), None)
            if label is not None:
                yield label, ids == one
            elif one != 0:
                raise ShapeError(
                    f"object {one} is not in {table}\n"
                    "  fix: add it there as `id,class` or `image,id,class`"
                )

    return Annotations("numbered objects", sorted(set(classes.values())), shapes, classes)


def _check_size(pair: Pair, size: tuple[int, int], stated: tuple[int | None, int | None]) -> None:
    if stated not in (size, (None, None)):
        raise ShapeError(
            f"drawn on {stated[1]}x{stated[0]} pixels, but {pair.image} has {size[1]}x{size[0]}\n"
            "  fix: the image that was drawn on, or shapes drawn on this one"
        )

"""Labels that are shapes: labelme's, COCO's and YOLO's files, and masks of numbered objects.

Of a file the shapes come in its own order; whoever draws them lets a later one cover earlier ones.
COCO's areas are those of pycocotools; those of the others dataloaders/polygons.py draws.
"""

import base64
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from base.samples import Pair
from dataloaders import yolo
from dataloaders.layout import listed
from dataloaders.object_table import objects, read_table
from dataloaders.polygons import ShapeError, inside
from utils.errors import ConfigError, DataError
from utils.files.decoding import decoding
from utils.files.endings import JSON_OF

Shapes = Iterator[tuple[str, np.ndarray]]  # a label, and its area (H, W) bool
NUMBERED = "numbered objects"


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
        DataError: A JSON file of another program, or one that is damaged or contradicts itself.
        ConfigError: YOLO's numbers without names.
    """
    first = next((pair.mask for pair in pairs if pair.mask is not None), Path())
    if table is not None:
        classes_of = read_table(table, pairs)
        labels = sorted({label for some in classes_of.values() for label in some.values()})
        return Annotations(
            NUMBERED, labels, lambda pair, _size: objects(pair, classes_of, table), classes_of
        )
    if first.suffix.lower() == ".txt":
        names, source = yolo.names_of(first, classes)
        labels = _once(names)
        return Annotations(
            "YOLO", labels, lambda pair, size: yolo.areas(pair, size, names, source), names
        )
    if first.suffix.lower() != ".json":
        return None
    with decoding(first):
        content = read_json(first)
        kind = json_kind(content)
        if kind == "COCO":
            return _coco(first, content, classes)
        if kind != "labelme":
            raise DataError(f"{first}: {_foreign(content)}")
        files = [pair.mask for pair in pairs if pair.mask is not None]
        return _labelme([] if classes else files)


def _once(names: Mapping[int, str]) -> list[str]:
    """The names of numbers in their order; those of one name are one class."""
    return list(dict.fromkeys(names[number] for number in sorted(names)))


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
            labels |= {_label(shape, file) for shape in read_json(file)["shapes"]}
    if files and not labels:
        raise DataError(
            f"{files[0].parent}: found no shape in any of {len(files)} files, expected the labels "
            'of classes\n  fix: draw shapes, or name the classes: "classes": ["background", ...]'
        )

    def shapes(pair: Pair, size: tuple[int, int]) -> Shapes:
        assert pair.mask is not None
        content = read_json(pair.mask)
        _check_size(pair, size, (content.get("imageHeight"), content.get("imageWidth")))
        found = [(shape.get("shape_type") or "polygon",
                  np.array(shape["points"], np.float64).reshape(-1, 2))
                 for shape in content["shapes"]]  # fmt: skip
        _check_places([_extent(*one) for one in found], size)
        for shape, (kind, points) in zip(content["shapes"], found, strict=True):
            mask = shape["mask"] if kind == "mask" else None
            area = _pasted(mask, points, size) if mask else _area(kind, points, size)
            yield _label(shape, pair.mask), area

    return Annotations("labelme", sorted(labels), shapes)


def _label(shape: Mapping[str, Any], file: Path) -> str:
    """The label of a shape as text; some programs write numbers."""
    label = shape.get("label")
    if isinstance(label, str | int | float):
        return str(label)
    raise DataError(
        f"{file}: found a shape with the label {json.dumps(label)}, expected text\n"
        "  fix: write a label, or delete the shape"
    )


def _extent(kind: str, points: np.ndarray) -> np.ndarray:
    """Points as far out as a shape reaches."""
    if kind != "circle" or len(points) != 2:
        return points
    radius = np.hypot(*(points[1] - points[0]))
    return np.array([points[0] - radius, points[0] + radius])


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


def _coco(file: Path, content: Mapping[str, Any], classes: Sequence[str]) -> Annotations:
    try:
        from pycocotools import mask as areas
    except ImportError as error:
        raise ConfigError(
            f"{file}: COCO's files need pycocotools\n  fix: pip install -r requirements-coco.txt"
        ) from error
    names = {one["id"]: str(one["name"]) for one in content.get("categories", ())}
    if not names and not classes:
        raise DataError(f'{file}: found no "categories"\n  fix: export it with its categories')
    images = {Path(one["file_name"]).name: one for one in content["images"]}
    images |= {one["file_name"]: one for one in content["images"]}
    drawn = defaultdict(list)
    for one in content["annotations"]:
        if one["category_id"] not in names:
            raise DataError(
                f"{file}: annotation {one.get('id')} has the category {one['category_id']}, "
                f'expected one of "categories": {", ".join(map(str, names)) or "there is none"}\n'
                "  fix: add it there with its name, or delete the annotation"
            )
        drawn[one["image_id"]].append(
            (names[one["category_id"]], one.get("segmentation"), one.get("id"))
        )

    def shapes(pair: Pair, size: tuple[int, int]) -> Shapes:
        parts = pair.image.parts
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        image = next(images[tail] for tail in tails if tail in images)
        _check_size(pair, size, (image["height"], image["width"]))
        places = [points for _, found, number in drawn[image["id"]]
                  for points in _points(found, number, size)]  # fmt: skip
        _check_places(places, size)
        for label, found, _ in drawn[image["id"]]:
            runs = found
            if isinstance(found, list) or isinstance(found["counts"], list):
                runs = areas.frPyObjects(found, *size)
            yield label, areas.decode(areas.merge(runs) if isinstance(runs, list) else runs) > 0

    return Annotations("COCO", _once(names), shapes)


def _points(found: Any, number: object, size: tuple[int, int]) -> list[np.ndarray]:
    """The corners of an annotation's polygons; run lengths are of the whole image."""
    if isinstance(found, Mapping):
        return [np.array([(0, 0), size[::-1]])]
    lengths = [len(part) if isinstance(part, list) else 0 for part in found or [[]]]
    if min(lengths) < 6:
        raise ShapeError(
            f"annotation {number} has no outline, expected polygons or runs; 4 numbers are "
            "a box\n  fix: export segmentations, or delete it"
        )
    if odd := [length for length in lengths if length % 2]:
        raise ShapeError(
            f"annotation {number} has an outline of {odd[0]} numbers, expected points x, y\n"
            "  fix: export it again, or delete it"
        )
    return [np.array(part, np.float64).reshape(-1, 2) for part in found]


def _check_places(outlines: Sequence[np.ndarray], size: tuple[int, int]) -> None:
    """Refuse an image none of whose shapes touches it, or whose coordinates are fractions.

    One shape may lie beyond the border, as tiles have it; a pixel may be rounding.
    """
    outlines = [points for points in outlines if len(points)]
    if not outlines:
        return
    every, limits = np.concatenate(outlines), np.array(size[::-1]) + 1
    if all((one.max(0) < -1).any() or (one.min(0) > limits).any() for one in outlines):
        raise ShapeError(
            f"every shape lies outside the image, such as at x, y = {outlines[0][0].tolist()}; "
            f"expected pixels of {size[1]}x{size[0]}\n  fix: shapes of this image, or delete them"
        )
    if ((every >= 0) & (every <= 1)).all() and ((every > 0) & (every < 1)).any():
        raise ShapeError(
            f"every coordinate lies between 0 and 1, expected pixels of {size[1]}x{size[0]}\n"
            "  fix: multiply x by the width and y by the height"
        )


def _check_size(pair: Pair, size: tuple[int, int], stated: tuple[int | None, int | None]) -> None:
    if stated not in (size, (None, None)):
        raise ShapeError(
            f"drawn on {stated[1]}x{stated[0]} pixels, but {pair.image} has {size[1]}x{size[0]}\n"
            "  fix: the image that was drawn on, or shapes drawn on this one"
        )

"""Where below a folder files of shapes lie, and the line of a config that takes them."""

import contextlib
import glob
import json
import os
from collections.abc import Sequence
from pathlib import Path

from dataloaders.annotations import json_kind, read_json
from utils.errors import DataError
from utils.files.endings import EXTENSIONS


def shapes_below(error: DataError, root: Path, *, images: str, masks: str) -> DataError:
    """Return the same error; files of shapes below a folder, if there are any, are its fix."""
    cure = _cure(root, images, masks)
    return DataError(str(error).partition("\n  fix: ")[0] + cure if cure else str(error))


def _cure(root: Path, images: str, masks: str) -> str:
    for ending, test in ((".json", _json_kind_of), (".txt", _is_yolo)):
        firsts: dict[Path, Path] = {}
        for path in sorted(root.rglob(f"*{ending}")):
            if path.name != "classes.txt" and path.is_file() and path.stat().st_size:
                firsts.setdefault(path.parent, path)
        kinds = {}
        for folder, first in firsts.items():
            with contextlib.suppress(OSError, ValueError, KeyError):
                kinds[folder] = test(first)
        if kind := next(filter(None, kinds.values()), ""):
            found = [firsts[folder] for folder in kinds if kinds[folder] == kind]
            settings = _settings(root, found, of_coco=kind == "COCO")
            if settings["images"] == images:
                del settings["images"]
            if settings != {"masks": masks} and not _taken(root, found, images, masks):
                return f"\n  fix: {kind} files are there: {json.dumps(settings)[1:-1]}"
    return ""


def _taken(root: Path, firsts: Sequence[Path], images: str, masks: str) -> bool:
    """Whether a config names these files already, and the fault lies elsewhere."""
    named = any(
        path.is_relative_to(root / masks) or path.relative_to(root).match(masks) for path in firsts
    )
    return named and ("*" in images or (root / images).is_dir())


def _settings(root: Path, firsts: Sequence[Path], *, of_coco: bool) -> dict[str, str]:
    """Where the images and their labels lie, from the first file of each folder of labels."""
    first, name = firsts[0], Path()
    if of_coco:
        with contextlib.suppress(LookupError, TypeError):  # a damaged file is told when it is read
            name = Path(read_json(first)["images"][0]["file_name"])
    pattern = glob.escape(name.name or first.stem) + ("" if name.name else ".*")
    alike = sorted(root.rglob(pattern))
    masks = first if of_coco else first.parent
    settings = {"images": "images", "masks": masks.relative_to(root).as_posix()}
    place = next((path.parent for path in alike if path.suffix.lower() in EXTENSIONS), None)
    if place is None:
        return settings
    place = place.relative_to(root)
    if of_coco:
        return {**settings, "images": _apart(place, name.parent)[0]}
    labels = first.parent.relative_to(root)
    if place == labels:
        both = Path(os.path.commonpath([path.parent for path in firsts])).relative_to(root)
        return {"images": both.as_posix(), "masks": both.as_posix()}
    return dict(zip(("images", "masks"), _apart(place, labels), strict=True))


def _apart(one: Path, other: Path) -> tuple[str, str]:
    """Two folders without the end that they share: of images/town and labels/town the first."""
    while one.name and one.name == other.name:
        one, other = one.parent, other.parent
    return one.as_posix(), other.as_posix()


def _json_kind_of(path: Path) -> str:
    return json_kind(read_json(path))


def _is_yolo(path: Path) -> str:
    line = path.read_text().partition("\n")[0].split()
    return "YOLO" if len(line) >= 7 and all(float(one) >= 0 for one in line) else ""

"""Files below a folder, and those of them that a pattern with stars matches."""

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dataloaders.folder_lists import composed
from dataloaders.layout import shortened
from utils.errors import DataError
from utils.files.endings import EXTENSIONS


def files_below(folder: Path) -> list[str]:
    """Return every file below a folder but hidden ones, in the byte order of the paths."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        # Text: a Path for each of 100,000 files takes seconds.
        start = str(Path(place, "x"))[:-1]  # without the "./" of what lies below "."
        found += [start + name for name in names if not name.startswith(".")]
        # A link to a folder that it lies in would lead round and round.
        here = Path(place).resolve()
        folders[:] = [name for name in folders if not name.startswith(".")
                      and not here.is_relative_to(Path(place, name).resolve())]  # fmt: skip
    return sorted(found, key=os.fsencode)


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error


def by_patterns(
    root: Path, patterns: Sequence[str], stars: Iterable[str] | None
) -> list[dict[str, Path]]:
    """Return the files of each pattern by what its stars matched; it may lead out of `root`."""
    found, walked = [], dict[Path, list[str]]()
    for pattern in patterns:
        place = Path(pattern.partition("*")[0] + "x").parent  # before the first star
        if not place.is_absolute() and ".." not in place.parts:
            place = Path()
        rest = pattern if place == Path() else Path(pattern).relative_to(place).as_posix()
        place = root / place
        if place not in walked:
            walked[place] = files_below(place) if place.is_dir() else []
        found.append(_by_pattern(place, walked[place], rest, stars))
    return found


def _by_pattern(
    root: Path, files: Sequence[str], pattern: str, stars: Iterable[str] | None
) -> dict[str, Path]:
    """Return the files below `root` that a pattern matches, by what its stars matched."""
    wanted = None if stars is None else {composed(star) for star in stars}
    every = list(matches(root, files, pattern))
    met = {match[1] for match, _ in every}
    found = [("/".join(match.groups()), Path(file)) for match, file in every
             if wanted is None or match[1] in wanted]  # fmt: skip
    if found and wanted is not None and wanted - met:
        raise DataError(
            f"{root / pattern}: no file with the first star {', '.join(sorted(wanted - met))}\n"
            f"  found: {shortened(sorted(met))}"
        )
    return unique(found)


def matches(root: Path, files: Iterable[str], pattern: str) -> Iterator[tuple[re.Match[str], str]]:
    """Yield how a pattern matches paths below `root`, and the path, for each that it matches."""
    expression, start = _expression(pattern), len(str(root / "x")) - 1
    for file in files:
        if match := expression.fullmatch(composed(file[start:].replace(os.sep, "/"))):
            yield match, file


def _expression(pattern: str) -> re.Pattern[str]:
    """Its ending counts in any case, as cameras write .JPG; ".*" is any that can be read."""
    groups = {"*": "([^/]*)", "**/": "((?:[^/]+/)*)"}
    start, ending = (
        "".join(groups.get(piece, re.escape(piece)) for piece in re.split(r"(\*\*/|\*)", part))
        for part in posixpath.splitext(posixpath.normpath(composed(pattern)))
    )
    if pattern.endswith(".*"):
        ending = "|".join(map(re.escape, EXTENSIONS))
    return re.compile(f"{start}(?i:{ending})")


def unique(found: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Return the paths by their names; DataError where two share one."""
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

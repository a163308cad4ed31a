"""Which images a folder holds, what their results are called, and writing them whole."""

import json
import os
import secrets
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from utils.errors import ConfigError, DataError, ResourceError
from utils.files.endings import EXTENSIONS, advice

LIST = ".written.jsonl"
"""The list of what was written into a folder; see utils/files/written.py."""

Save = Callable[[Path, Callable[[Path], object]], object]
"""Puts a file in its place: a path, and what fills a temporary file; `write_whole` is one."""

RESULT_SUFFIXES = (".png", ".tif", ".overlay.jpg", ".confidence.png", ".npy")


class Job(NamedTuple):
    """An image and where its results go: `target` and a suffix such as ".png"."""

    image: Path
    target: Path

    def result(self, suffix: str) -> Path:
        """The path of one result; what follows a dot in the image's name is kept."""
        return self.target.with_name(self.target.name + suffix)


def find_images(
    paths: Sequence[Path], *, extensions: Sequence[str], recursive: bool, output: Path
) -> tuple[list[Job], str]:
    """List the images of folders, and single files, with a name for the result of each.

    Args:
        paths: Folders and files; of a file the extension does not matter.
        extensions: "jpg" or ".jpg", in any case; "all": every one that can be read.
        recursive: Folders inside too; the tree is kept below `output`.
        output: Where results go; not searched when it lies inside a folder of images.

    Returns:
        The images in order, each once; no two results share a name, on file systems that ignore
        case neither, and of several folders each has one of its name below `output`, or of its
        path below what they share, where names are equal. And what to say of the files that were
        left out, "" without any. What an earlier run wrote is no image.

    Raises:
        DataError: Nothing there, or no file with such an extension (the ones there are named).
    """
    endings = {"." + one.lower().lstrip(".") for one in extensions}
    if ".all" in endings:
        endings |= set(EXTENSIONS)
    places = _places({path.resolve() for path in paths if path.is_dir()})
    found: dict[Path, Path] = {}
    known: set[str] = set()  # absolute: an image may be named in two ways
    others: list[Path] = []
    for path in paths:
        place, root, images = Path(), path.parent, [path]
        if path.is_dir():
            place, root = places[path.resolve()], path
            files = sorted(_walk(path, output, recursive=recursive))
            images = [file for file in files if file.suffix.lower() in endings]
            if not images:
                raise DataError(_nothing_found(path, endings, files, recursive=recursive))
            others += [file for file in files if file.suffix.lower() not in endings]
        elif not path.is_file():
            raise DataError(f"--images {path}: no such file or folder")
        new = {os.path.abspath(one): one for one in images}  # noqa: PTH100  links are kept
        found |= {
            one: place / one.relative_to(root) for name, one in new.items() if name not in known
        }
        known |= new.keys()
    kinds = Counter(file.suffix.lower() or "(none)" for file in others)
    left_out = [
        f"{count} {kind} ({_first_of(kind, others)})" for kind, count in kinds.most_common()
    ]
    return _jobs(found, output), ", ".join(left_out)


def _places(folders: Collection[Path]) -> dict[Path, Path]:
    """Where results of each folder go: of several ones each has its name, or what is its own."""
    if len(folders) == 1:
        return dict.fromkeys(folders, Path())
    named = {folder: Path(folder.name) for folder in folders}
    if len({*named.values()}) < len(folders):
        with suppress(ValueError):  # two drives share nothing
            shared = os.path.commonpath(folders)
            return {folder: folder.relative_to(shared) for folder in folders}
    return named


def _first_of(kind: str, files: Sequence[Path]) -> str:
    names = [file.name for file in files if (file.suffix.lower() or "(none)") == kind]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _walk(images: Path, output: Path, *, recursive: bool) -> Iterator[Path]:
    """All files; links to folders are followed, each real folder once, so that a loop ends.

    Hidden folders are left out, and `._x.jpg`, which a Mac writes beside `x.jpg`: it is no image.
    """
    seen, written = set(), set[Path]()
    if output.resolve() != images.resolve():
        seen.add(output.resolve())  # what an earlier run wrote is no image to segment
    for folder, inside, names in os.walk(images, followlinks=recursive):
        here = Path(folder)
        seen.add(here.resolve())
        deeper = [name for name in inside if recursive and not name.startswith(".")]
        inside[:] = sorted(name for name in deeper if (here / name).resolve() not in seen)
        if LIST in names:
            written |= {here / name for name in listed_digests(here / LIST)}
        own = [here / name for name in names if not name.startswith("._")]
        yield from (path for path in own if path not in written and path.suffix != ".partial")


def _nothing_found(
    images: Path, endings: Collection[str], files: Sequence[Path], *, recursive: bool
) -> str:
    counts = Counter(path.suffix.lower() or "(none)" for path in files)
    if not counts:
        deeper = "" if recursive else "; folders inside it are searched with --recursive"
        return f"--images {images}: the folder has no files{deeper}"
    there = ", ".join(f"{suffix} ({number})" for suffix, number in counts.most_common(8))
    best = [suffix.lstrip(".") for suffix, _ in counts.most_common() if suffix in EXTENSIONS]
    fix = f"--extension {' '.join(best)}" if best else advice(counts)
    return (
        f"--images {images}: no file ends in {' or '.join(sorted(endings))}\n"
        f"  extensions there: {there}\n"
        f"  fix: {fix}"
    )


def _jobs(images: Mapping[Path, Path], output: Path) -> list[Job]:
    """A job for each image; `images` gives the place of its result below `output`."""
    targets = [output / place for place in images.values()]
    stems = Counter(str(target.with_suffix("")).casefold() for target in targets)
    taken: set[str] = set()
    jobs = []
    for image, target in zip(images, targets, strict=True):
        alike = stems[str(target.with_suffix("")).casefold()] > 1
        name = target if alike else target.with_suffix("")
        number = 2
        while not taken.isdisjoint(_names(name)):
            name = target.with_name(f"{target.name}-{number}")
            number += 1
        taken |= _names(name)
        jobs.append(Job(image, name))
    return jobs


def _names(target: Path) -> set[str]:
    """Names of results less their last suffix, which no other image's may have."""
    name = str(target).casefold()
    return {name, f"{name}.confidence"}


def refuse_overwriting(jobs: Sequence[Job]) -> None:
    """Raise ConfigError when a result would replace one of the images."""
    images = {job.image.resolve(): job.image for job in jobs}
    for job in jobs:
        for suffix in RESULT_SUFFIXES:
            result = job.result(suffix)
            if result.resolve() in images:
                raise ConfigError(
                    f"--output {result.parent}: {result.name} would replace the image "
                    f"{images[result.resolve()]}\n  fix: another folder as --output"
                )


def listed_digests(path: Path) -> defaultdict[str, set[str]]:
    """The digests that a list has for each name."""
    digests: defaultdict[str, set[str]] = defaultdict(set)
    with suppress(OSError):  # none yet: whatever is there is not ours
        for line in path.read_bytes().splitlines():
            with suppress(ValueError, TypeError):  # cut by a kill
                name, digest = json.loads(line)
                digests[name].add(digest)
    return digests


def prepare_folder(folder: Path) -> None:
    """Make a folder and see that it takes files.

    Raises:
        ResourceError: It cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ResourceError(
            f"--output {folder}: cannot be written ({error.strerror or error})\n"
            "  fix: another folder as --output, or its permissions"
        ) from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename: nobody sees half a file.

    A result that is a link is replaced; what it pointed to is left alone.

    Raises:
        ResourceError: On Windows, another program has `path` open and goes on reading.
    """
    # Random, since two containers that share a folder may have equal process ids.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        write(partial)
        _replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _replace(partial: Path, path: Path) -> Path:
    """Rename; Windows refuses while somebody reads `path`, so wait some seconds for them."""
    for _ in range(50):
        try:
            return partial.replace(path)
        except PermissionError as error:
            if getattr(error, "winerror", None) not in (5, 32):  # access denied, sharing violation
                raise
        time.sleep(0.1)
    raise ResourceError(f"cannot replace {path}: it is open in another program\n  fix: close it")

"""Which files of an output folder are ours; no other one is ever replaced or deleted.

A list in the folder has a line for each file that was written there: its name and the SHA-256 of
its content. A file is ours while its content is one that the list has for its name. The line is
written before the file is, so that a kill between the two leaves no file of ours unlisted.
"""

import errno
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import ConfigError, DataError, ResourceError
from utils.files.lock import shared
from utils.files.outputs import LIST, listed_digests, prepare_folder, write_whole

_SHOWN = 5
_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{8}\.partial", re.DOTALL)  # as write_whole names them


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error that names the result."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        kind = DataError if error.errno == errno.ENAMETOOLONG else ResourceError
        raise kind(f"{target}: cannot be written ({reason})") from error


class Written:
    """What runs of this program have written into a folder.

    Args:
        folder: It need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests = listed_digests(folder / LIST)

    def refuse_others(self, results: Iterable[Path], *, overwrite: bool) -> None:
        """Make sure that writing some files costs nobody anything; makes nothing.

        Args:
            results: Paths in the folder.
            overwrite: Whether the user said that they may be replaced.

        Raises:
            ConfigError: Files that are not ours, or were changed since, are in the way; or a
                folder, which is never replaced.
        """
        there = [path for path in results if os.path.lexists(path)]
        for path in there:
            if path.is_dir() and not path.is_symlink():
                raise ConfigError(
                    f"{path}: found a folder, expected to write a file of that name\n"
                    "  fix: write to another place, or rename the folder"
                )
        others = [] if overwrite else [path for path in there if not self._is_ours(path)]
        if others:
            names = ", ".join([self._name(path) for path in others[:_SHOWN]])
            names += ", ..." if len(others) > _SHOWN else ""
            raise ConfigError(
                f"{self._folder}: would replace {len(others)} files that this program did not "
                f"write or that were changed since: {names}\n"
                "  fix: write to another place, or --overwrite to replace them"
            )

    @contextmanager
    def opened(self, results: Iterable[Path]) -> Iterator[None]:
        """Make the folder, and clear what killed runs left half-written of these files.

        Raises:
            ResourceError: The folder cannot be made or written.
        """
        prepare_folder(self._folder)
        with shared(self._folder) as alone:
            if alone:  # else another run may be writing some of them
                names: defaultdict[Path, set[str]] = defaultdict(set)
                for path in results:
                    names[path.parent].add(path.name)
                for folder in filter(Path.is_dir, names):
                    remove_leftovers(folder, names[folder].__contains__)
            yield

    def write(self, path: Path, write: Callable[[Path], object]) -> None:
        """Let `write` fill a file, which appears as a whole and is listed; see `write_whole`.

        Raises:
            DataError: Its name is too long for the file system.
            ResourceError: The folder or disk does not take it.
        """

        def listed(partial: Path) -> None:
            write(partial)
            self.add(path, content=partial)

        with writing(path):
            write_whole(path, listed)

    def add(self, path: Path, *, content: Path) -> None:
        """List what `content` holds as ours under the name of `path`."""
        name, digest = self._name(path), _digest(content)
        if digest not in self._digests[name]:
            self._digests[name].add(digest)
            with (self._folder / LIST).open("ab") as file:
                # The line break comes first: a line cut by a kill spoils no later one.
                file.write(b"\n" + json.dumps([name, digest]).encode())

    def _is_ours(self, path: Path) -> bool:
        listed = self._digests.get(self._name(path))
        return bool(listed) and path.is_file() and not path.is_symlink() and _digest(path) in listed

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


def remove_leftovers(folder: Path, is_ours: Callable[[str], object]) -> None:
    """Delete what a killed process left half-written of those files whose names are ours."""
    for entry in list(folder.iterdir()):
        if (match := _PARTIAL.fullmatch(entry.name)) and is_ours(match[1]):
            entry.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

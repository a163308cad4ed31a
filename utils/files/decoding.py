"""One place where whatever a decoder raises becomes an error that names the file.

A file is opened only when it is a regular file, so that a pipe or a device with an image's name
cannot hang a worker.
"""

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from utils.errors import DataError, ResourceError, UserError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
_REMOVE = "  fix: put a readable file there, or remove it together with its partner"


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Name the file in whatever its decoder raises: damaged files make decoders raise anything.

    Raises:
        DataError: The file is missing, no regular file, or the block failed.
        ResourceError: It takes more memory than there is.
    """
    require_file(path)
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise ResourceError(f"{path}: too little memory to read it") from error
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, Image.UnidentifiedImageError):
        reason = f"not an image that can be read (known: {', '.join(FORMATS)}, npy)"
    else:
        reason = str(error) or type(error).__name__
    fix = "fetch the file again, or remove it (from a data set together with its partner)"
    if isinstance(error, Image.DecompressionBombError):
        fix = "cut it into smaller images; inference.py also reads a tiled TIFF, of any size"
    return DataError(f"{path}: cannot be decoded: {reason}\n  fix: {fix}")


def require_file(path: Path) -> None:
    """Raise DataError unless `path` is a regular file that exists."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path}: cannot be opened: {reason}\n{_REMOVE}") from error
    if not stat.S_ISREG(mode):
        raise DataError(
            f"{path}: expected a regular file, found something else with that name\n{_REMOVE}"
        )

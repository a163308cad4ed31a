"""Label masks out of MATLAB files: COCO-Stuff 10k and SBD keep them there."""

from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.files.decoding import require_file


def read_matrix(path: Path, *names: str) -> np.ndarray:
    """Read a variable of a MATLAB file, or a field of a structure, as integers (rows, columns).

    Args:
        path: The file; version 4 to 7.
        names: The variable; then its field, where it is a structure.

    Raises:
        DataError: No such file or variable, no whole numbers, a damaged file, another version of
            the format, or scipy is not installed.
    """
    require_file(path)
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(
            f"{path}: a MATLAB file, which the package scipy reads; it is not installed\n"
            "  fix: pip install -r requirements-matlab.txt"
        ) from error
    try:
        value = loadmat(path, variable_names=names[:1]).get(names[0])
    except NotImplementedError as error:
        raise DataError(
            f"{path}: a MATLAB 7.3 file, expected version 4 to 7\n  fix: save it in MATLAB with -v7"
        ) from error
    except Exception as error:  # whatever its reader meets in a damaged file
        raise DataError(f"{path}: not a MATLAB file that can be read ({error!r})") from error
    for name in names[1:]:
        value = _field(value, name)
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "uif":
        raise DataError(f"{path}: holds no matrix named {'.'.join(names)!r}")
    if value.dtype.kind != "f":
        return value
    if not (np.isfinite(value) & (value == np.rint(value)) & (np.abs(value) < 2**31)).all():
        raise DataError(f"{path}: {'.'.join(names)!r} holds values that are no labels")
    return value.astype(np.int32)


def _field(value: object, name: str) -> object:
    if not isinstance(value, np.ndarray) or name not in (value.dtype.names or ()) or not value.size:
        return None
    return value[name].flat[0]

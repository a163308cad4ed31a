"""One matrix out of a MATLAB 5 file (`save -v6` and `-v7`), which COCO-Stuff 10k keeps masks in.

Format: "MAT-File Format", The MathWorks, chapter 1 (Level 5).
"""

import struct
import zlib
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.images import require_file

_HEADER = 128
_COMPRESSED, _MATRIX = 15, 14
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
_SMALL = 4  # bytes: a value this short stands inside its tag


def read_matrix(path: Path, name: str) -> np.ndarray:
    """Read the two-dimensional numeric variable `name` as integers (rows, columns).

    Raises:
        DataError: No such file or variable, a damaged file, or another version of the format.
    """
    require_file(path)
    content = path.read_bytes()
    if content[:_HEADER].startswith(b"MATLAB 7.3"):
        raise DataError(f"{path}: a MATLAB 7.3 file, expected version 5 to 7 (save it with -v7)")
    try:
        order = {b"IM": "<", b"MI": ">"}[content[126:128]]
        found = _find(content[_HEADER:], name, order)
    except (KeyError, ValueError, struct.error, zlib.error, IndexError) as error:
        raise DataError(f"{path}: not a MATLAB file that can be read ({error!r})") from error
    if found is None:
        raise DataError(f"{path}: holds no matrix named {name!r}")
    return found


def _find(content: bytes, name: str, order: str) -> np.ndarray | None:
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(order + "II", content, at)
        body = content[at + 8 : at + 8 + size]
        if len(body) < size:
            raise ValueError("it ends in the middle of a variable")
        if kind == _COMPRESSED:
            inner = zlib.decompress(body)
            kind, inner_size = struct.unpack_from(order + "II", inner)
            body = inner[8 : 8 + inner_size]
        matrix = _matrix(body, name, order) if kind == _MATRIX else None
        if matrix is not None:
            return matrix
        at += 8 + size
    return None


def _matrix(body: bytes, name: str, order: str) -> np.ndarray | None:
    """Return the matrix of a variable's body when it is the named one, numeric and flat."""
    at = 0
    parts = []
    for _ in range(4):  # flags, dimensions, name, real part
        values, at = _element(body, at, order)
        parts.append(values)
        if len(parts) == 3 and values.tobytes().decode("latin-1") != name:
            return None
    rows, columns = parts[1]
    if parts[3].dtype.kind == "f":
        return parts[3].astype(np.int32).reshape(columns, rows).T
    return parts[3].reshape(columns, rows).T  # MATLAB stores columns first


def _element(body: bytes, at: int, order: str) -> tuple[np.ndarray, int]:
    """Return the values of the data element at `at` and where the next one begins."""
    (tag,) = struct.unpack_from(order + "I", body, at)
    if tag >> 16:
        kind, size, start, following = tag & 0xFFFF, tag >> 16, at + 4, at + 8
        if size > _SMALL:
            raise ValueError("a short element that is too long")
    else:
        kind, size = struct.unpack_from(order + "II", body, at)
        start, following = at + 8, at + 8 + size + (-size) % 8
    dtype = np.dtype(order + _DTYPES[kind])
    return np.frombuffer(body, dtype, size // dtype.itemsize, start), following

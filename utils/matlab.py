"""Matrices out of MATLAB 5 files (`save -v6` and `-v7`): COCO-Stuff 10k and SBD keep masks there.

Format: "MAT-File Format", The MathWorks, chapter 1 (Level 5).
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.images import require_file

_HEADER = 128
_COMPRESSED, _MATRIX = 15, 14  # kinds of data elements
_STRUCT = 2  # class of a matrix with named fields
_NUMERIC = range(6, 16)  # classes double .. uint64
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
_DTYPES |= {13: "u8", 16: "u1"}
_SMALL = 4  # bytes: a value this short stands inside its tag

Found = tuple[str, "np.ndarray | dict[str, np.ndarray] | None"]


def read_matrix(path: Path, name: str) -> np.ndarray:
    """Read the two-dimensional numeric variable `name` as integers (rows, columns).

    Raises:
        DataError: No such file or variable, a damaged file, or another version of the format.
    """
    return read_nested(path, (name,))


def read_nested(path: Path, names: Sequence[str]) -> np.ndarray:
    """Read a numeric variable, or a field of a structure when there are two names.

    Args:
        path: The file.
        names: The variable, and its field.

    Returns:
        Integers (rows, columns).

    Raises:
        DataError: As `read_matrix`.
    """
    require_file(path)
    content = path.read_bytes()
    if content[:_HEADER].startswith(b"MATLAB 7.3"):
        raise DataError(f"{path}: a MATLAB 7.3 file, expected version 5 to 7 (save it with -v7)")
    try:
        order = {b"IM": "<", b"MI": ">"}[content[126:128]]
        variables = dict(_variables(content[_HEADER:], order))
    except (KeyError, ValueError, struct.error, zlib.error, IndexError) as error:
        raise DataError(f"{path}: not a MATLAB file that can be read ({error!r})") from error
    value = variables.get(names[0])
    for name in names[1:]:
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, np.ndarray):
        raise DataError(f"{path}: holds no matrix named {'.'.join(names)!r}")
    return value


def _variables(content: bytes, order: str) -> Iterator[Found]:
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
        if kind == _MATRIX:
            yield _matrix(body, order)
        at += 8 + size


def _matrix(body: bytes, order: str) -> Found:
    """Return a variable's name and its value: numbers, a structure's fields, or None."""
    flags, at = _element(body, 0, order)
    dimensions, at = _element(body, at, order)
    letters, at = _element(body, at, order)
    name, kind = letters.tobytes().decode("latin-1"), int(flags[0]) & 0xFF
    if kind == _STRUCT and dimensions.tolist() == [1, 1]:
        return name, _fields(body, at, order)
    if kind not in _NUMERIC or len(dimensions) != 2:
        return name, None
    values, _ = _element(body, at, order)
    rows, columns = dimensions
    if values.dtype.kind == "f":
        values = values.astype(np.int32)
    return name, values.reshape(columns, rows).T  # MATLAB stores columns first


def _fields(body: bytes, at: int, order: str) -> dict[str, np.ndarray]:
    length, at = _element(body, at, order)
    letters, at = _element(body, at, order)
    text, width = letters.tobytes(), int(length[0])
    names = [text[place : place + width] for place in range(0, len(text), width)]
    found = {}
    for name in names:
        _, size = struct.unpack_from(order + "II", body, at)
        value = _matrix(body[at + 8 : at + 8 + size], order)[1]
        if isinstance(value, np.ndarray):
            found[name.rstrip(b"\0").decode("latin-1")] = value
        at += 8 + size
    return found


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

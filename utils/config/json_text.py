"""Read JSON5 text, and say by line and column what is wrong with it.

The json5 package parses. It lets pass what a config must not hold (a key that stands twice, NaN
and Infinity) and recurses once per level, so one pass over the tokens looks for these before.
"""

import itertools
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import json5

from utils import ROOT
from utils.config.messages import hint, join, numbered, show
from utils.errors import ConfigError

_LARGEST = 2**32 - 1  # seeds have 32 bits; nothing else counts that far
MAX_BYTES = 32 * 1024
MAX_DEPTH = 50

# json5 takes about 15 Python frames a level; this leaves room for MAX_DEPTH wherever we are called.
_RECURSION_LIMIT = 10_000

PYTHON = {"None": "null", "True": "true", "False": "false"}
_YAML = re.compile(r"(?:\s|#.*\n|---)*[A-Za-z_]\w*:(?:\s|$)")  # a key before any bracket

_MAX_NUMBER = 100  # characters; Python itself refuses integers of more than 4300 digits

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n\r\u2028\u2029]*|/\*.*?\*/)|(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
    r"""|(?P<mark>[][{}:,])|(?P<word>[^][{}:,\s"'/]+)|(?P<other>.)""",
    re.DOTALL,
)


class _Level(NamedTuple):
    """An object or a list that the scan is inside of."""

    is_object: bool
    seen: dict[str, int]
    """The keys so far, each with its offset."""
    path: str


def read_json5(path: Path) -> dict[str, Any]:
    """Read a JSON5 file whose top level is an object.

    Args:
        path: A file in UTF-8 without byte order mark, at most `MAX_BYTES` long.

    Returns:
        The object; every number in it is finite, every string is valid Unicode without NUL.

    Raises:
        ConfigError: With the file, line and column, and the line itself.
    """
    value = parse_json5(_read_text(path), source=str(path))
    if not isinstance(value, dict):
        kind = {list: "a list", str: "text", type(None): "null"}.get(type(value), "a single value")
        raise ConfigError(f'{path}: expected an object, {{ "name": ... }}, got {kind}')
    return value


def parse_json5(text: str, *, source: str) -> Any:
    """Parse JSON5 text.

    Args:
        text: The text; nested at most `MAX_DEPTH` deep.
        source: Where the text comes from, for messages.

    Returns:
        Plain Python values.

    Raises:
        ConfigError: With source, line and column, and the line itself.
    """
    _check_tokens(text, source)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _RECURSION_LIMIT))
    try:
        value = json5.loads(text)
    except ValueError as error:
        raise ConfigError(_syntax_fault(text, source, str(error))) from None
    finally:
        sys.setrecursionlimit(limit)
    if places := list(_scan_faults(text)):
        # One fault reads file:line:column, as editors and terminals make it a link.
        one = f"{source}:{places[0]}"
        raise ConfigError(one if len(places) == 1 else numbered(places, source))
    if faults := list(value_faults(value, "")):
        raise ConfigError(numbered(faults, source))
    return value


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{_neighbors(path)}") from None
    except IsADirectoryError:
        message = f"{path}: is a folder; expected a config file{_neighbors(path / 'config.json')}"
        raise ConfigError(message) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(
            f"{path}: larger than {MAX_BYTES // 1024} KiB; a config is a few KiB of JSON. Is this "
            "a checkpoint or a data file?"
        )
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(
            f"{path}:1:1: begins with a byte order mark; save it as UTF-8 without one"
        )
    if b"\0" in raw:
        raise ConfigError(
            f"{path}:{_position(raw, raw.index(0))}: a binary file; expected JSON text"
        )
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise ConfigError(
            f"{path}:{_position(raw, error.start)}: not UTF-8 (byte 0x{byte:02x}); save it as UTF-8"
        ) from None


def _neighbors(path: Path) -> str:
    """The JSON files beside a path that does not exist, nearest name first."""
    found = itertools.islice(path.parent.glob("*.json"), 20)
    names = [name.name for name in found if name.name != "config.schema.json"]
    if names:
        return hint(path.name, names)
    return (
        f"; there is no .json file in {path.parent}\n"
        f"  the default run is {ROOT / 'config.json'}, others are in {ROOT / 'configs'}"
    )


def _position(raw: bytes, offset: int) -> str:
    start_of_line = raw.rfind(b"\n", 0, offset)
    return f"{raw.count(10, 0, offset) + 1}:{offset - start_of_line}"


def _syntax_fault(text: str, source: str, message: str) -> str:
    """json5's sentence with our position, the line itself and a mark under the column."""
    if not text.strip():
        return f"{source}:1:1: the file is empty; expected an object in {{ }}"
    if _YAML.match(text):
        return f"{source}:1:1: this is YAML; a config is JSON: {{ ... }}, keys and text in quotes"
    match = re.fullmatch(r"<string>:(\d+) (.*) at column (\d+)", message, re.DOTALL)
    if match is None:
        return f"{source}: {message}"
    line, what, column = int(match[1]), match[2].removeprefix("Unexpected "), int(match[3])
    if what == "end of input":
        what = "the text ends here, before the last } or quote or comment is closed"
    elif what == '"\n"':
        what = "a line break inside quotes, or a quote that is not closed"
    else:
        lines = text.split("\n")
        before = "\n".join([*lines[: line - 1], lines[line - 1][: column - 1]]).rstrip()
        missing = before[-1:] in {'"', "'", "}", "]"} or before[-1:].isalnum()
        comma = "; is a comma missing before it?" if missing and what[1:2] not in ",}]:" else ""
        what = f"unexpected {what[1:-1]}{comma}"
    return f"{source}:{line}:{column}: {what}{_excerpt(text, line, column)}"


def _excerpt(text: str, line: int, column: int) -> str:
    """The line around a column, with a mark under the place."""
    lines = text.split("\n")
    content = lines[line - 1].rstrip("\r") if line <= len(lines) else ""
    start = max(0, column - 60)
    shown = content[start : start + 80].replace("\t", " ")
    return f"\n    {shown}\n    {' ' * (column - 1 - start)}^" if shown else ""


def _place(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    for match in _TOKEN.finditer(text):
        if (kind := match.lastgroup) and kind != "skip":
            yield kind, match.group(), match.start()


def _check_tokens(text: str, source: str) -> None:
    depth = 0
    for kind, lexeme, offset in _tokens(text):
        if kind == "mark":
            depth += (lexeme in "[{") - (lexeme in "]}")
        long = kind == "word" and len(lexeme) > _MAX_NUMBER and lexeme.lstrip("+-.")[:1].isdigit()
        python = kind == "word" and lexeme in PYTHON and not _is_key(text, offset + len(lexeme))
        if depth > MAX_DEPTH or long or python:
            line, column = _place(text, offset)
            what = "a number of absurd length" if long else f"nested deeper than {MAX_DEPTH} levels"
            if python:
                what = f"{lexeme} is Python; write {PYTHON[lexeme]}{_excerpt(text, line, column)}"
            raise ConfigError(f"{source}:{line}:{column}: {what}")


def _scan_faults(text: str) -> Iterator[str]:
    """Keys that stand twice and numbers that are not finite, in text that is known to parse."""
    levels = [_Level(is_object=False, seen={}, path="")]
    here, previous, before = "", "", 0  # the path of the next value; the one before
    for kind, lexeme, offset in _tokens(text):
        level = levels[-1]
        if lexeme in "{[" and kind == "mark":
            levels.append(_Level(is_object=lexeme == "{", seen={}, path=here))
        elif lexeme in "]}" and kind == "mark":
            here = levels.pop().path
        elif lexeme == ":" and kind == "mark" and level.is_object:
            key = _key(previous)
            here = join(level.path, key)
            if key in level.seen:
                first, (line, column) = _place(text, level.seen[key])[0], _place(text, before)
                yield f"{line}:{column}: {here}: this key stands twice, first in line {first}"
            level.seen[key] = before
        elif kind == "word" and not _is_finite(lexeme) and not _is_key(text, offset + len(lexeme)):
            line, column = _place(text, offset)
            what = here or "the value"
            yield f"{line}:{column}: {what}: expected a finite number, got {lexeme[:40]}"
        previous, before = lexeme, offset


def _is_key(text: str, end: int) -> bool:
    following = next(_tokens(text[end:]), None)
    return following is not None and following[1] == ":"


def _key(lexeme: str) -> str:
    if lexeme[:1] in "\"'" and "\\" not in lexeme:
        return lexeme[1:-1]
    return next(iter(json5.loads(f"{{{lexeme}: 0}}")))


def _is_finite(word: str) -> bool:
    if word.lstrip("+-") in ("NaN", "Infinity"):
        return False
    try:
        return math.isfinite(float(word))
    except ValueError:  # true, false, null, or hexadecimal
        return True


def value_faults(value: Any, path: str) -> Iterator[str]:
    """Strings that no log or checkpoint could hold, integers that nothing could count.

    Args:
        value: Plain values.
        path: Their JSON path.

    Yields:
        A line for each.
    """
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            yield f"{path}: text with \\u0000 or half a surrogate pair cannot be used"
    elif isinstance(value, int) and abs(value) > _LARGEST:
        yield f"{path or 'the value'}: expected an integer of at most {_LARGEST}, got {show(value)}"
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from value_faults(key, f"the key in {path or 'the file'}")
            yield from value_faults(entry, join(path, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from value_faults(entry, join(path, index))

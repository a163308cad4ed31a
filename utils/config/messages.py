"""The words for a wrong key, name or value: one fault a line, each with its JSON path."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

_SHOWN = 60  # characters of a wrong value that a message repeats

_EXPECTED: Mapping[str, str] = {
    "bool_type": "true or false",
    "dict_type": "an object in {{ }}",
    "extra_forbidden": "no such key",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "a number > {gt}",
    "greater_than_equal": "a number >= {ge}",
    "int_from_float": "an integer",
    "int_type": "an integer",
    "is_instance_of": "a {class}",
    "less_than": "a number < {lt}",
    "less_than_equal": "a number <= {le}",
    "list_type": "a list in [ ]",
    "literal_error": "{expected}",
    "missing": "one entry more",
    "model_attributes_type": "an object in {{ }}",
    "model_type": "an object in {{ }}",
    "multiple_of": "a multiple of {multiple_of}",
    "none_required": "null",
    "path_type": "text in quotes",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} character(s)",
    "string_type": "text in quotes",
    "too_long": "at most {max_length} entries",
    "too_short": "at least {min_length} entries",
    "tuple_type": "a list in [ ]",
}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant, or None where nothing comes close.

    Case does not count, and a single slip (a letter too many, too few, wrong or swapped) always
    counts as close, also in a name of two letters, where the similarity ratio alone gives up.
    """
    scored = [(_similarity(name.lower(), candidate.lower()), candidate) for candidate in known]
    best, candidate = max(scored, default=(0.0, ""))
    return candidate if best >= 0.6 else None


def hint(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name.

    Returns:
        `"; did you mean 'backbone'? Known: backbone, freeze_bn"`, or the list alone.
    """
    names = sorted(known)
    meant = nearest(name, names)
    guess = f"; did you mean {meant!r}?" if meant is not None else "."
    return f"{guess} Known: {', '.join(names) or '(nothing)'}"


def show(value: object) -> str:
    """A value as it stands in the config, cut to a length that fits a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def join(path: str, *keys: str | int) -> str:
    """A JSON path with more keys: `join("arch", "args", "scales", 2) == "arch.args.scales[2]"`."""
    for key in keys:
        name = f"[{key}]" if isinstance(key, int) else f".{key}"
        path = f"{path}{name}" if path else str(key)
    return path


def wrong_value(path: str, value: object, errors: Sequence[ErrorDetails]) -> str:
    """One line for a value that its type refuses.

    Args:
        path: The JSON path of `value`.
        value: What the config says.
        errors: What pydantic says about it; one entry for each arm of a union.

    Returns:
        `trainer.epochs: expected a number >= 1, got 0`; the path goes on into a list or an object
        to the entry that is wrong.
    """
    # Of a union the arm that came furthest into a list or an object is the one that was meant.
    inner = max((_inner_path(value, error) for error in errors), key=len)
    errors = [error for error in errors if _inner_path(value, error) == inner]
    path, first = join(path, *inner), errors[0]
    if _misses_key(first):
        return f"{path}: missing"
    value = first["input"] if inner else value
    wanted = list(dict.fromkeys(expected(error) for error in errors))
    line = f"{path}: {' or '.join(wanted).replace(' or expected', ' or')}, got {show(value)}"
    if isinstance(value, str) and first["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        meant = nearest(value, choices)
        line += f"; did you mean {meant!r}?" if meant is not None else ""
    return line


def expected(error: ErrorDetails) -> str:
    """What pydantic wanted, as `expected ...`, or its own sentence for a rule of ours."""
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    template = _EXPECTED.get(error["type"])
    if template is None:
        return f"expected something else ({error['msg'].lower()})"
    limits = {
        key: f"{value:g}" if isinstance(value, float) else value
        for key, value in error.get("ctx", {}).items()
    }
    return f"expected {template.format_map(limits)}"


def numbered(faults: Sequence[str], source: str) -> str:
    """All faults of a source as one block: on one line, or a count and one line each."""
    if len(faults) == 1:
        return f"{source}: {faults[0]}"
    return "\n  ".join([f"{source}: {len(faults)} faults", *faults])


def _inner_path(value: Any, error: ErrorDetails) -> tuple[int | str, ...]:
    """The part of pydantic's location that exists in the value, or is missing in it.

    The rest names the arms of unions.
    """
    path: list[int | str] = []
    for key in error["loc"]:
        entries = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        if isinstance(entries, dict) and key in entries:
            value = entries[key]
            path.append(key)
    return (*path, error["loc"][-1]) if _misses_key(error) else tuple(path)


def _misses_key(error: ErrorDetails) -> bool:
    return error["type"] == "missing" and isinstance(error["loc"][-1], str)


def _similarity(left: str, right: str) -> float:
    ratio = difflib.SequenceMatcher(None, left, right).ratio()
    return max(ratio, 0.9) if _one_slip(left, right) else ratio


def _one_slip(left: str, right: str) -> bool:
    """Whether the names differ by one letter too many, too few, wrong, or swapped with the next."""
    short, long = sorted((left, right), key=len)
    if len(long) - len(short) > 1 or len(long) < 2:
        return False
    start = next(
        (i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short)
    )
    if len(short) < len(long):
        return short[start:] == long[start + 1 :]
    swapped = short[start : start + 2] == long[start : start + 2][::-1]
    return short[start + 1 :] == long[start + 1 :] or (
        swapped and short[start + 2 :] == long[start + 2 :]
    )

"""What `--set key=value` does to a config."""

import copy
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from utils.config.json_text import PYTHON, parse_json5
from utils.config.messages import numbered
from utils.errors import ConfigError

_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?")  # 007 and 1_000 are text


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set keys of a config, from left to right.

    Args:
        data: The config; it stays as it is.
        overrides: `key=value` each. The key is a path with dots; objects on the way are made where
            there are none, and a number picks an entry of a list. The value is JSON5, or text
            where it is not, so that `name=run7` needs no quotes.

    Returns:
        A deep copy of `data` with the keys set.

    Raises:
        ConfigError: For an override without key or value, one whose path leads through a plain
            value, and one whose value begins like JSON but is not.
    """
    result = copy.deepcopy(dict(data))
    faults: list[str] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        keys = key.strip().split(".")
        if not equals or not all(keys):
            faults.append(f"{override!r}: expected key=value, such as trainer.epochs=2")
            continue
        try:
            _set(result, keys, _value(key, text))
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError(numbered(faults, "--set"))
    return _at_home(result)


def _at_home(value: Any) -> Any:
    """Write the home folder out where text begins with ~/, as a shell does: such text is a path."""
    if isinstance(value, dict):
        return {key: _at_home(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_at_home(entry) for entry in value]
    if isinstance(value, str) and value.startswith("~/"):
        return os.path.expanduser(value)  # noqa: PTH111 - Path's raises where there is no home
    return value


def _value(key: str, text: str) -> Any:
    source = f"{key}={text}" if len(text) <= 60 else key
    try:
        return parse_json5(text, source=source)
    except ConfigError:
        # Whoever types a bracket or a quote means JSON. NaN is JSON5, but no value for a config.
        refused = ("NaN", "Infinity", *PYTHON)
        number = _NUMBER.fullmatch(text)  # one that is too large
        if number or text[:1] in ("{", "[", '"', "'") or text.lstrip("+-") in refused:
            raise
        return text


def _set(node: Any, keys: Sequence[str], value: Any) -> None:
    for depth, key in enumerate(keys[:-1]):
        child = _child(node, key, keys[: depth + 1])
        if child is None or (isinstance(child, str) and keys[depth + 1] in ("type", "args")):
            # A missing section begins empty; a bare "loss": "Name" becomes an object.
            child = {} if child is None else {"type": child}
            node[key] = child
        node = child
    if isinstance(node, list):
        node[_index(node, keys[-1], keys)] = value
    elif isinstance(node, dict):
        node[keys[-1]] = value
    else:
        raise ConfigError(f"{'.'.join(keys)}: {'.'.join(keys[:-1])} is not an object in {{ }}")


def _child(node: Any, key: str, path: Sequence[str]) -> Any:
    if isinstance(node, list):
        return node[_index(node, key, path)]
    if isinstance(node, dict):
        return node.get(key)
    raise ConfigError(f"{'.'.join(path)}: {'.'.join(path[:-1])} is not an object in {{ }}")


def _index(node: Sequence[Any], key: str, path: Sequence[str]) -> int:
    if not key.isdecimal() or int(key) >= len(node):
        raise ConfigError(
            f"{'.'.join(path)}: {'.'.join(path[:-1])} is a list of {len(node)} entries, numbered "
            "from 0"
        )
    return int(key)

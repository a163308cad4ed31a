"""The documented config, and what a broken copy of it is."""

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import json5

DOCUMENTED = Path(__file__).parent / "documented.json"


class Mutant(NamedTuple):
    """A broken config."""

    operator: str
    content: bytes
    path: str
    """The JSON path, or the line and column, that the answer has to name."""
    advice: str = ""
    """What else it has to say."""


def base() -> dict[str, Any]:
    """The documented config on a data set that config.schema.json always lists."""
    return copy.deepcopy(_base())


@cache
def _base() -> dict[str, Any]:
    config = json5.loads(DOCUMENTED.read_text(encoding="utf-8"))
    for kind, split in (("train_loader", "train"), ("val_loader", "val")):
        config[kind]["type"] = "CamVid"
        config[kind]["args"]["split"] = split
    return config


def paths(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{key}.")


def parent(config: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    *sections, key = path.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    return config, key


def changed(path: str, value: Any, *, without: str = "") -> bytes:
    config = base()
    if without:
        node, key = parent(config, without)
        del node[key]
    node, key = parent(config, path)
    node[key] = value
    return json.dumps(config, indent=2).encode()

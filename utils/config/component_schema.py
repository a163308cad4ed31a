"""What config.schema.json says about each component, as checkers that need no PyTorch.

The schema is written from the real signatures by tools/schema.py. Its arguments use a small part
of JSON Schema, which is translated into pydantic's own checkers here: so the first answer, before
PyTorch is imported, has the same words as the one of `utils.config.registry.build`.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

from pydantic_core import CoreSchema, SchemaValidator, core_schema

from utils import ROOT
from utils.config.messages import hint
from utils.config.signatures import Argument

SCHEMA_FILE = ROOT / "config.schema.json"

SCHEMA_NAMES: Mapping[str, str] = {
    "arch": "arch",
    "train_loader": "loader",
    "val_loader": "loader",
    "optimizer": "optimizer",
    "loss": "loss",
    "lr_scheduler": "lr_scheduler",
}
"""Sections of the config that name a component, and how the schema calls their table."""


class Listed(NamedTuple):
    """A component that the schema lists."""

    name: str
    arguments: dict[str, Argument]
    others: dict[str, Sequence[str]]
    """The arguments of the other components of its table."""


class Components:
    """The components in the definitions of a schema."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions

    def get(self, section: str, name: str) -> Listed | None:
        """The component of a section of the config, or None where the schema lists none."""
        table = f"{SCHEMA_NAMES.get(section)}."
        definition = self._definitions.get(table + name)
        if definition is None:
            return None
        needed = definition.get("required", [])
        arguments = {
            key: Argument(SchemaValidator(_checker(node)) if node else None, needed=key in needed)
            for key, node in definition["properties"].items()
        }
        others: dict[str, Sequence[str]] = {
            key.removeprefix(table): list(entry["properties"])
            for key, entry in self._definitions.items()
            if key.startswith(table) and key != table + name
        }
        return Listed(name, arguments, others)


@cache
def listed_components() -> Components:
    """The components of the schema beside the program; none where it is missing or damaged."""
    try:
        definitions = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))["$defs"]
    except (OSError, ValueError, KeyError, TypeError):
        definitions = {}  # `build` is the authority; without the schema it only answers later
    return Components(definitions if isinstance(definitions, dict) else {})


def _checker(node: Mapping[str, Any]) -> CoreSchema:
    """A schema of one value as pydantic's own.

    Args:
        node: JSON Schema with `anyOf`, `enum`, `const`, `type`, ranges, lengths, `items`,
            `prefixItems`, `properties`, `additionalProperties`; other keywords do not restrict.
    """
    if "anyOf" in node:
        return core_schema.union_schema([_checker(arm) for arm in node["anyOf"]])
    if "enum" in node or "const" in node:
        return core_schema.literal_schema(node.get("enum", [node.get("const")]))
    make = _MAKERS.get(node.get("type", ""))
    return make(node) if make is not None else core_schema.any_schema()


def _range(node: Mapping[str, Any]) -> dict[str, Any]:
    keywords = {
        "minimum": "ge",
        "exclusiveMinimum": "gt",
        "maximum": "le",
        "exclusiveMaximum": "lt",
    }
    return {ours: node[theirs] for theirs, ours in keywords.items() if theirs in node}


def _list(node: Mapping[str, Any]) -> CoreSchema:
    if "prefixItems" in node:
        return core_schema.tuple_schema(
            [_checker(item) for item in node["prefixItems"]], strict=True
        )
    return core_schema.list_schema(
        _checker(node.get("items", {})),
        min_length=node.get("minItems"),
        max_length=node.get("maxItems"),
        strict=True,
    )


def _known(names: Sequence[str], value: object) -> object:
    for key in value if isinstance(value, dict) else ():
        if key not in names:
            raise ValueError(f"unknown key {key!r}{hint(key, names)}")
    return value


def _object(node: Mapping[str, Any]) -> CoreSchema:
    if "properties" in node:
        needed = node.get("required", ())
        fields = {
            key: core_schema.typed_dict_field(_checker(entry), required=key in needed)
            for key, entry in node["properties"].items()
        }
        inner = core_schema.typed_dict_schema(fields, strict=True, extra_behavior="forbid")
        return core_schema.no_info_before_validator_function(partial(_known, list(fields)), inner)
    values = node.get("additionalProperties")
    return core_schema.dict_schema(
        core_schema.str_schema(),
        _checker(values) if isinstance(values, dict) else core_schema.any_schema(),
        strict=True,
    )


_MAKERS = {
    "integer": lambda node: core_schema.int_schema(strict=True, **_range(node)),
    "number": lambda node: core_schema.float_schema(
        strict=True, allow_inf_nan=False, **_range(node)
    ),
    "string": lambda node: core_schema.str_schema(
        strict=True, min_length=node.get("minLength"), pattern=node.get("pattern")
    ),
    "boolean": lambda _: core_schema.bool_schema(strict=True),
    "null": lambda _: core_schema.none_schema(),
    "array": _list,
    "object": _object,
}

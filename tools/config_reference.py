"""Print the tables of docs/config.md, made from config.schema.json.

    python tools/config_reference.py

`python tools/schema.py` writes both files anew.
"""

import argparse
import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `python tools/...` puts tools/ on the path, not its parent

from utils.errors import guard  # noqa: E402

MARK = "<!-- Below this line: written by tools/schema.py from the code. -->"

_TOP, _TRAINER = "Keys at the top level", "Keys under `trainer`"
_SHARED = "Every data set"
_TITLES = {
    "arch": "Models: `arch`",
    "loader": "Data: `train_loader` and `val_loader`",
    "optimizer": "Optimizers: `optimizer`",
    "loss": "Losses: `loss`",
    "lr_scheduler": "Schedules: `lr_scheduler`",
}


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(arguments)
    print(reference(json.loads((ROOT / "config.schema.json").read_text(encoding="utf-8"))))
    return 0


def reference(schema: Mapping[str, Any]) -> str:
    """One table for each section, then one for each component.

    Args:
        schema: What config.schema.json holds.

    Returns:
        Markdown.
    """
    trainer = schema["properties"]["trainer"]
    parts = [
        f"## {_TOP}\n\n" + _table(schema),
        f"## {_TRAINER}\n\n" + _table(trainer),
    ]
    for table, title in _TITLES.items():
        parts.append(f"## {title}\n\n" + _table(schema["$defs"][table]))
        entries = _components(schema, table)
        shared = _shared(entries.values()) if table == "loader" else {}
        if shared:
            every = {"properties": shared, "required": next(iter(entries.values()))["required"]}
            parts.append(f"### {_SHARED}\n\n" + _table(every, prefix="args."))
        for name, entry in entries.items():
            own = {key: kind for key, kind in entry["properties"].items() if key not in shared}
            rows = _table({**entry, "properties": own}, prefix="args.")
            also = f" Also takes what [every data set](#{_anchor(_SHARED)}) does." if shared else ""
            parts.append(f"### `{name}`\n\n{entry['description']}{also}\n\n{rows}")
    return "\n".join(parts)


def contents(schema: Mapping[str, Any]) -> str:
    """The page's headings as links, a line a section, its components behind it."""
    lines = [f"- [{title}](#{_anchor(title)})" for title in (_TOP, _TRAINER)]
    for table, title in _TITLES.items():
        names = [f"[{name}](#{_anchor(name)})" for name in _components(schema, table)]
        lines.append(f"- [{title}](#{_anchor(title)}): {', '.join(names)}")
    return "\n".join(lines) + "\n"


def _components(schema: Mapping[str, Any], table: str) -> dict[str, Any]:
    names = schema["$defs"][table]["properties"]["type"]["enum"]
    return {name: schema["$defs"][f"{table}.{name}"] for name in names}


def _shared(entries: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments that all of a table's components have in the same words."""

    def same(key: str, kind: object) -> bool:
        return all(
            one["properties"].get(key) == kind and (key in one["required"]) == (key in needed)
            for one in entries
        )

    first = next(iter(entries))
    needed = first["required"]
    return {key: kind for key, kind in first["properties"].items() if same(key, kind)}


def _anchor(title: str) -> str:
    """The address that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _table(node: Mapping[str, Any], prefix: str = "") -> str:
    if not node["properties"]:
        return "No arguments.\n"
    needed = node.get("required", ())
    rows = [
        f"| `{prefix}{name}` | {kind(entry)} | {_default(name, entry, needed)} "
        f"| {_cell(entry.get('description', ''))} |"
        for name, entry in sorted(
            node["properties"].items(), key=lambda item: item[0] not in needed
        )
    ]
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows, ""])


def kind(node: Mapping[str, Any]) -> str:
    """What a schema allows, in a few words."""
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(kind(arm) for arm in node["anyOf"]))
    if "$ref" in node or ("properties" in node and "enum" not in node):
        return "`{ }`"
    if "enum" in node or "const" in node:
        return " ".join(f"`{json.dumps(value)}`" for value in node.get("enum", [node.get("const")]))
    name = node.get("type", "")
    if name == "array":
        entries = node.get("prefixItems") or [node.get("items", {})]
        inner = ", ".join(kind(entry) for entry in entries)
        return f"list of {inner}" if "items" in node else f"[{inner}]"
    words = {"boolean": "true or false", "string": "text", "null": "null", "object": "`{ }`"}
    return " ".join(filter(None, [words.get(name, name or "any"), _range(node)]))


def _range(node: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return " and ".join(f"{sign} {node[key]}" for key, sign in signs.items() if key in node)


def _default(name: str, node: Mapping[str, Any], needed: Any) -> str:
    if name in needed:
        return "required"
    if "properties" in node:
        return "see below"
    return f"`{json.dumps(node['default'], ensure_ascii=False)}`" if "default" in node else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

"""Print the tables of docs/config.md, made from config.schema.json.

    python tools/config_reference.py

`python tools/schema.py` writes both files anew.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `python tools/...` puts tools/ on the path, not its parent

from utils.errors import guard  # noqa: E402

MARK = "<!-- Below this line: written by tools/schema.py from the code. -->"

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
        "## Keys at the top level\n\n" + _table(schema),
        "## Keys under `trainer`\n\n" + _table(trainer),
    ]
    definitions = schema["$defs"]
    for table, title in _TITLES.items():
        section = definitions[table]
        parts.append(f"## {title}\n\n" + _table(section))
        parts += [
            f"### `{name}`\n\n{entry['description']}\n\n" + _table(entry, prefix="args.")
            for name in section["properties"]["type"]["enum"]
            if (entry := definitions[f"{table}.{name}"])
        ]
    return "\n".join(parts)


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

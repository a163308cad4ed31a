"""Write what is made from the code: config.schema.json, docs/config.md, README's table of models.

    python tools/schema.py            write all three
    python tools/schema.py --check    exit 2 when one of them is out of step with the code

To use the schema in an editor, let a config begin with `"$schema": "./config.schema.json"`.
"""

import argparse
import copy
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `python tools/schema.py` puts tools/ on the path, not its parent

from tools import models  # noqa: E402
from tools.config_reference import MARK, contents, reference  # noqa: E402
from utils.config.component_schema import SCHEMA_FILE, SCHEMA_NAMES  # noqa: E402
from utils.config.config import Config  # noqa: E402
from utils.config.signatures import offered_arguments  # noqa: E402
from utils.errors import ConfigError, guard  # noqa: E402

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE_FILE = ROOT / "docs" / "config.md"
README = ROOT / "README.md"

_ENTRY = re.compile(r"(\w+)(?: \([^)]*\))?: (.*)")


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare, write nothing")
    check = parser.parse_args(arguments).check
    schema = config_schema()
    outdated = []
    contents = {SCHEMA_FILE: as_text(schema), REFERENCE_FILE: document(schema), README: readme()}
    for file, content in contents.items():
        if not file.exists() or file.read_text(encoding="utf-8") != content:
            outdated.append(file.name)
            if not check:
                file.write_text(content, encoding="utf-8")
    if outdated and check:
        names = ", ".join(outdated)
        raise ConfigError(f"{names}: out of step with the code; run python tools/schema.py")
    print(f"{'written' if outdated else 'in step'}: {', '.join(outdated or ['all'])}")
    return 0


def as_text(schema: Mapping[str, Any]) -> str:
    """The schema as it is stored."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def document(schema: Mapping[str, Any]) -> str:
    """docs/config.md with its contents and tables made anew; what else is above the mark stays."""
    written = REFERENCE_FILE.read_text(encoding="utf-8") if REFERENCE_FILE.exists() else MARK
    above = _between("contents", contents(schema), written.partition(MARK)[0])
    return above + MARK + "\n\n" + reference(schema)


def readme() -> str:
    """README.md with its table of models made anew."""
    return _between("models", models.table(19) + "\n", README.read_text(encoding="utf-8"))


def _between(mark: str, text: str, document: str) -> str:
    """Put a text between the marks of a document."""
    place = rf"(?<=<!-- {mark} -->\n).*(?=<!-- /{mark} -->)"
    return re.sub(place, lambda _: text, document, flags=re.DOTALL)


def config_schema() -> dict[str, Any]:
    """The schema of a whole config, with the arguments of everything in the tables."""
    raw = _tidy(Config.model_json_schema(by_alias=True))
    sections = raw.pop("$defs")
    tables = _tables()
    properties = raw["properties"]
    definitions: dict[str, Any] = {}
    for section, table in SCHEMA_NAMES.items():
        model = sections[_reference(properties[section])]
        definitions[table] = _section(table, tables[table], model)
        properties[section] = _component_property(section, table, properties[section])
    properties["loss"]["anyOf"].insert(0, {"enum": sorted(tables["loss"])})
    properties["trainer"] = {**sections["TrainerSection"], **properties["trainer"]}
    properties["trainer"].pop("$ref", None)
    for table, entries in tables.items():
        definitions |= {f"{table}.{name}": entries[name] for name in sorted(entries)}
    no_validation = {
        "properties": {"trainer": {"properties": {"val": {"const": False}}, "required": ["val"]}},
        "required": ["trainer"],
    }
    either = [{"required": ["val_split"]}, {"required": ["val_fold"]}]
    held_out = {"properties": {"args": {"anyOf": either}}, "required": ["args"]}
    own_share = {"properties": {"train_loader": held_out}, "required": ["train_loader"]}
    return {
        "$schema": DIALECT,
        "title": "Config of a training run",
        **raw,
        "if": {"anyOf": [no_validation, own_share]},
        "else": {"required": ["val_loader"]},
        "$defs": definitions,
    }


def descriptions(factory: Callable[..., Any]) -> dict[str, str]:
    """What the docstrings say about each argument of a class (and its bases) or function."""
    documented = reversed(inspect.getmro(factory)) if inspect.isclass(factory) else [factory]
    found: dict[str, str] = {}
    for source in documented:
        own = vars(source).get("__init__") if inspect.isclass(source) else None
        for text in (source.__doc__, getattr(own, "__doc__", None)):
            found |= _section_entries(inspect.cleandoc(text or ""))
    return found


def _tables() -> dict[str, dict[str, Any]]:
    """The definition of every component, by table."""
    from base.base_data_loader import BaseDataLoader
    from dataloaders import DATASETS
    from models import MODELS
    from utils.losses.table import LOSSES
    from utils.optim.lr_scheduler import SCHEDULERS
    from utils.optim.optimizers import OPTIMIZERS

    tables = {
        "arch": MODELS,
        "optimizer": OPTIMIZERS,
        "loss": LOSSES,
        "lr_scheduler": SCHEDULERS,
    }
    plain = {
        table: {name: _definition(entry) for name, entry in entries.items()}
        for table, entries in tables.items()
    }
    loaders = {name: _definition(entry, BaseDataLoader) for name, entry in DATASETS.items()}
    return {"arch": plain.pop("arch"), "loader": loaders, **plain}


def _definition(*factories: Callable[..., Any]) -> dict[str, Any]:
    """The `args` of a component: the union of what the factories take."""
    properties: dict[str, Any] = {}
    needed: list[str] = []
    for factory in factories:
        texts, parameters = descriptions(factory), inspect.signature(factory).parameters
        for name, argument in offered_arguments(factory).items():
            checker = argument.checker
            node = _tidy(checker.json_schema()) if isinstance(checker, TypeAdapter) else {}
            properties[name] = {
                **_inlined(node),
                **_default(parameters[name].default),
                **({"description": texts[name]} if name in texts else {}),
            }
            needed += [name] if argument.needed else []
    first_line = inspect.cleandoc(factories[0].__doc__ or "").partition("\n")[0]
    return {
        "type": "object",
        "description": first_line,
        "properties": properties,
        **({"required": needed} if needed else {}),
        "additionalProperties": False,
    }


def _section(table: str, entries: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """A section that names a component: its type chooses what its args may be."""
    names = sorted(entries)
    choices = [
        {
            "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
            "then": {
                "properties": {"args": {"$ref": f"#/$defs/{table}.{name}"}},
                **({"required": ["args"]} if "required" in entries[name] else {}),
            },
        }
        for name in names
    ]
    section = copy.deepcopy(dict(model))
    section["properties"]["type"] |= {"enum": names}
    section["properties"]["args"].pop("additionalProperties")  # said by the component's own entry
    return {**section, "allOf": choices}


def _reference(node: Mapping[str, Any]) -> str:
    """The name of the model that a property refers to, itself or in one arm."""
    arms = [node, *node.get("anyOf", [])]
    return next(arm["$ref"] for arm in arms if "$ref" in arm).rpartition("/")[2]


def _component_property(section: str, table: str, node: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: node[key] for key in ("default", "description") if key in node}
    target = {"$ref": f"#/$defs/{table}"}
    if section == "loss":
        return {"anyOf": [target], **kept}
    if section == "val_loader":
        return {"anyOf": [target, {"type": "null"}], **kept}
    return {**target, **kept}


def _tidy(node: Any) -> Any:
    """Without the titles that pydantic makes of the names."""
    if isinstance(node, list):
        return [_tidy(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _one_line(value) if key == "description" else _tidy(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
    }


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _inlined(node: Any, definitions: Mapping[str, Any] | None = None) -> Any:
    """References replaced by what they refer to: an argument's type is small."""
    if isinstance(node, list):
        return [_inlined(entry, definitions) for entry in node]
    if not isinstance(node, dict):
        return node
    definitions = node.get("$defs", definitions) or {}
    node = {key: value for key, value in node.items() if key != "$defs"}
    if "$ref" in node:
        node = {**definitions[node.pop("$ref").rpartition("/")[2]], **node}
        node.pop("description", None)  # a dataclass's docstring; pydantic 2.12 does not give it
    return {key: _inlined(value, definitions) for key, value in node.items()}


def _default(value: object) -> dict[str, Any]:
    try:
        return {"default": json.loads(json.dumps(value))}
    except TypeError:  # no default, or one that JSON cannot express
        return {}


def _section_entries(docstring: str) -> dict[str, str]:
    """The entries of a docstring's Args or Attributes."""
    entries: dict[str, str] = {}
    section = re.search(r"^(?:Args|Attributes):\n((?: +.*\n?|\n)+)", docstring, re.MULTILINE)
    name = ""
    for line in inspect.cleandoc(section[1]).splitlines() if section else ():
        match = _ENTRY.fullmatch(line)
        if match:
            name = match[1]
            entries[name] = match[2]
        elif name:
            entries[name] += f" {line.strip()}"
    return {name: _as_json(text.strip()) for name, text in entries.items()}


def _as_json(text: str) -> str:
    """Python's constants as they are written in a config."""
    for constant in ("None", "True", "False"):
        spelling = "null" if constant == "None" else constant.lower()
        text = re.sub(rf"\b{constant}\b", spelling, text)
    return text


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

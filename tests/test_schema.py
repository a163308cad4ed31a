"""config.schema.json and docs/config.md: in step with the code, and true."""

import json
import re

import json5
import jsonschema
import pytest
from bad_configs import BAD, SHORT
from config_mutants import valid
from mutant import base
from pydantic import ValidationError

from tools import schema as tool
from utils.config import component_schema
from utils.config.component_schema import SCHEMA_FILE, SCHEMA_NAMES, Components
from utils.config.config import Config, load_config, parse_config
from utils.config.sections import OptimizerSection, TrainerSection
from utils.config.signatures import SUPPLIED, offered_arguments
from utils.errors import ConfigError

SCHEMA = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
EDITOR = jsonschema.Draft202012Validator(SCHEMA)
RECIPES = [tool.ROOT / "config.json", *sorted((tool.ROOT / "configs").glob("*.json"))]
COMPONENTS = [key for key in SCHEMA["$defs"] if "." in key]

# What an editor cannot know, since it needs more than one key or a program.
BEYOND_AN_EDITOR = {
    "missing val_loader": False,
    "monitor without validation": True,
    "monitor and early stop without validation": True,
    "early stop without monitor": True,
    "SyncBN without processes": True,
    "name ending in a space": True,
    "long name": True,  # counted in bytes
    "device of Windows": True,
    "port of Windows": True,
    "argument of a part": True,
    "value in a part of a part": True,
}

VALUES = [None, True, False, 0, 1, -1, 2, 3, 8, 33, 0.5, -0.5, 1.0, 1e9, "", "x", "train", "all"]
VALUES += [
    "present",
    "true",
    "1",
    "0.5",
    [],
    [0],
    [1, 2],
    [0.1, 0.9],
    ["x"],
    [[1]],
    [1, 2, 3],
    {},
    {"a": 1},
]


def test_the_files_are_in_step_with_the_code():
    assert tool.main(["--check"]) == 0


def test_a_file_out_of_step_is_reported_and_written(tmp_path, monkeypatch, capsys):
    stale = tmp_path / "config.schema.json"
    stale.write_text("{}")
    monkeypatch.setattr(tool, "SCHEMA_FILE", stale)
    (tmp_path / "config.md").write_text(tool.document(tool.config_schema()))
    monkeypatch.setattr(tool, "REFERENCE_FILE", tmp_path / "config.md")
    message = r"^config\.schema\.json: out of step with the code; run python tools/schema\.py$"
    with pytest.raises(ConfigError, match=message):
        tool.main(["--check"])
    assert stale.read_text() == "{}"
    assert tool.main([]) == 0
    assert json.loads(stale.read_text()) == SCHEMA
    assert "written: config.schema.json" in capsys.readouterr().out


def test_what_is_written_by_hand_stays(tmp_path, monkeypatch):
    page = tmp_path / "config.md"
    page.write_text(f"# By hand\n\n{tool.MARK}\n\nold")
    monkeypatch.setattr(tool, "REFERENCE_FILE", page)
    tool.main([])
    assert page.read_text().startswith(f"# By hand\n\n{tool.MARK}\n\n## Keys at the top level")
    assert "old" not in page.read_text().splitlines()


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("content", [*valid(seed=3)[1:2], *valid(seed=3)[4:]])
def test_an_editor_accepts_what_is_valid(content):
    assert [error.message for error in EDITOR.iter_errors(json.loads(content))] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_recipes_are_valid_for_both(path):
    assert load_config(path).name
    found = EDITOR.iter_errors(json5.loads(path.read_text(encoding="utf-8")))
    assert [(error.json_path, error.message) for error in found] == []


def test_an_editor_takes_a_short_config():
    assert EDITOR.is_valid(SHORT)
    assert EDITOR.is_valid(SHORT | {"loss": "DiceLoss", "$schema": "./config.schema.json"})
    without = {key: value for key, value in SHORT.items() if key != "val_loader"}
    assert EDITOR.is_valid(without | {"trainer": {"val": False}})
    assert not EDITOR.is_valid(without)


@pytest.mark.parametrize("name", BAD)
def test_an_editor_sees_what_the_program_refuses(name):
    changes, _ = BAD[name]
    config = {key: value for key, value in (SHORT | changes).items() if value is not None}
    assert EDITOR.is_valid(config) is BEYOND_AN_EDITOR.get(name, False)


def test_every_key_is_described():
    for where, node in [("", SCHEMA), ("trainer", SCHEMA["properties"]["trainer"])] + [
        (key, SCHEMA["$defs"][key]) for key in SCHEMA["$defs"]
    ]:
        for key, entry in node["properties"].items():
            assert entry.get("description"), f"{where}: {key} has no description"


def test_every_key_is_in_the_reference():
    page = tool.REFERENCE_FILE.read_text(encoding="utf-8")
    for model in (Config, TrainerSection, OptimizerSection):
        for name, field in model.model_fields.items():
            assert f"\n| `{field.alias or name}` |" in page
    sections = dict(re.findall(r"^### (.*)\n((?:(?!##).*\n)*)", page, re.MULTILINE))
    shared = sections["Every data set"]
    for key in COMPONENTS:
        table, _, name = key.partition(".")
        own = sections[f"`{name}`"]
        for argument in SCHEMA["$defs"][key]["properties"]:
            row = f"\n| `args.{argument}` |"
            assert (row in own) + (table == "loader" and row in shared) == 1
        assert ("(#every-data-set)" in own) is (table == "loader")
    assert page.count("| `args.base_size` |") == 1


def test_the_example_of_the_reference_is_valid():
    page = tool.REFERENCE_FILE.read_text(encoding="utf-8")
    example = re.findall(r"```javascript\n(.*?)```", page, re.DOTALL)
    assert parse_config(json5.loads(example[0])).name == "first_try"


def test_what_the_program_sets_is_not_offered():
    for key in COMPONENTS:
        assert not SCHEMA["$defs"][key]["properties"].keys() & SUPPLIED.keys()


def _tables():
    from base.base_data_loader import BaseDataLoader
    from dataloaders import DATASETS
    from models import MODELS
    from utils.losses.table import LOSSES
    from utils.optim.lr_scheduler import SCHEDULERS
    from utils.optim.optimizers import OPTIMIZERS

    plain = {"arch": MODELS, "loss": LOSSES, "lr_scheduler": SCHEDULERS, "optimizer": OPTIMIZERS}
    for section, table in plain.items():
        for name, factory in table.items():
            yield section, name, offered_arguments(factory)
    for name, factory in DATASETS.items():
        arguments = offered_arguments(factory) | offered_arguments(BaseDataLoader)
        yield "train_loader", name, arguments


def _accepts(checker, value):
    try:
        checker.validate_json(json.dumps(value))
    except ValidationError:
        return False
    return True


def test_the_first_answer_is_the_one_of_build():
    # The checkers made of the schema and those of the signatures agree on every argument.
    components = Components(SCHEMA["$defs"])
    compared = accepted = 0
    for section, name, arguments in _tables():
        listed = components.get(section, name)
        assert listed is not None
        assert listed.arguments.keys() == arguments.keys()
        for key, argument in arguments.items():
            assert listed.arguments[key].needed == argument.needed
            for value in VALUES:
                expected = _accepts(argument.checker, value)
                assert _accepts(listed.arguments[key].checker, value) == expected, (
                    name,
                    key,
                    value,
                )
                compared, accepted = compared + 1, accepted + expected
    assert compared > 2000
    assert 0.1 < accepted / compared < 0.9


def test_all_sections_of_components_are_in_a_table():
    named = {key for key in SCHEMA["properties"] if key in SCHEMA_NAMES}
    assert named == {"arch", "train_loader", "val_loader", "optimizer", "loss", "lr_scheduler"}
    assert {key.partition(".")[0] for key in COMPONENTS} == set(SCHEMA_NAMES.values())


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"$defs": 3}'])
def test_without_a_schema_components_are_left_to_build(content, tmp_path, monkeypatch):
    path = tmp_path / "config.schema.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(component_schema, "SCHEMA_FILE", path)
    component_schema.listed_components.cache_clear()
    try:
        config = base()
        config["arch"]["args"]["bacbone"] = 3
        assert parse_config(config).arch.args["bacbone"] == 3
    finally:
        component_schema.listed_components.cache_clear()


def test_descriptions_come_from_docstrings():
    class Parent:
        """A parent.

        Attributes:
            depth: How deep; None
                for any.
            width (int): How wide.

        Raises:
            ValueError: Never.
        """

    class Child(Parent):
        """A child.

        Args:
            width: True width.
        """

        def __init__(self, width, height, depth):
            """Build it.

            Args:
                height: A height: with a colon.
            """

    assert tool.descriptions(Child) == {
        "depth": "How deep; null for any.",
        "width": "true width.",
        "height": "A height: with a colon.",
    }

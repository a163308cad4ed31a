"""The documents say what is so: links lead somewhere, lists are complete, examples run."""

import importlib.util
import inspect
import json
import re
import shlex
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from dataloaders import DATASETS
from models import MODELS
from planning import rules
from utils.config.config import load_config, parse_config
from utils.config.json_text import parse_json5
from utils.errors import ConfigError
from utils.losses.table import LOSSES
from utils.optim.lr_scheduler import SCHEDULERS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text()
CONFIG = (ROOT / "docs" / "config.md").read_text()
RECIPES = [ROOT / "config.json", *sorted((ROOT / "configs").glob("*.json"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_that_are_there(path):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_headings_lead_to_headings_that_are_there(path):
    text = path.read_text()
    for file, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
        target = (path.parent / file).read_text() if file else text
        titles = re.findall(
            r"^#+ (.*)", re.sub(r"```.*?```", "", target, flags=re.DOTALL), re.MULTILINE
        )
        addresses = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
        assert anchor in addresses, f"{path.name}: #{anchor}"


def test_the_reference_of_the_config_has_all_its_headings_as_contents():
    contents = CONFIG.partition("<!-- contents -->")[2].partition("<!-- /contents -->")[0]
    headings = re.findall(r"^###? `?([\w ]+)", CONFIG, re.MULTILINE)
    assert [name for name in headings if name.strip() not in contents] == ["Every data set"]


def test_the_first_screen_has_both_commands():
    screen = "\n".join(README.splitlines()[:30])
    assert "git clone " in screen
    assert "pip install -r requirements.txt && python train.py --config config.json" in screen
    assert "python tools/plan.py my_data -o mine.json\n    python train.py -c mine.json" in screen
    assert "--check-data" in screen
    assert "pip install -r requirements-dev.txt && pytest" in screen


@pytest.mark.parametrize(
    "table", [MODELS, DATASETS, LOSSES, SCHEDULERS], ids=["models", "data", "losses", "schedules"]
)
def test_the_readme_names_everything_that_a_config_can(table):
    assert [name for name in table if name not in README] == []


def test_the_readme_config_is_accepted():
    block = re.search(r"^    \{\n      \"name\".*?^    \}", README, flags=re.MULTILINE | re.DOTALL)[
        0
    ]
    parse_config(parse_json5(block, source="README.md"))


def test_the_readmes_own_data_are_a_section_of_a_config():
    block = re.search(r'^    "train_loader": \{\n.*?^    \}', README, re.MULTILINE | re.DOTALL)[0]
    config = parse_json5("{" + block + "}", source="README.md")
    parse_config({"name": "mine", "arch": {"type": "UNet"}, **config})


def test_the_page_of_the_plan_has_every_rule_with_its_reason_and_source():
    page = (ROOT / "docs" / "plan.md").read_text()
    named = [name for row in re.findall(r"^\| `(.*?)` \|.*\|.*\|.*\|$", page, re.MULTILINE)
             for name in row.split("`, `")]  # fmt: skip
    own = [name for name, one in vars(rules).items()
           if inspect.isfunction(one) and one.__module__ == rules.__name__]  # fmt: skip
    helpers = {"held_out", "is_upright", "planned_seconds", "rarest"}
    assert sorted(named) == sorted(set(own) - helpers)


def test_the_cookbook_answers_twelve_questions_with_commands():
    pages = (ROOT / "docs" / "cookbook.md").read_text()
    recipes = re.split(r"^## \d+\. ", pages, flags=re.MULTILINE)[1:]
    assert len(recipes) == 12
    for recipe in recipes:
        assert re.search(r"^[^\n]*\?\n\n    python ", recipe), recipe


def commands():
    """Every command line of ours in the documents, on one line: path of the document, words."""
    ours = r"(?:^ *|`)(?:python|torchrun [^`\n]*?) ((?:\w+/)?\w+\.py)([^`#\n|]*)"
    for path in DOCUMENTS:
        text = path.read_text().replace("\\\n", " ")
        for match in re.finditer(ours, text, flags=re.MULTILINE):
            yield pytest.param(match[1], shlex.split(match[2]), id=f"{path.name}-{match.start()}")


@pytest.mark.parametrize(("script", "words"), list(commands()))
def test_a_documented_command_has_flags_and_keys_that_are_there(script, words):
    source = (ROOT / script).read_text()
    if "prediction_flags.add_flags" in source:
        source += (ROOT / "prediction_flags.py").read_text()
    flags = [word for word in words if re.match(r"--?[a-z]", word)]
    assert [flag for flag in flags if f'"{flag}"' not in source] == []
    if "--set" in words:
        overrides = [word for word in words[words.index("--set") + 1 :] if "=" in word]
        assert overrides
        assert any(_accepted(config, overrides) for config in RECIPES)


def _accepted(config, overrides):
    try:
        load_config(config, overrides)
    except ConfigError:
        return False
    return True


def _runner():
    """The script of continuous integration that runs what the documents say."""
    loader = SourceFileLoader("commands", str(ROOT / ".ci" / "commands"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("commands", loader))
    loader.exec_module(module)
    return module


RUNNER = _runner()
NO_LONGER = {'"type": "DeepScene"'}
SECTIONS = json.loads((ROOT / "config.schema.json").read_text())["$defs"]
GIVEN = {
    "loader": {"data_dir": "data", "split": "train", "batch_size": 2, "classes": ["a", "b"]},
    "optimizer": {"lr": 0.1},
}
SHORT = {"name": "x", "arch": {"type": "UNet"}, "train_loader": {"type": "Shapes"}}
SHORT["train_loader"]["args"] = {"batch_size": 2}
SHORT["val_loader"] = SHORT["train_loader"]


def places(fragment):
    """Whole configs with a fragment at each place where its keys may belong."""
    yield fragment
    yield SHORT | fragment
    yield {key: SHORT[key] for key in ("name", "arch")} | fragment  # with `val_split`
    yield SHORT | {"trainer": fragment}
    for name, definition in SECTIONS.items():
        table, _, kind = name.partition(".")
        if fragment.keys() <= definition["properties"].keys() and kind:
            known = GIVEN.get(table, {})
            given = {key: known[key] for key in known if key in definition["properties"]}
            section = {"type": kind, "args": given | fragment}
            keys = ("train_loader", "val_loader") if table == "loader" else (table,)
            yield SHORT | dict.fromkeys(keys, section)
            yield {key: SHORT[key] for key in ("name", "arch")} | {keys[0]: section}


def fragments(text):
    """What a piece of a config says; of lines with the same key each is one."""
    lines = text.splitlines()
    several = len({line.partition(":")[0] for line in lines}) == 1
    for piece in lines if several else [text]:
        yield parse_json5(piece if piece.startswith("{") else f"{{{piece}\n}}", source="shown")


@pytest.mark.parametrize("document", RUNNER.DOCUMENTS)
def test_what_is_shown_of_a_config_is_accepted(document):
    for item in RUNNER.items(document):
        if item.kind == "config" and item.text not in NO_LONGER:
            for fragment in fragments(item.text):
                assert any(map(_accepts, places(fragment))), f"{document}:{item.line} {item.text}"


def _accepts(config):
    try:
        parse_config(config)
    except ConfigError:
        return False
    return True


def test_the_manuals_faults_are_those_of_the_program(tmp_path):
    shown = re.search(r"^error: (config\.json: 2 faults\n.*?)```", CONFIG, re.MULTILINE | re.DOTALL)
    with pytest.raises(ConfigError) as caught:
        load_config(ROOT / "config.json", ["trainer.save_period=0", "trainer.epoch=3"])
    said = str(caught.value).replace(f"{ROOT}/", "").replace(" with --set", "")
    for ours, theirs in zip(shown[1].splitlines(), said.splitlines(), strict=True):
        assert theirs.startswith(ours.removesuffix("..."))


def test_every_document_keeps_to_the_project():
    words = re.compile(r"\b(TODO|FIXME|lorem)\b")
    assert [path.name for path in DOCUMENTS if words.search(path.read_text())] == []

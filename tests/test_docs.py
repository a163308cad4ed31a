"""The documents say what is so: links lead somewhere, lists are complete, examples run."""

import re
from pathlib import Path
from typing import Annotated

import pytest
import torch
from annotated_types import Ge
from torch import Tensor, nn

from base.base_model import BaseModel
from dataloaders import DATASETS
from models import MODELS
from utils.config import parse_config
from utils.json_text import parse_json5
from utils.losses import LOSSES
from utils.lr_scheduler import SCHEDULERS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_that_are_there(path):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_the_first_screen_has_both_commands():
    screen = "\n".join(README.splitlines()[:20])
    assert "pip install -r requirements.txt && python train.py --config config.json" in screen
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


def test_the_contributing_guides_model_runs():
    code = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)[1]
    names = {"BaseModel": BaseModel, "Annotated": Annotated, "Ge": Ge, "Tensor": Tensor, "nn": nn}
    exec(code, names)
    logits = names["Tiny"](5)(torch.zeros(1, 3, 33, 40))
    assert logits.shape == (1, 5, 33, 40)


def test_every_document_keeps_to_the_project():
    words = re.compile(r"\b(TODO|FIXME|lorem)\b")
    assert [path.name for path in DOCUMENTS if words.search(path.read_text())] == []

"""The network that comes with the program is the one that its README describes."""

import json
import re
from pathlib import Path

import json5
import pytest

import evaluate
from models.stored import read_model

EXAMPLE = Path(__file__).parents[1] / "examples" / "aerial"
README = (EXAMPLE / "README.md").read_text()


def test_its_score_on_the_photograph_is_the_one_that_is_written(tmp_path):
    shown = "--images", str(EXAMPLE / "images"), "--masks", str(EXAMPLE / "masks")
    assert evaluate.main(["-m", str(EXAMPLE), *shown, "-o", str(tmp_path), "-d", "cpu"]) == 0
    score = json.loads((tmp_path / "metrics.json").read_text())["Mean_IoU"]
    written = float(re.search(r"on which the mean\s+is (\d+\.\d)", README)[1])
    assert 100 * score == pytest.approx(written, abs=0.1)


def test_it_is_what_its_config_and_its_readme_say():
    file, network, checkpoint = read_model(EXAMPLE)
    assert checkpoint["config"] == json.loads((EXAMPLE / "config.json").read_text())
    assert file.stat().st_size < 4e6
    count = sum(parameter.numel() for parameter in network.parameters())
    assert f"{count / 1e6:.2f} million parameters" in README
    crops = checkpoint["step"] * checkpoint["config"]["train_loader"]["args"]["batch_size"]
    assert f"{crops:,} crops" in README


def test_the_recipe_is_the_one_that_it_was_trained_by():
    recipe = json5.loads((EXAMPLE.parents[1] / "configs" / "aerial_folder.json").read_text())
    trained = json.loads((EXAMPLE / "config.json").read_text())
    for key in ("arch", "optimizer", "loss", "lr_scheduler", "train_loader", "val_loader"):
        told = {name: value for name, value in trained[key].items() if name in recipe[key]}
        asked = json.loads(json.dumps(recipe[key]))
        for one in (told, asked):
            one.get("args", {}).pop("num_workers", None)
        assert told == asked, key

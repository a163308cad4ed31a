"""`tools/models.py`, and the README that shows what it prints."""

import pytest
import torch
from small_models import build_small
from torch import nn

from models import MODELS
from tools.models import main, multiply_adds
from tools.schema import README, readme
from utils.errors import ConfigError


def shown():
    return README.read_text().partition("<!-- models -->\n")[2].partition("<!-- /models -->")[0]


@pytest.mark.slow
def test_the_readme_shows_what_is_printed():
    assert README.read_text() == readme()


def test_the_readme_has_every_network():
    rows = shown().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == list(MODELS)
    assert "| ENet | [ENet, 2016](https://arxiv.org/abs/1606.02147) | - | 0.37 M |" in shown()


def test_multiply_adds_are_those_of_the_convolutions():
    with torch.device("meta"):
        model = build_small("UNet", 2, base_channels=1)
        model.start = nn.Conv2d(3, 1, 3, padding=1)
        for part in (model.downs, model.ups):
            del part[:]
    assert multiply_adds(model, 32) == 32 * 32 * (27 + 2)


def test_the_command_takes_classes_channels_and_size(capsys, monkeypatch):
    monkeypatch.setattr("models.MODELS", {"UNet": MODELS["UNet"]})
    assert main(["--classes", "2", "--channels", "1", "--size", "32"]) == 0
    out = capsys.readouterr().out
    assert "multiply-adds at 32x32" in out
    assert "| UNet | [U-Net, 2015](https://arxiv.org/abs/1505.04597) | - | 31.04 M | 0.8 G |" in out


@pytest.mark.parametrize("arguments", [["--classes", "0"], ["--channels", "0"], ["--size", "16"]])
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(ConfigError, match="must be at least 1, --size at least 32"):
        main(arguments)

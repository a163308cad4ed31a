"""Networks out of checkpoints: rebuilt whole, or as a start for another task."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_models import build_small

from models import MODELS, load_matching, model_from_checkpoint
from utils.errors import CheckpointError

ROOT = Path(__file__).parent.parent


def checkpoint_of(name, num_classes=3, **arguments):
    model = build_small(name, num_classes, **arguments)
    return {
        "arch": name,
        "config": {
            "arch": {
                "type": name,
                "args": {**MODELS[name].facts.small, **arguments, "pretrained": True},
            }
        },
        "state_dict": model.state_dict(),
        "classes": [f"class {index}" for index in range(num_classes)],
        "mean": [0.5] * model.in_channels,
    }


@pytest.mark.parametrize("name", ["PSPNet", "ENet", "GCN"])
def test_a_checkpoint_gives_its_network_back_without_fetching_weights(name):
    checkpoint = checkpoint_of(name, in_channels=4)
    model = model_from_checkpoint(checkpoint)
    assert type(model).__name__ == name
    assert model.in_channels == 4
    assert not model.training
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in checkpoint["state_dict"].items())


def test_the_channels_are_those_of_the_data():
    checkpoint = checkpoint_of("ENet", in_channels=5)
    del checkpoint["config"]["arch"]["args"]["in_channels"]
    assert model_from_checkpoint(checkpoint).in_channels == 5


def test_averaged_weights_come_first():
    checkpoint = checkpoint_of("ENet")
    averaged = {name: value * 0 for name, value in checkpoint["state_dict"].items()}
    checkpoint["ema"] = {"updates": 3, "state_dict": averaged}
    assert all(
        (value == 0).all() for value in model_from_checkpoint(checkpoint).state_dict().values()
    )
    checkpoint["ema"] = None
    assert any(
        (value != 0).any() for value in model_from_checkpoint(checkpoint).state_dict().values()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["config"]["arch"].update(type="Unet"),
            "architecture cannot be built: arch.type",
        ),
        (
            lambda c: c["config"]["arch"]["args"].update(depth=3),
            r"cannot be built: arch\.args\.depth",
        ),
        (lambda c: c["config"].clear(), "architecture cannot be built: 'type'"),
        (
            lambda c: c["state_dict"].pop("fullconv.bias"),
            r"of its ENet:\n  fullconv\.bias: missing",
        ),
        (lambda c: c["state_dict"].update(extra=torch.ones(1)), "extra: unknown"),
        (
            lambda c: c["classes"].pop(),
            r"fullconv\.weight: 16x3x3x3 in the file, 16x2x3x3 expected",
        ),
        (lambda c: c["state_dict"].clear(), r"and \d+ more"),
        (
            lambda c: c["state_dict"].update({"fullconv.bias": "x"}),
            "fullconv.bias: no tensor in the",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_itself_is_refused(change, message):
    checkpoint = checkpoint_of("ENet")
    change(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        model_from_checkpoint(checkpoint)


def test_fine_tuning_takes_what_fits_and_lists_the_rest():
    checkpoint = checkpoint_of("PSPNet", 5)
    model = build_small("PSPNet", 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(9)
    taken, left = load_matching(model, checkpoint)
    own = model.state_dict()
    assert all(torch.equal(own[name], checkpoint["state_dict"][name]) for name in taken)
    assert sorted(left) == [
        "aux.classifier.bias: 5 in the file, 2 here",
        "aux.classifier.weight: 5x24x1x1 in the file, 2x24x1x1 here",
        "head.2.bias: 5 in the file, 2 here",
        "head.2.weight: 5x24x1x1 in the file, 2x24x1x1 here",
    ]
    assert (own["head.2.weight"] == 9).all()
    assert len(taken) + len(left) == len(own)


def test_fine_tuning_with_another_head_keeps_the_encoder():
    checkpoint = checkpoint_of("UNetResnet")
    model = build_small("PSPNet")
    taken, left = load_matching(model, checkpoint)
    assert {name.split(".")[0] for name in taken} == {"backbone"}
    assert "head.2.weight: not in the file" in left


def test_as_many_numbers_in_another_shape_are_left():
    checkpoint = checkpoint_of("ENet")
    weights = checkpoint["state_dict"]
    weights["initial.conv.weight"] = weights["initial.conv.weight"].transpose(0, 1)
    _, left = load_matching(build_small("ENet"), checkpoint)
    assert left == ["initial.conv.weight: 3x13x3x3 in the file, 13x3x3x3 here"]


def test_fine_tuning_from_something_else_entirely_is_refused():
    with pytest.raises(
        CheckpointError, match="no tensor of this ENet is in the checkpoint, which holds a UNet"
    ):
        load_matching(build_small("ENet"), checkpoint_of("UNet"))


def test_the_checkpoint_stays_as_it_was():
    checkpoint = checkpoint_of("ENet")
    before = copy.deepcopy(checkpoint)
    model = model_from_checkpoint(checkpoint)
    with torch.no_grad():
        model.fullconv.weight.zero_()
    assert torch.equal(
        checkpoint["state_dict"]["fullconv.weight"], before["state_dict"]["fullconv.weight"]
    )
    assert checkpoint["config"] == before["config"]


def test_importing_the_networks_does_not_import_timm():
    code = (
        "import sys, models; assert 'timm' not in sys.modules and 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=os.environ, timeout=120)

"""Networks out of checkpoints: rebuilt whole, or as a start for another task."""

import copy
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from conftest import tiny_config
from small_models import build_small

from assembly import assemble
from models import MODELS, load_matching, model_from_checkpoint
from utils.config.config import parse_config
from utils.errors import CheckpointError
from utils.files.tensor_files import read, weights_in
from utils.run.checkpoint import save

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
    weights = checkpoint_of("PSPNet", 5)["state_dict"]
    weights["head.3.weight"] = torch.ones(2, 2)
    model = build_small("PSPNet", 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(9)
    found = load_matching(model, weights)
    own = model.state_dict()
    assert all(torch.equal(own[name], weights[name]) for name in found.taken)
    assert sorted(found.misfits) == [
        "aux.classifier.bias: 5 in the file, 2 expected",
        "aux.classifier.weight: 5x24x1x1 in the file, 2x24x1x1 expected",
        "head.2.bias: 5 in the file, 2 expected",
        "head.2.weight: 5x24x1x1 in the file, 2x24x1x1 expected",
    ]
    assert (own["head.2.weight"] == 9).all()
    assert len(found.taken) + 4 == len(own)
    assert found.missing == []
    assert found.unexpected == ["head.3.weight"]


def test_fine_tuning_with_another_head_keeps_the_encoder():
    found = load_matching(build_small("PSPNet"), checkpoint_of("UNetResnet")["state_dict"])
    assert {name.split(".")[0] for name in found.taken} == {"backbone"}
    assert "head.2.weight" in found.missing


def test_as_many_numbers_in_another_shape_are_left():
    weights = checkpoint_of("ENet")["state_dict"]
    weights["initial.conv.weight"] = weights["initial.conv.weight"].transpose(0, 1)
    found = load_matching(build_small("ENet"), weights)
    assert found.misfits == ["initial.conv.weight: 3x13x3x3 in the file, 13x3x3x3 expected"]


def test_whole_numbers_are_no_weights():
    """A quantized network has the names and shapes of the plain one."""
    weights = checkpoint_of("ENet")["state_dict"]
    weights["fullconv.weight"] = (weights["fullconv.weight"] * 100).to(torch.int8)
    found = load_matching(build_small("ENet"), weights)
    assert found.misfits == ["fullconv.weight: 16x3x3x3 int8 in the file, 16x3x3x3 expected"]


def test_fine_tuning_from_something_else_entirely_is_refused():
    with pytest.raises(
        CheckpointError,
        match=r"nothing in the file fits this ENet\n  found: start\.0\.0\.weight, ",
    ):
        load_matching(build_small("ENet"), checkpoint_of("UNet")["state_dict"])


def save_ours(state, path):
    others = {"classes": ["a"], "palette": [[0, 0, 0]], "mean": [0.5], "std": [0.2]}
    description = {"arch": "ENet", "config": {}, "ignore_index": 255, **others}
    other = {name: value + 1 for name, value in state.items()}
    save([path], {**description, "state_dict": other, "ema": {"state_dict": state}})


def save_lightning(state, path):
    content = {"epoch": 3, "pytorch-lightning_version": "2.5.0", "hyper_parameters": {"lr": 0.1}}
    slots = {index: {"exp_avg": torch.ones(2)} for index in range(1000)}
    weights = {f"model.{name}": value for name, value in state.items()} | {"loss.w": torch.ones(2)}
    torch.save(content | {"optimizer_states": [{"state": slots}], "state_dict": weights}, path)


def save_averaged(state, path):
    other = {f"module.{name}": value + 1 for name, value in state.items()}
    averaged = {f"module.{name}": value for name, value in state.items()}
    torch.save({"model": other, "model_ema": averaged | {"n_averaged": torch.tensor(9)}}, path)


def save_safetensors(state, path):
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in state.items()}, path)


FORMS = {
    "ours, averaged": save_ours,
    "plain": torch.save,
    "before torch 1.6": lambda state, path: torch.save(
        state, path, _use_new_zipfile_serialization=False
    ),
    "DataParallel": lambda state, path: torch.save(
        {"state_dict": {f"module.{name}": value for name, value in state.items()}}, path
    ),
    "compiled": lambda state, path: torch.save(
        {f"module._orig_mod.{name}": value for name, value in state.items()}, path
    ),
    "Lightning": save_lightning,
    "torchvision, averaged": save_averaged,
    "half precision": lambda state, path: torch.save(
        {
            name: value.half() if value.is_floating_point() else value
            for name, value in state.items()
        },
        path,
    ),
    "safetensors": save_safetensors,
}


@pytest.fixture(scope="module")
def donor():
    """A network whose numbers half precision holds exactly."""
    donor = build_small("ENet")
    for number, value in enumerate(donor.state_dict().values()):
        value.copy_(torch.full_like(value, number % 50 + 0.5))
    return donor


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_other_programs_are_taken(form, donor, tmp_path):
    model = build_small("ENet")
    path = tmp_path / "weights.bin"  # what a file is does not hang on its name
    FORMS[form](donor.state_dict(), path)
    found = load_matching(model, weights_in(read(path), path))
    own = model.state_dict()
    assert (found.misfits, found.missing) == ([], [])
    assert all(torch.equal(own[name], value) for name, value in donor.state_dict().items())
    assert own["fullconv.weight"].dtype == torch.float32


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.encoder.", "model.backbone.body."])
def test_an_encoder_is_taken_wherever_another_program_keeps_it(prefix):
    """As segmentation_models_pytorch, Lightning around it, and detectors name theirs."""
    encoder = timm.create_model("test_resnet", num_classes=10).state_dict()
    weights = {f"{prefix}{name}": value for name, value in encoder.items()}
    weights["segmentation_head.0.weight"] = torch.ones(2, 16, 3, 3)
    model = build_small("PSPNet")
    found = load_matching(model, weights)
    own = model.state_dict()
    names = [name for name in encoder if not name.startswith("fc.")]
    assert all(torch.equal(own[f"backbone.network.{name}"], encoder[name]) for name in names)
    assert len(found.taken) == len(names)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in found.unexpected} == {"fc", "0"}
    assert set(found.missing) == {name for name in own if not name.startswith("backbone.")}


def test_a_training_starts_from_the_weights_of_another_program(tmp_path, caplog):
    donor = build_small("ENet", 5)
    path = tmp_path / "old.pth"
    state = {f"model.{name}": value for name, value in donor.state_dict().items()}
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
    config = tiny_config(tmp_path) | {"init_from": str(path)}
    caplog.set_level(logging.INFO, logger="segmentation")
    own = assemble(parse_config(config), None, device=torch.device("cpu")).model.state_dict()
    left = {"fullconv.weight", "fullconv.bias"}  # of five classes
    assert all(torch.equal(own[n], v) for n, v in donor.state_dict().items() if n not in left)
    assert f"init_from: {len(own) - 2} tensors taken" in caplog.text
    assert "init_from: 2 left for their shape  fullconv.weight: 16x5x3x3 in the file" in caplog.text


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

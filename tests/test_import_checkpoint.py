"""The old program's PSPNet, rebuilt by hand, and its import."""

import copy
import os
from pathlib import Path

import json5
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import MODELS, model_from_checkpoint
from tools.import_checkpoint import OBSTACLES, convert, main, read_foreign
from utils.errors import CheckpointError, guard
from utils.run import checkpoint

ROOT = Path(__file__).parent.parent
CONFIG = json5.loads((ROOT / "tests" / "documented.json").read_text())
CLASSES = 21


class Reference:
    """The forward pass of the old PSPNet, written from its tensors' names alone."""

    def __init__(self, state):
        self.state = state

    def conv(self, x, name, **options):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **options)

    def norm(self, x, name):
        values = (
            self.state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, *values)

    def block(self, x, name, stride, dilation):
        shortcut = x
        if f"{name}.downsample.0.weight" in self.state:
            shortcut = self.norm(
                self.conv(x, f"{name}.downsample.0", stride=stride), f"{name}.downsample.1"
            )
        y = self.norm(self.conv(x, f"{name}.conv1"), f"{name}.bn1").relu()
        y = self.conv(y, f"{name}.conv2", stride=stride, padding=dilation, dilation=dilation)
        y = self.conv(self.norm(y, f"{name}.bn2").relu(), f"{name}.conv3")
        return (self.norm(y, f"{name}.bn3") + shortcut).relu()

    def layer(self, x, number, blocks, stride, dilations):
        for block in range(blocks):
            dilation = dilations[min(block, 1)]
            x = self.block(x, f"layer{number}.{block}", stride if block == 0 else 1, dilation)
        return x

    def __call__(self, x):
        size = x.shape[2:]
        x = self.norm(self.conv(x, "initial.0.0", stride=2, padding=1), "initial.0.1").relu()
        x = self.norm(self.conv(x, "initial.0.3", padding=1), "initial.0.4").relu()
        x = self.norm(self.conv(x, "initial.0.6", padding=1), "initial.1").relu()
        x = F.max_pool2d(x, 3, 2, 1)
        x = self.layer(x, 1, 3, 1, (1, 1))
        x = self.layer(x, 2, 4, 2, (1, 1))
        x = self.layer(x, 3, 6, 1, (1, 2))
        x = self.layer(x, 4, 3, 1, (2, 4))
        levels = [x]
        for index, bins in enumerate((1, 2, 3, 6)):
            name = f"master_branch.0.stages.{index}"
            level = self.norm(
                self.conv(F.adaptive_avg_pool2d(x, bins), f"{name}.1"), f"{name}.2"
            ).relu()
            levels.append(F.interpolate(level, x.shape[2:], mode="bilinear", align_corners=True))
        name = "master_branch.0.bottleneck"
        x = self.norm(self.conv(torch.cat(levels, 1), f"{name}.0", padding=1), f"{name}.1").relu()
        x = self.conv(x, "master_branch.1")
        return F.interpolate(x, size, mode="bilinear", align_corners=False)


def old_state():
    """Tensors with the names and shapes of the published file, at random."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def conv(name, out, inputs, kernel, bias=False):
        scale = (2 / (inputs * kernel * kernel)) ** 0.5
        state[f"{name}.weight"] = (
            torch.randn(out, inputs, kernel, kernel, generator=generator) * scale
        )
        if bias:
            state[f"{name}.bias"] = torch.randn(out, generator=generator)

    def norm(name, channels):
        state[f"{name}.weight"] = torch.rand(channels, generator=generator) * 0.3 + 0.5
        state[f"{name}.bias"] = torch.randn(channels, generator=generator) * 0.1
        state[f"{name}.running_mean"] = torch.randn(channels, generator=generator) * 0.1
        state[f"{name}.running_var"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    for place, (out, inputs) in {"0": (64, 3), "3": (64, 64), "6": (128, 64)}.items():
        conv(f"initial.0.{place}", out, inputs, 3)
    norm("initial.0.1", 64)
    norm("initial.0.4", 64)
    norm("initial.1", 128)
    inputs = 128
    for number, blocks in ((1, 3), (2, 4), (3, 6), (4, 3)):
        width = 32 * 2**number
        for block in range(blocks):
            name = f"layer{number}.{block}"
            conv(f"{name}.conv1", width, inputs, 1)
            conv(f"{name}.conv2", width, width, 3)
            conv(f"{name}.conv3", 4 * width, width, 1)
            for index, channels in ((1, width), (2, width), (3, 4 * width)):
                norm(f"{name}.bn{index}", channels)
            if block == 0:
                conv(f"{name}.downsample.0", 4 * width, inputs, 1)
                norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    for index in range(4):
        conv(f"master_branch.0.stages.{index}.1", 512, 2048, 1)
        norm(f"master_branch.0.stages.{index}.2", 512)
    conv("master_branch.0.bottleneck.0", 512, 4096, 3)
    norm("master_branch.0.bottleneck.1", 512)
    conv("master_branch.1", CLASSES, 512, 1, bias=True)
    conv("auxiliary_branch.0", 512, 1024, 3)
    norm("auxiliary_branch.1", 512)
    conv("auxiliary_branch.4", CLASSES, 512, 1, bias=True)
    return state


@pytest.fixture(scope="module")
def state():
    return old_state()


@pytest.fixture(scope="module")
def old_file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("old") / "PSPnet.pth"
    content = {
        "arch": "DataParallel",
        "epoch": 50,
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "monitor_best": np.float64(0.82),
        "config": CONFIG,
    }
    torch.save(content, path, _use_new_zipfile_serialization=False)  # as torch 1.1 did
    return path


def old_content(state, **changes):
    config = copy.deepcopy(CONFIG)
    for section, values in changes.items():
        config[section].update(values)
    return {"arch": "DataParallel", "epoch": 1, "state_dict": state, "config": config}


def test_imported_logits_equal_those_of_the_old_network(state, old_file, tmp_path, capsys):
    new = tmp_path / "psp.pth"
    assert main([str(old_file), str(new)]) == 0
    assert "PSPNet, 21 classes, 51.45 M parameters" in capsys.readouterr().out
    content = checkpoint.load(new)
    model = model_from_checkpoint(content)
    images = torch.randn(1, 3, 65, 81, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = Reference(state)(images)
        found = model(images)
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-4
    assert content["classes"][15] == "person"
    assert list(content["mean"]) == [0.45734706, 0.43338275, 0.40058118]  # the old voc.py
    assert list(content["std"]) == [0.23965294, 0.23532275, 0.2398498]
    assert content["crop_size"] == CONFIG["train_loader"]["args"]["crop_size"]
    assert content["epoch"] == 50
    assert content["config"]["arch"]["args"]["backbone"] == "resnet50s"


def test_the_auxiliary_head_is_kept(state):
    content = convert(old_content(state), source="old.pth")
    model = model_from_checkpoint(content)
    assert torch.equal(model.aux.classifier.weight, state["auxiliary_branch.4.weight"])
    assert torch.equal(model.aux.conv[0].weight, state["auxiliary_branch.0.weight"])


def test_a_head_alone_is_enough(state):
    alone = {name: value for name, value in state.items() if not name.startswith("auxiliary")}
    content = convert(old_content(alone), source="old.pth")
    assert content["config"]["arch"]["args"]["use_aux"] is False
    assert model_from_checkpoint(content).aux is None


def test_another_number_of_classes_gets_plain_names(state):
    three = {
        name: value[:3] if name.startswith(("master_branch.1", "auxiliary_branch.4")) else value
        for name, value in state.items()
    }
    content = convert(old_content(three), source="old.pth")
    assert content["classes"] == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize("name", sorted(OBSTACLES))
def test_other_networks_are_told_what_is_missing(name, state):
    with pytest.raises(CheckpointError, match=f"old.pth: holds a {name}; only PSPNet can") as error:
        convert(old_content(state, arch={"type": name}), source="old.pth")
    assert OBSTACLES[name] in str(error.value)


def test_every_other_network_of_the_old_program_has_its_answer():
    assert {*OBSTACLES, "PSPNet"} == set(MODELS) - {"SegFormer", "Linear"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_loader": {"type": "DeepScene"}}, "trained on DeepScene, whose mean and deviation"),
        ({"arch": {"type": None}}, "holds a None; only PSPNet can be imported"),
    ],
)
def test_what_cannot_be_imported_is_explained(state, changes, message):
    with pytest.raises(CheckpointError, match=message):
        convert(old_content(state, **changes), source="old.pth")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["trainer"].update(early_stop=None), "trainer.early_stop: expected"),
        (lambda c: c["val_loader"]["args"].update(split="nowhere"), "val_loader.args.split: exp"),
        (lambda c: c.pop("val_loader"), "val_loader: missing"),
        (lambda c: c.update(trainer={"epochs": "many"}), "trainer.epochs: expected"),
        (lambda c: c.pop("trainer"), None),  # all of it has defaults
    ],
    ids=["null", "wrong split", "no validation", "wrong number", "no trainer"],
)
def test_weights_need_no_sound_config(state, change, said, capsys):
    content = old_content(state)
    change(content["config"])
    found = convert(content, source="old.pth")
    words = capsys.readouterr().err
    assert (said in words) if said else (words == "")
    assert found["crop_size"] == CONFIG["train_loader"]["args"]["crop_size"]
    assert found["config"]["arch"]["type"] == "PSPNet"
    assert found["config"]["trainer"] is not None


def test_a_config_without_a_network_is_explained(state):
    content = old_content(state)
    del content["config"]["arch"]
    with pytest.raises(CheckpointError, match=r"old.pth: its config has no arch\.type"):
        convert(content, source="old.pth")


def test_tensors_of_another_network_are_explained():
    content = old_content({"features.0.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"master_branch\.1\.weight is missing"):
        convert(content, source="old.pth")


def test_a_missing_tensor_is_named(state):
    partial = {name: value for name, value in state.items() if name != "layer1.0.conv1.weight"}
    content = convert(old_content(partial), source="old.pth")
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight: missing"):
        model_from_checkpoint(content)


class Harmful:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "config": {}, "extra": Harmful()}, "bad.pth")
    with pytest.raises(
        CheckpointError, match=r"bad\.pth: refused: it holds \w+\.system, .* could run code"
    ):
        read_foreign(Path("bad.pth"))
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint", r"old\.pth: not a checkpoint, or cut short"),
        (b"", r"old\.pth: not a checkpoint, or cut short \(0 bytes; EOFError"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_checkpoint_is_explained(tmp_path, content, message):
    path = tmp_path / "old.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_foreign(path)


def test_a_bare_state_dict_is_explained(tmp_path):
    path = tmp_path / "bare.pth"
    torch.save(nn.Linear(1, 1).state_dict(), path)
    with pytest.raises(
        CheckpointError, match="no checkpoint of pytorch-segmentation\n  found: weight"
    ):
        read_foreign(path)


def test_the_command_ends_with_the_exit_code_of_a_checkpoint(tmp_path, capsys):
    assert guard(main, [str(tmp_path / "none.pth"), str(tmp_path / "new.pth")]) == 4
    assert "none.pth: cannot be read" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

"""Encoders by name, and where their weights come from."""

import os
import re

import pytest
import timm
import torch
from small_models import build_small

from models import pretrained as weights
from models.backbones import build_backbone
from models.encoder_names import ALIASES
from utils.errors import CheckpointError, ConfigError

FAMILIES = ["test_resnet", "test_efficientnet", "test_convnext", "mobilenetv3_small_050"]
LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory):
    """What a user downloads: timm's state dict of an encoder, here with random values."""
    torch.manual_seed(5)
    model = timm.create_model(LITE0, pretrained=False)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(std=0.1)
    path = tmp_path_factory.mktemp("weights") / f"{LITE0}.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", FAMILIES)
def test_channels_and_strides_tell_the_truth(name, output_stride):
    backbone = build_backbone(name, output_stride=output_stride, pretrained=False, in_channels=2)
    features = backbone.eval()(torch.randn(1, 2, 64, 128))
    assert tuple(feature.shape[1] for feature in features) == backbone.channels
    assert tuple(64 // feature.shape[2] for feature in features) == backbone.strides
    assert tuple(128 // feature.shape[3] for feature in features) == backbone.strides
    assert backbone.strides[-1] == output_stride


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "xception",
        "mobilenet_v2",
        "efficientnet_b0",
        "convnext_atto",
        LITE0,
    ],
)
def test_every_family_can_be_dilated(name, output_stride):
    with torch.device("meta"):
        backbone = build_backbone(name, output_stride=output_stride, pretrained=False)
        features = backbone.eval()(torch.randn(1, 3, 64, 64))
    assert tuple(64 // feature.shape[2] for feature in features) == backbone.strides


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_each_alias_names_weights_that_exist(alias):
    assert ALIASES[alias] in timm.list_pretrained()
    assert "." in ALIASES[alias]


@pytest.mark.parametrize("network", ["DeepLab", "UNetResnet", "PSPNet", "UperNet", "GCN"])
def test_a_weight_file_gives_the_features_of_timm(network, weight_file):
    model = build_small(network, backbone=LITE0, pretrained=str(weight_file)).eval()
    stride = model.backbone.strides[-1]
    reference = timm.create_model(LITE0, features_only=True, output_stride=stride)
    state = torch.load(weight_file, weights_only=True)
    reference.load_state_dict({key: state[key] for key in reference.state_dict()})
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        for found, expected in zip(model.backbone(images), reference.eval()(images), strict=True):
            assert torch.equal(found, expected)
            assert expected.std() > 0


def test_initialization_leaves_pretrained_weights_alone(weight_file):
    state = torch.load(weight_file, weights_only=True)
    model = build_small("UperNet", backbone=LITE0, pretrained=str(weight_file))
    loaded = model.backbone.network.state_dict()
    assert len(loaded) > 200
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


@pytest.mark.parametrize("in_channels", [1, 5])
def test_a_stem_of_other_width_is_adapted(weight_file, in_channels):
    stem = torch.load(weight_file, weights_only=True)["conv_stem.weight"]
    backbone = build_backbone(LITE0, in_channels=in_channels, pretrained=str(weight_file))
    found = backbone.network.conv_stem.weight
    assert found.shape[1] == in_channels
    expected = stem.sum(1) if in_channels == 1 else stem[:, 0] * 3 / 5
    assert torch.allclose(found[:, 0], expected, atol=1e-6)


def test_a_file_of_another_encoder_is_refused(weight_file):
    with pytest.raises(
        CheckpointError, match=r"not the weights of resnet18\.tv_in1k: 99 of 122 tens"
    ):
        build_backbone("resnet18", pretrained=str(weight_file))


def test_a_file_of_a_sister_is_refused(weight_file):
    with pytest.raises(CheckpointError, match="not the weights of tf_efficientnet_lite1"):
        build_backbone("tf_efficientnet_lite1", pretrained=str(weight_file))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"\xff" * 64])
def test_a_damaged_file_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint, or cut short"):
        build_backbone("test_resnet", pretrained=str(path))


class Payload:
    """A command to make a folder, for whoever unpickles it."""

    def __reduce__(self):
        return os.mkdir, ("canary",)


def test_a_file_that_would_run_code_is_refused_without_advice_to_run_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    torch.save({"weight": Payload()}, path)
    with pytest.raises(CheckpointError, match=r"it holds \w+\.mkdir") as caught:
        build_backbone("test_resnet", pretrained=str(path))
    assert "weights_only=False" not in str(caught.value)
    assert not (tmp_path / "canary").exists()


def test_a_file_without_weights_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="holds no weights"):
        build_backbone("test_resnet", pretrained=str(path))


def test_a_missing_file_is_named():
    with pytest.raises(CheckpointError, match=r"arch\.args\.pretrained: no such file: none\.pth"):
        build_backbone("test_resnet", pretrained="none.pth")


def test_without_network_the_message_says_what_to_do(monkeypatch):
    def unreachable(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(ConfigError) as error:
        build_backbone("resnet50", pretrained=True)
    message = str(error.value)
    assert "cannot download the weights of resnet50.tv_in1k (no route to host)" in message
    assert "https://huggingface.co/timm/resnet50.tv_in1k/resolve/main/model.safetensors" in message
    assert "put that file at pretrained/resnet50.tv_in1k.safetensors" in message
    assert '"pretrained": "pretrained/resnet50.tv_in1k.safetensors"' in message
    assert '"pretrained": false' in message


def test_cached_weights_need_no_network(monkeypatch, tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(6)
    state = timm.create_model("test_resnet", pretrained=False).state_dict()
    save_file(
        {name: value.contiguous() for name, value in state.items()}, tmp_path / "w.safetensors"
    )
    asked = []

    def cached(*question):
        asked.append(question)
        return str(tmp_path / "w.safetensors")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    backbone = build_backbone("test_resnet", pretrained=True)
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
    assert torch.equal(backbone.network.conv1[0].weight, state["conv1.0.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt50", "unknown encoder 'resnt50'; did you mean resnet50,"),
        ("zzz", "unknown encoder 'zzz'; a name of timm's is expected, for example resnet50"),
        ("resnet50.v7", r"unknown weights 'resnet50\.v7'; known: resnet50\.a1_in1k"),
        ("test_coatnet", "does not take images of any size"),
    ],
)
def test_an_encoder_that_cannot_be_had_is_explained(name, message):
    with pytest.raises(ConfigError, match=r"arch\.args\.backbone: .*" + message):
        build_backbone(name, pretrained=False)


def test_an_encoder_that_cannot_be_dilated_is_explained():
    with pytest.raises(
        ConfigError, match=r"densenet121 does not offer output_stride 8; docs/encoders\.md lists"
    ):
        build_backbone("densenet121", output_stride=8, pretrained=False)


def test_an_encoder_without_weights_is_explained():
    with pytest.raises(ConfigError, match="no pretrained weights exist for resnet10t_x") as error:
        weights.weights_of("resnet10t_x", pretrained=True)
    assert '"pretrained": false' in str(error.value)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("SegResNet", "SegResNet mirrors a ResNet; test_convnext is none; write resnet50"),
        ("DeepLab_DUC_HDC", "DeepLab_DUC_HDC dilates a ResNet; test_convnext is none"),
        ("PSPDenseNet", "PSPDenseNet works on a DenseNet; test_convnext is none"),
    ],
)
def test_a_network_that_needs_its_own_encoder_says_so(network, message):
    with pytest.raises(ConfigError, match=re.escape(f"arch.args.backbone: {message}")):
        build_small(network, backbone="test_convnext")


def test_a_feature_map_that_is_not_there_is_explained():
    backbone = build_backbone("test_convnext", pretrained=False)
    with pytest.raises(
        ConfigError, match="needs an encoder with features at stride 2; this one has 4"
    ):
        backbone.at_stride(2)

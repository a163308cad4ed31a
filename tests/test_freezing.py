"""Parameter groups, freezing, synchronized normalization, and what a config may say."""

import inspect

import pytest
import torch
from small_models import NETWORKS, VARIANTS, build_small, images, outputs_of
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models import MODELS
from utils.config.signatures import offered_arguments
from utils.hardware.parallel import convert_sync_batchnorm


@pytest.mark.parametrize("name", NETWORKS)
def test_parameter_groups_are_disjoint_and_complete(name):
    with torch.device("meta"):
        model = build_small(name)
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    decoder = {id(parameter) for parameter in model.decoder_parameters()}
    assert not backbone & decoder
    assert backbone | decoder == {id(parameter) for parameter in model.parameters()}
    assert decoder
    assert bool(backbone) == (name not in ("UNet", "ENet"))


@pytest.mark.parametrize(
    "name",
    ["SegResNet", "GCN", "DeepLab_DUC_HDC", "UperNet", "PSPDenseNet", "Linear", *VARIANTS],
)
def test_a_frozen_backbone_keeps_weights_and_statistics(name):
    model = build_small(name, freeze_backbone=True).eval().train()
    assert model.training
    assert not any(module.training for module in model.backbone.modules())
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    sum(output.square().sum() for output in outputs_of(model, images(64, 64))).backward()
    assert all(parameter.grad is None for parameter in model.backbone_parameters())
    assert all(parameter.grad is not None for parameter in model.decoder_parameters())
    after = model.backbone.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("sync", [False, True], ids=["plain", "sync"])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_frozen_batchnorm_keeps_statistics_and_learns_weights(backbone, sync):
    model = build_small("UNetResnet", backbone=backbone, freeze_bn=True)
    if sync:
        model = convert_sync_batchnorm(model)
    model.train()
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    assert layers
    assert all(isinstance(layer, nn.SyncBatchNorm) == sync for layer in layers)
    assert not any(layer.training for layer in layers)
    assert all(layer.weight.requires_grad for layer in layers)
    assert model.classifier.training


def test_synchronized_batchnorm_keeps_the_activations_of_the_encoder():
    model = build_small("UNetResnet", backbone="test_efficientnet").eval()
    batch = images(64, 64)
    with torch.no_grad():
        expected = model(batch)
        assert torch.allclose(convert_sync_batchnorm(model)(batch), expected, atol=1e-6)


def test_synchronized_batchnorm_without_an_encoder():
    model = convert_sync_batchnorm(build_small("ENet"))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "arguments", "note"),
    [
        ("UNet", {"pretrained": True}, "pretrained has no effect: UNet learns from scratch"),
        ("ENet", {"freeze_backbone": True}, "freeze_backbone has no effect: ENet has no backbone"),
    ],
)
def test_an_argument_without_effect_is_answered(name, arguments, note):
    (found,) = build_small(name, **arguments).notes
    assert note in found


def test_an_argument_with_an_effect_is_not_answered():
    with torch.device("meta"):
        model = build_small("SegNet", backbone="vgg16", freeze_bn=True, freeze_backbone=True)
    assert model.notes == ()  # its decoder has batch normalization


def test_freezing_batchnorm_where_there_is_none_is_answered():
    with torch.device("meta"):
        (note,) = build_small("FCN8", freeze_bn=True).notes
    assert note == "freeze_bn has no effect: this FCN8 has no batch normalization"


@pytest.mark.parametrize("name", MODELS)
def test_a_config_can_name_every_argument(name):
    parameters = inspect.signature(MODELS[name]).parameters
    kinds = {parameter.kind for key, parameter in parameters.items() if key != "num_classes"}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    assert all(argument.checker for argument in offered_arguments(MODELS[name]).values())
    assert {"in_channels", "pretrained", "freeze_bn", "freeze_backbone"} <= parameters.keys()
    assert MODELS[name].facts.small.keys() <= parameters.keys()

"""Optimizers by name, and the groups that a model's parameters form."""

import inspect

import pytest
import timm
import torch
from small_models import SMALL_SWIN, build_small
from timm.optim import param_groups_layer_decay
from torch import nn

from models.encoder_layers import layer_groups
from models.encoder_names import name_of
from utils.config.registry import choose
from utils.errors import ConfigError
from utils.optim.optimizers import OPTIMIZERS, build_optimizer


class TwoParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.decoder = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.GroupNorm(2, 4))

    def backbone_parameters(self):
        return self.backbone.parameters()

    def decoder_parameters(self):
        return self.decoder.parameters()


def chosen(name, args):
    return choose("optimizer", OPTIMIZERS, name, args)


def names(model, group):
    owner = {id(p): name for name, p in model.named_parameters()}
    return [owner[id(p)] for p in group["params"]]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_is_torchs_own_and_lowers_a_loss(name):
    model = TwoParts()
    optimizer = build_optimizer(model, chosen(name, {"lr": 0.01}))
    assert type(optimizer) is getattr(torch.optim, name)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(20):
        loss = (model.decoder(model.backbone(images)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("SGD", {"momentum": 0.8, "weight_decay": 0.02, "dampening": 0.1, "nesterov": False}),
        ("SGD", {"momentum": 0.8, "weight_decay": 0.02, "dampening": 0.0, "nesterov": True}),
        ("Adam", {"betas": (0.8, 0.9), "eps": 0.1, "weight_decay": 0.02, "amsgrad": True}),
        ("AdamW", {"betas": (0.8, 0.9), "eps": 0.1, "weight_decay": 0.02, "amsgrad": True}),
        ("NAdam", {"betas": (0.8, 0.9), "eps": 0.1, "weight_decay": 0.02}),
        ("RAdam", {"betas": (0.8, 0.9), "eps": 0.1, "weight_decay": 0.02}),
        (
            "RMSprop",
            {"alpha": 0.9, "eps": 0.1, "weight_decay": 0.02, "momentum": 0.8, "centered": True},
        ),
        ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.02, "eps": 0.1}),
    ],
)
def test_every_argument_arrives_in_torch(name, args):
    args = {"lr": 0.3, **args}
    assert set(args) == set(inspect.signature(OPTIMIZERS[name]).parameters) - {"params"}
    optimizer = build_optimizer(TwoParts(), chosen(name, args))
    assert {key: optimizer.param_groups[0][key] for key in args} == args


def test_one_group_holds_every_parameter_once():
    model = TwoParts()
    (group,) = build_optimizer(model, chosen("SGD", {"lr": 0.1})).param_groups
    assert sorted(names(model, group)) == sorted(name for name, _ in model.named_parameters())


def test_differential_rates_put_the_decoder_first_and_slow_the_backbone():
    model = TwoParts()
    optimizer = build_optimizer(
        model, chosen("SGD", {"lr": 0.1}), differential_lr=True, backbone_lr_factor=0.2
    )
    decoder, backbone = optimizer.param_groups
    assert all(name.startswith("decoder") for name in names(model, decoder))
    assert all(name.startswith("backbone") for name in names(model, backbone))
    assert decoder["lr"] == 0.1
    assert backbone["lr"] == pytest.approx(0.02)


def test_norms_and_biases_can_go_without_decay():
    model = TwoParts()
    optimizer = build_optimizer(
        model,
        chosen("AdamW", {"lr": 0.1, "weight_decay": 0.05}),
        differential_lr=True,
        no_decay_norm_bias=True,
    )
    assert [names(model, group) for group in optimizer.param_groups] == [
        ["decoder.0.weight"],
        ["backbone.0.weight"],
        ["decoder.1.weight", "decoder.1.bias"],
        ["backbone.0.bias", "backbone.1.weight", "backbone.1.bias"],
    ]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.05, 0, 0]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.01] * 2)


def test_position_tables_and_tokens_go_without_decay():
    model = TwoParts()
    model.backbone.pos_embed = nn.Parameter(torch.zeros(1, 4, 4))
    decayed, plain = build_optimizer(
        model, chosen("AdamW", {"lr": 0.1}), no_decay_norm_bias=True
    ).param_groups
    assert "backbone.pos_embed" in names(model, plain)
    assert names(model, decayed) == ["decoder.0.weight", "backbone.0.weight"]


@pytest.mark.parametrize("encoder", ["test_vit", "test_convnext", "pvt_v2_b0", SMALL_SWIN])
def test_layers_learn_at_the_rates_of_timm(encoder):
    model = build_small("Linear", backbone=encoder)
    optimizer = build_optimizer(
        model,
        chosen("AdamW", {"lr": 0.1, "weight_decay": 0.05}),
        differential_lr=True,
        backbone_lr_factor=0.5,
        layers=layer_groups(model, 0.7),
    )
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for name in names(model, group)
    }
    assert found.keys() == dict(model.named_parameters()).keys()
    with torch.device("meta"):
        whole = timm.create_model(name_of(encoder))
    owner = {id(p): name.replace(".", "_") for name, p in whole.named_parameters()}
    tables = whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else ()
    expected = {
        owner[id(p)]: (0.1 * 0.5 * group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(whole, 0.05, tables, layer_decay=0.7)
        for p in group["params"]
    }
    for name in found:
        if name.startswith("backbone."):
            own = name.removeprefix("backbone.network.").removeprefix("model.").replace(".", "_")
            assert found[name] == pytest.approx(expected[own]), name
    assert found["classifier.weight"] == (0.1, 0.05)
    assert found["classifier.bias"] == (0.1, 0)


def test_layers_are_asked_of_an_encoder_that_has_them():
    with pytest.raises(ConfigError, match=r"layer_decay: found 0\.7, and this UNet has no encoder"):
        layer_groups(build_small("UNet"), 0.7)


def test_frozen_parameters_are_left_out():
    model = TwoParts()
    model.backbone.requires_grad_(False)
    decoder, backbone = build_optimizer(
        model, chosen("SGD", {"lr": 0.1}), differential_lr=True
    ).param_groups
    assert len(decoder["params"]) == 3
    assert backbone["params"] == []


def test_what_has_a_fused_form_uses_it():
    fused = {
        name
        for name in OPTIMIZERS
        if build_optimizer(TwoParts(), chosen(name, {"lr": 0.1})).defaults.get("fused")
    }
    assert fused == {"SGD", "Adam", "AdamW"}


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("Adm", {"lr": 0.1}, "Adam"),
        ("SGD", {"lr": 0.1, "momentun": 0.9}, "momentum"),
        ("SGD", {"lr": -0.1}, "lr"),
        ("SGD", {}, "lr"),
        ("SGD", {"lr": 0.1, "nesterov": True}, r"nesterov: found true with momentum 0\.0"),
        ("Adam", {"lr": 0.1, "betas": [0.9, 1.0]}, "betas"),
    ],
)
def test_what_an_optimizer_does_not_take_is_named(name, args, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(TwoParts(), chosen(name, args))

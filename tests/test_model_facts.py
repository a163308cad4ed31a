"""What the papers say about sizes, and what a network sees."""

import inspect

import pytest
import torch
from small_models import build_small
from torch import nn

from models import MODELS
from models.blocks import unpool
from models.deeplab import DeepLab
from models.duc_hdc import DUC, hybrid_dilations
from models.enet import ENet
from models.fcn import bilinear_upsampling
from models.gcn import BoundaryRefinement, GlobalConvolution
from models.segnet import SegNet
from utils.errors import ConfigError

SIZES = [(name, size) for name, model in MODELS.items() for size in model.facts.sizes]


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_parameters_are_those_of_the_paper(name, size):
    takes = inspect.signature(MODELS[name]).parameters
    without = {"pretrained": False} if "backbone" in takes else {}
    with torch.device("meta"):
        model = MODELS[name](size.num_classes, **{**without, **size.arguments})
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(size.millions, rel=size.within), size.source


def test_every_network_says_how_large_it_must_be():
    assert {name for name, _ in SIZES} == set(MODELS)


def reach(model, size, pixel):
    """The pixels of a single-channel image that one output pixel depends on."""
    image = torch.ones(1, 1, *size, requires_grad=True)
    model(image)[0, :, pixel[0], pixel[1]].sum().backward()
    return image.grad[0, 0] != 0


def dilated(rates):
    layers = [nn.Conv2d(1, 1, 3, padding=rate, dilation=rate, bias=False) for rate in rates]
    for layer in layers:
        nn.init.ones_(layer.weight)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("rates", [(1, 2, 3), hybrid_dilations(4, 6)], ids=str)
def test_hybrid_dilations_leave_no_pixel_unseen(rates):
    side = 2 * sum(rates) + 1
    assert reach(dilated(rates), (side, side), (side // 2, side // 2)).all()


def test_the_same_dilation_throughout_sees_a_grid():
    seen = reach(dilated((2, 2, 2)), (13, 13), (6, 6))
    assert seen.sum() == 49
    assert seen[::2, ::2].all()


def test_the_whole_encoder_leaves_no_pixel_unseen_behind_its_stride():
    rates = (*hybrid_dilations(4, 23), *hybrid_dilations(5, 3))
    side = 2 * sum(rates) + 1
    assert reach(dilated(rates), (side, side), (side // 2, side // 2)).all()


def test_hybrid_dilations_are_those_of_the_paper():
    assert hybrid_dilations(4, 23) == (1, 2, 3) * 7 + (2, 2)
    assert hybrid_dilations(5, 3) == (3, 4, 5)


@pytest.mark.parametrize("backbone", ["resnetblur50", "resnetaa50", "resnet50d"])
def test_whatever_halves_a_map_in_the_last_stages_is_taken_out(backbone):
    network = build_small("DeepLab_DUC_HDC", backbone=backbone).backbone.network
    assert network.forward_features(torch.zeros(1, 3, 64, 72)).shape[2:] == (8, 9)


def test_hybrid_dilations_are_in_the_encoder():
    network = build_small("DeepLab_DUC_HDC", backbone="resnet50").backbone.network
    assert [block.conv2.dilation[0] for block in network.layer3] == [1, 2, 3, 1, 2, 3]
    assert [block.conv2.dilation[0] for block in network.layer4] == [3, 4, 5]
    assert network.forward_features(torch.zeros(1, 3, 64, 72)).shape[2:] == (8, 9)


@pytest.mark.parametrize("kernel", [3, 7, 11])
def test_a_global_convolution_sees_k_by_k(kernel):
    block = GlobalConvolution(1, 1, kernel)
    for parameter in block.parameters():
        nn.init.ones_(parameter)
    seen = reach(block, (31, 31), (15, 15))
    rows, columns = seen.nonzero().unbind(1)
    assert seen.sum() == kernel**2
    assert (rows.min(), rows.max()) == (15 - kernel // 2, 15 + kernel // 2)
    assert (columns.min(), columns.max()) == (15 - kernel // 2, 15 + kernel // 2)


def test_a_global_kernel_must_be_odd():
    with pytest.raises(ConfigError, match=r"arch\.args\.num_filters: 10 is even.*for example 11"):
        build_small("GCN", num_filters=10)


def test_gcn_blocks_need_a_residual_encoder():
    with pytest.raises(ConfigError, match="use_resnet_gcn: test_convnext is no ResNet"):
        build_small("GCN", backbone="test_convnext", use_resnet_gcn=True)


def test_gcn_blocks_are_the_decoder_s_to_train():
    model = build_small("GCN", use_resnet_gcn=True, freeze_backbone=True)
    assert len(model.gcn_stages[0]) == 6
    assert len(model.gcn_stages[1]) == 3
    assert all(parameter.requires_grad for parameter in model.gcn_stages.parameters())


def test_boundary_refinement_adds_to_the_scores():
    refine = BoundaryRefinement(2)
    nn.init.zeros_(refine.residual[2].weight)
    nn.init.zeros_(refine.residual[2].bias)
    scores = torch.randn(1, 2, 5, 5)
    assert torch.equal(refine(scores), scores)


def test_dense_upsampling_rearranges_channels_into_pixels():
    duc = DUC(4, 3, factor=8)
    x = torch.randn(1, 4, 2, 2)
    logits = duc(x)
    assert duc.conv.out_channels == 64 * 3
    assert logits.shape == (1, 3, 16, 16)
    assert logits[0, 1, 8 + 2, 5] == duc.conv(x)[0, 64 + 8 * 2 + 5, 1, 0]
    assert (logits < 0).any()


def test_upsampling_starts_bilinear():
    x = torch.rand(1, 3, 6, 6)
    for factor in (2, 8):
        with torch.no_grad():
            found = bilinear_upsampling(3, factor)(x)
        expected = nn.functional.interpolate(x, scale_factor=factor, mode="bilinear")
        assert found.shape == expected.shape
        inner = slice(factor, -factor)  # a transposed convolution has zeros beyond the border
        assert torch.allclose(found[..., inner, inner], expected[..., inner, inner], atol=1e-6)


def test_fcn_starts_from_the_coarse_scores_and_carries_the_fully_connected_layers():
    with torch.device("meta"):
        model = MODELS["FCN8"](21, pretrained=False)
    assert model.backbone.fc6.weight.shape == (4096, 512, 7, 7)
    assert model.backbone.fc7.weight.shape == (4096, 4096, 1, 1)
    names = {name for name, _ in model.named_parameters()}
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    new = {name for name, parameter in model.named_parameters() if id(parameter) not in backbone}
    assert new == {
        f"{part}.{kind}"
        for part in ("score_fc7", "score_pool4", "score_pool3")
        for kind in ("weight", "bias")
    } | {f"up_{part}.weight" for part in ("fc7", "pool4", "pool3")}
    assert new < names


def test_segnet_has_thirteen_convolutions_each_way():
    with torch.device("meta"):
        model = SegNet(11, pretrained=False)
    count = [
        sum(isinstance(m, nn.Conv2d) for m in part.modules())
        for part in (model.backbone, model.decoder)
    ]
    assert count == [13, 13]


def test_enet_follows_its_table():
    model = ENet(19)
    stage = [layer.extension[2] for layer in model.stage2]
    assert [layer.dilation[0] for layer in stage] == [1, 2, 1, 4, 1, 8, 1, 16]
    assert [layer.kernel_size for layer in stage] == [(3, 3), (3, 3), (5, 1)] + [(3, 3)] * 3 + [
        (5, 1),
        (3, 3),
    ]
    sizes = []
    hooks = [
        part.register_forward_hook(
            lambda _m, _i, output: sizes.append(
                output[0].shape if isinstance(output, tuple) else output.shape
            )
        )
        for part in (model.initial, model.down1, model.down2, model.stage3, model.up4, model.up5)
    ]
    model.eval()(torch.zeros(1, 3, 512, 512))
    for hook in hooks:
        hook.remove()
    assert [tuple(size[-3:]) for size in sizes] == [
        (16, 256, 256),
        (64, 128, 128),
        (128, 64, 64),
        (128, 64, 64),
        (64, 128, 128),
        (16, 256, 256),
    ]


def test_the_rates_of_the_aspp_follow_the_output_stride():
    for stride, rates in ((16, (6, 12, 18)), (8, (12, 24, 36))):  # DeepLabV3, Sec. 3.3
        model = build_small("DeepLab", output_stride=stride)
        found = [branch[0].dilation[0] for branch in list(model.aspp.branches)[1:4]]
        assert tuple(found) == rates


def test_deeplab_factors_its_convolutions_with_xception_only():
    with torch.device("meta"):
        xception, resnet = (
            DeepLab(2, backbone=name, pretrained=False) for name in ("xception", "resnet50")
        )
    assert xception.decoder.refine[0][0].groups == 304
    assert resnet.decoder.refine[0][0].groups == 1


def test_unpooled_values_are_sparse():
    winners = torch.tensor([[[[True, False], [False, False]]]])
    assert unpool(torch.tensor([[[[3.0]]]]), winners).tolist() == [[[[3.0, 0.0], [0.0, 0.0]]]]

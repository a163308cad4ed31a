"""Each network against its paper once more, written as plain functions of features and weights."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from small_models import build_small, images
from torch import nn

import models.fcn
from models import MODELS
from models.enet import ENet, PReLU


class Weights:
    """A network's tensors by name, and the operations that papers draw as boxes."""

    def __init__(self, model):
        self.state = model.state_dict()

    def conv(self, x, name, **options):
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, **options)

    def up(self, x, name, **options):
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        return F.conv_transpose2d(x, weight, bias, **options)

    def norm(self, x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{key}"] for key in keys))

    def cbr(self, x, name, *, padding=0, **options):
        """Convolution, batch normalization, ReLU."""
        return self.norm(self.conv(x, f"{name}.0", padding=padding, **options), f"{name}.1").relu()

    def prelu(self, x, name):
        slope = self.state[f"{name}.weight"].view(-1, 1, 1)
        return torch.where(x > 0, x, slope * x)


def prepared(model):
    """Nothing is 0 or 1 that could hide a missing layer, a missing bias or a missing branch."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.7, 1.3, generator=generator)
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        if isinstance(module, nn.BatchNorm2d | nn.Conv2d | nn.ConvTranspose2d):
            if module.bias is not None:
                module.bias.data.normal_(0, 0.3, generator=generator)
            if not module.weight.any():  # a scoring layer that starts at 0
                module.weight.data.normal_(0, 0.1, generator=generator)
    return model.eval()


def resize(x, like):
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


def agree(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


class FewWide(nn.Module):
    """VGG16 as far as FCN looks at it: its widths at the pools, and narrow in between."""

    def __init__(self, *_, **__):
        super().__init__()
        widths = (3, 8, 8, 256, 512, 512)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU())
            for before, after in itertools.pairwise(widths)
        )
        self.fc6 = nn.Conv2d(512, 8, 7, padding=3)
        self.fc7 = nn.Conv2d(8, 4096, 1)


@torch.no_grad()
def test_fcn8_adds_the_scores_of_two_pools_on_the_way_up(monkeypatch):
    monkeypatch.setattr(models.fcn, "VGG", FewWide)
    model = prepared(MODELS["FCN8"](5, pretrained=False))
    w, pools = Weights(model), []
    x = batch = images(64, 96)
    for stage in model.backbone.stages:
        x = F.max_pool2d(stage(x), 2)
        pools.append(x)
    x = w.conv(w.conv(x, "backbone.fc6", padding=3).relu(), "backbone.fc7").relu()
    x = w.conv(x, "score_fc7")
    x = w.up(x, "up_fc7", stride=2, padding=1) + w.conv(pools[3], "score_pool4")
    x = w.up(x, "up_pool4", stride=2, padding=1) + w.conv(pools[2], "score_pool3")
    agree(model(batch), w.up(x, "up_pool3", stride=8, padding=4))


def test_the_fully_connected_layers_of_fcn8_keep_the_size_of_the_map():
    with torch.device("meta"):
        fully = MODELS["FCN8"](2, pretrained=False).backbone
    assert fully.fc6(torch.empty(1, 512, 3, 5, device="meta")).shape == (1, 4096, 3, 5)
    assert fully.fc6.padding == (3, 3)


def test_fcn8_starts_from_the_coarse_scores(monkeypatch):
    monkeypatch.setattr(models.fcn, "VGG", FewWide)
    model = MODELS["FCN8"](5, pretrained=False)
    assert not model.score_pool3.weight.any()
    assert not model.score_pool4.weight.any()
    assert model.score_fc7.weight.all()


@torch.no_grad()
def test_unet_takes_its_skips_before_pooling():
    model = prepared(build_small("UNet"))
    w = Weights(model)

    def double(x, name):
        return w.cbr(w.cbr(x, f"{name}.0", padding=1), f"{name}.1", padding=1)

    batch = images(64, 96)
    skips = [double(batch, "start")]
    for level in range(4):
        skips.append(double(F.max_pool2d(skips[-1], 2), f"downs.{level}"))
    x = skips.pop()
    for level, skip in enumerate(reversed(skips)):
        up = w.up(x, f"ups.{level}.up", stride=2)
        x = double(torch.cat([skip, up], 1), f"ups.{level}.conv")
    agree(model(batch), w.conv(x, "classifier"))


@torch.no_grad()
def test_segnet_puts_values_back_where_the_maxima_were():
    model = prepared(build_small("SegNet"))
    w, places = Weights(model), []
    x = batch = images(64, 96)
    for stage in model.backbone.stages:
        x, place = F.max_pool2d(stage(x), 2, return_indices=True)
        places.append(place)
    for stage, count in enumerate((3, 3, 3, 2, 1)):
        x = F.max_unpool2d(x, places.pop(), 2)
        for layer in range(count):
            x = w.cbr(x, f"decoder.{stage}.{layer}", padding=1)
    agree(model(batch), w.conv(x, "decoder.4.1", padding=1))


class ENetByHand(Weights):
    """ENet's Table 1, row by row."""

    def norm_prelu(self, x, name):
        return self.prelu(self.norm(x, f"{name}.0"), f"{name}.1")

    def bottleneck(self, x, name, *middle):
        """`middle`: the options of the convolutions between the projections."""
        y = self.norm_prelu(self.conv(x, f"{name}.extension.0"), f"{name}.extension.1")
        for place, options in enumerate(middle, start=2):
            y = self.conv(y, f"{name}.extension.{place}", **options)
        after = 2 + len(middle)
        y = self.norm_prelu(y, f"{name}.extension.{after}")
        y = self.conv(y, f"{name}.extension.{after + 1}")
        y = self.norm(y, f"{name}.extension.{after + 2}")
        return self.prelu(x + y, f"{name}.activation")

    def down(self, x, name):
        pooled, places = F.max_pool2d(x, 2, return_indices=True)
        y = self.norm_prelu(self.conv(x, f"{name}.extension.1", stride=2), f"{name}.extension.2")
        y = self.norm_prelu(self.conv(y, f"{name}.extension.3", padding=1), f"{name}.extension.4")
        y = self.norm(self.conv(y, f"{name}.extension.5"), f"{name}.extension.6")
        more = torch.zeros_like(y[:, pooled.shape[1] :])
        return self.prelu(torch.cat([pooled, more], 1) + y, f"{name}.activation"), places

    def rise(self, x, name, places):
        main = self.norm(self.conv(x, f"{name}.reduce.0"), f"{name}.reduce.1")
        y = self.norm_prelu(self.conv(x, f"{name}.extension.0"), f"{name}.extension.1")
        y = self.up(y, f"{name}.extension.2", stride=2, padding=1, output_padding=1)
        y = self.norm_prelu(y, f"{name}.extension.3")
        y = self.norm(self.conv(y, f"{name}.extension.4"), f"{name}.extension.5")
        return self.prelu(F.max_unpool2d(main, places, 2) + y, f"{name}.activation")

    def context(self, x, name):
        plain, asymmetric = [{"padding": 1}], [{"padding": (2, 0)}, {"padding": (0, 2)}]
        dilated = ([{"padding": rate, "dilation": rate}] for rate in (2, 4, 8, 16))
        two, four, eight, sixteen = dilated
        rows = (plain, two, asymmetric, four, plain, eight, asymmetric, sixteen)
        for row, middle in enumerate(rows):
            x = self.bottleneck(x, f"{name}.{row}", *middle)
        return x

    def __call__(self, x):
        x = torch.cat(
            [self.conv(x, "initial.conv", stride=2, padding=1), F.max_pool2d(x, 2)], dim=1
        )
        x, first = self.down(self.norm_prelu(x, "initial.norm"), "down1")
        for row in range(4):
            x = self.bottleneck(x, f"stage1.{row}", {"padding": 1})
        x, second = self.down(x, "down2")
        x = self.rise(self.context(self.context(x, "stage2"), "stage3"), "up4", second)
        for row in range(2):
            x = self.bottleneck(x, f"stage4.{row}", {"padding": 1})
        x = self.bottleneck(self.rise(x, "up5", first), "stage5", {"padding": 1})
        return self.up(x, "fullconv", stride=2, padding=1, output_padding=1)


@torch.no_grad()
def test_enet_row_by_row():
    model = prepared(ENet(5))
    for module in model.modules():
        if isinstance(module, PReLU):
            module.weight.uniform_(0.1, 0.5)
    agree(model(images(128, 160)), ENetByHand(model)(images(128, 160)))


def test_enet_drops_little_before_its_second_stage_and_more_from_there_on():
    rates = {
        name: {m.p for m in part.modules() if isinstance(m, nn.Dropout2d)}
        for name, part in ENet(2).named_children()
    }
    early = {name for name, found in rates.items() if found == {0.01}}
    late = {name for name, found in rates.items() if found == {0.1}}
    assert early == {"down1", "stage1"}
    assert late == {"down2", "stage2", "stage3", "up4", "stage4", "up5", "stage5"}


def test_enet_s_activation_is_torch_s_in_training_too():
    ours, theirs = PReLU(3), nn.PReLU(3)
    results = []
    for layer in (ours.train(), theirs):
        layer.weight.data = torch.tensor([0.2, 0.5, -0.3])
        x = images(5, 6).requires_grad_()
        y = layer(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, layer.weight))))
    torch.testing.assert_close(*results)


@torch.no_grad()
def test_gcn_scores_with_both_orders_and_refines_every_step():
    model = prepared(build_small("GCN", num_filters=7))
    w, batch = Weights(model), images(64, 96)
    across, down = {"padding": (0, 3)}, {"padding": (3, 0)}

    def refined(x, name):
        y = w.conv(x, f"{name}.residual.0", padding=1).relu()
        return x + w.conv(y, f"{name}.residual.2", padding=1)

    def scored(x, name):
        left = w.conv(w.conv(x, f"{name}.0.left.0", **down), f"{name}.0.left.1", **across)
        right = w.conv(w.conv(x, f"{name}.0.right.0", **across), f"{name}.0.right.1", **down)
        return refined(left + right, f"{name}.1")

    features = model.backbone(batch)[-4:]
    *finer, x = (scored(feature, f"score.{place}") for place, feature in enumerate(features))
    for step, scores in enumerate(reversed(finer)):
        x = refined(resize(x, scores) + scores, f"refine.{step}")
    x = refined(resize(x, F.avg_pool2d(batch, 2)), "refine.3")
    agree(model(batch), refined(resize(x, batch), "refine.4"))


@pytest.mark.parametrize("separable", [False, True])
@torch.no_grad()
def test_deeplab_joins_its_five_branches_with_48_channels_of_stride_4(separable):
    model = prepared(build_small("DeepLab", separable=separable, output_stride=8))
    w, batch = Weights(model), images(64, 96)

    def conv3(x, name, rate=1):
        if not separable:
            return w.cbr(x, name, padding=rate, dilation=rate)
        x = w.cbr(x, name, padding=rate, dilation=rate, groups=x.shape[1])
        return w.cbr(x, f"{name}.3")

    features = model.backbone(batch)
    x, low = features[-1], next(f for f in features if f.shape[2] == batch.shape[2] // 4)
    dilated = [
        conv3(x, f"aspp.branches.{place}", rate) for place, rate in enumerate((12, 24, 36), start=1)
    ]
    pooled = w.cbr(F.adaptive_avg_pool2d(x, 1), "aspp.branches.4.conv").expand_as(dilated[0])
    x = w.cbr(torch.cat([w.cbr(x, "aspp.branches.0"), *dilated, pooled], 1), "aspp.project")
    low = w.cbr(low, "decoder.reduce")
    assert low.shape[1] == 48
    x = torch.cat([resize(x, low), low], 1)
    x = conv3(conv3(x, "decoder.refine.0"), "decoder.refine.1")
    agree(model(batch), resize(w.conv(x, "decoder.classifier"), batch))


@torch.no_grad()
def test_duc_adds_its_branches_and_rearranges_raw_scores():
    model = prepared(build_small("DeepLab_DUC_HDC"))
    w, batch = Weights(model), images(64, 96)
    x = model.backbone(batch)
    x = sum(
        w.cbr(x, f"aspp.branches.{place}", padding=rate, dilation=rate)
        for place, rate in enumerate((6, 12, 18, 24))
    )
    x = w.conv(x, "duc.conv", padding=1)
    count, _, height, width = x.shape
    x = x.view(count, 3, 8, 8, height, width).permute(0, 1, 4, 2, 5, 3)
    agree(model(batch), x.reshape(count, 3, 8 * height, 8 * width))
    assert [branch[0].dilation[0] for branch in model.aspp.branches] == [6, 12, 18, 24]


def pyramid(w, x, name, *, align_corners):
    levels = [x]
    for place, bins in enumerate((1, 2, 3, 6)):
        level = w.cbr(F.adaptive_avg_pool2d(x, bins), f"{name}.levels.{place}")
        levels.append(F.interpolate(level, x.shape[2:], None, "bilinear", align_corners))
    return w.cbr(torch.cat(levels, 1), f"{name}.fuse", padding=1)


@pytest.mark.parametrize("name", ["PSPNet", "PSPDenseNet"])
@torch.no_grad()
def test_psp_pools_a_pyramid_beside_the_features(name):
    model = prepared(build_small(name))
    w, batch = Weights(model), images(64, 96)
    x = pyramid(w, model.backbone(batch)[-1], "head.0", align_corners=True)
    agree(model(batch), resize(w.conv(x, "head.2"), batch))


def test_the_dilated_densenet_keeps_its_size_from_the_third_block_on():
    features = build_small("PSPDenseNet").backbone.features
    for block, rate in (("denseblock2", 1), ("denseblock3", 2), ("denseblock4", 4)):
        layers = list(getattr(features, block).children())
        assert {(layer.conv2.dilation, layer.conv2.padding) for layer in layers} == {
            ((rate, rate), (rate, rate))
        }
    x = images(8, 8, channels=features.transition2.conv.in_channels)
    assert features.transition2(x).shape[2:] == (8, 8)


@torch.no_grad()
def test_upernet_goes_back_up_and_fuses_all_levels():
    model = prepared(build_small("UperNet"))
    w, batch = Weights(model), images(64, 96)
    *finer, last = model.backbone(batch)[-4:]
    x = pyramid(w, last, "ppm", align_corners=False)
    levels = [x]
    for place in (2, 1, 0):
        lateral = w.cbr(finer[place], f"fpn.lateral.{place}")
        x = lateral + resize(x, lateral)
        levels.insert(0, w.cbr(x, f"fpn.smooth.{place}", padding=1))
    x = w.cbr(torch.cat([resize(level, levels[0]) for level in levels], 1), "fpn.fuse", padding=1)
    agree(model(batch), resize(w.conv(x, "classifier"), batch))


@pytest.mark.parametrize("name", ["PSPNet", "PSPDenseNet", "UperNet"])
@torch.no_grad()
def test_the_auxiliary_head_scores_the_stage_before_the_last(name):
    model = prepared(build_small(name))
    w, batch = Weights(model), images(64, 96)
    stage = model.backbone(batch)[-2]
    x = w.conv(w.cbr(stage, "aux.conv", padding=1), "aux.classifier")
    model.training = True  # of the network alone: its layers stay in eval mode
    agree(model(batch)[1], resize(x, batch))

"""The shared parts against torch's own operations."""

import pytest
import torch
import torch.nn.functional as F

from models.blocks import (
    Dropout,
    PyramidPooling,
    bin_averages,
    conv_bn_relu,
    crop,
    cut,
    halve,
    halve_with_winners,
    initialize,
    resize,
    resize_logits,
    unpool,
)
from models.deeplab import ASPP


def features(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(1, 1), (4, 5), (6, 6), (13, 17)], ids=str)
def test_bin_averages_equal_adaptive_pooling(size):
    x = features(2, 5, *size).double().requires_grad_()
    bins = (1, 2, 3, 6)
    found = bin_averages(x, bins)
    expected = [F.adaptive_avg_pool2d(x, b) for b in bins]
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    weights = [torch.randn_like(average) for average in found]
    gradients = [
        torch.autograd.grad(sum((w * a).sum() for w, a in zip(weights, averages, strict=True)), x)[
            0
        ]
        for averages in (found, expected)
    ]
    assert torch.allclose(*gradients, atol=1e-6)


def test_bin_averages_do_not_overflow_in_half_precision():
    x = torch.full((1, 2, 128, 256), 60000.0, dtype=torch.float16)
    assert all((average == 60000).all() for average in bin_averages(x, (1, 2, 3, 6)))


@pytest.mark.parametrize("size", [(8, 6), (32, 64)], ids=str)
def test_unpooling_equals_max_unpooling_on_even_sizes(size):
    x = features(2, 3, *size).relu()  # with ties
    pooled, winners = halve_with_winners(x)
    expected, indices = F.max_pool2d(x, 2, return_indices=True)
    values = torch.randn_like(pooled)
    assert torch.equal(pooled, expected)
    assert torch.equal(unpool(values, winners), F.max_unpool2d(values, indices, 2))


@pytest.mark.parametrize("size", [(7, 9), (33, 34), (1, 1)], ids=str)
def test_unpooling_puts_each_maximum_where_it_was_on_odd_sizes(size):
    x = features(2, 3, *size)
    pooled, winners = halve_with_winners(x)
    assert pooled.shape[2:] == tuple((length + 1) // 2 for length in size)
    assert torch.equal(pooled, halve(x))
    assert winners.shape == x.shape
    assert winners.sum() == pooled.numel()
    assert torch.equal(unpool(pooled, winners), x * winners)


@pytest.mark.parametrize("length", [1, 2, 33, 64, 1999])
@pytest.mark.parametrize("surplus", [0, 1])
def test_cutting_equals_slicing(length, surplus):
    x = features(1, 2, length + surplus, 4)
    assert torch.equal(cut(x, (length, 4)), x[:, :, :length])


def test_cropping_equals_slicing():
    x = features(1, 2, 5000, 16)
    assert torch.equal(crop(x, (4993, 9)), x[:, :, :4993, :9])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_convolution_of_stride_one_keeps_the_size(kernel, dilation, stride):
    conv = conv_bn_relu(3, 4, kernel, stride=stride, dilation=dilation)
    assert conv(features(2, 3, 17, 19)).shape == (2, 4, -(-17 // stride), -(-19 // stride))


def test_new_layers_start_as_he_et_al_have_it():
    conv, norm, _ = layers = conv_bn_relu(64, 128)
    for parameter in layers.parameters():
        torch.nn.init.constant_(parameter, 7)
    initialize(layers)
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()


def test_resizing_treats_pixels_as_areas():
    x = torch.tensor([[[[0.0, 1.0]]]])
    assert resize(x, (1, 4)).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]
    assert torch.allclose(resize(x, (1, 4), align_corners=True).flatten(), torch.linspace(0, 1, 4))


def test_logits_in_half_precision_are_resized_in_float32():
    logits = features(1, 3, 4, 4).bfloat16()
    assert torch.equal(resize_logits(logits, (9, 7)), resize(logits.float(), (9, 7)))
    assert resize_logits(logits.double(), (9, 7)).dtype == torch.float64


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    ("module", "joined"),
    [
        (lambda: PyramidPooling(8, 4), "fuse"),
        (lambda: ASPP(8, rates=(2, 4), separable=False, channels=4), "project"),
    ],
    ids=["PyramidPooling", "ASPP"],
)
def test_a_pooled_pixel_does_not_change_the_layout_of_what_it_joins(module, joined, layout):
    network, seen = module().to(memory_format=layout), []
    getattr(network, joined).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(features(2, 8, 12, 12).to(memory_format=layout))
    assert seen[0].is_contiguous(memory_format=layout)


def test_pyramid_pooling_sees_the_whole_image():
    pool = PyramidPooling(8, 4).eval()
    for parameter in pool.parameters():
        torch.nn.init.ones_(parameter)  # so that no ReLU hides anything
    x = features(1, 8, 12, 12).abs().requires_grad_()
    pool(x)[0, :, 0, 0].sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (5, 8), (9, 7)], ids=str)
def test_resizing_is_torchs_own_to_the_same_size_too(size, align_corners):
    x = features(2, 3, 5, 7)
    expected = F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
    assert torch.equal(resize(x, size, align_corners=align_corners), expected)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dropout_keeps_the_expected_share_and_scales_it(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(3, 5, 41, 37, dtype=dtype).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    y = Dropout(p)(x)
    kept = y > 0
    # Six standard deviations of a binomial distribution.
    assert abs(float(kept.float().mean()) - (1 - p)) <= 6 * (p * (1 - p) / x.numel()) ** 0.5
    assert torch.allclose(y[kept].float(), torch.tensor(1 / (1 - p)), rtol=2**-8)
    y.sum().backward()
    assert torch.equal(x.grad, y)
    assert y.stride() == x.stride()
    assert torch.equal(Dropout(p).eval()(x), x)


def test_dropout_draws_each_value_by_itself():
    torch.manual_seed(0)
    kept = (Dropout(0.3)(torch.ones(100_001)) > 0).double()
    for lag in range(1, 9):  # four values come of one draw
        correlation = torch.corrcoef(torch.stack([kept[lag:], kept[:-lag]]))[0, 1]
        assert abs(float(correlation)) < 6 / 100_000**0.5


def test_dropout_is_a_function_of_torchs_seed():
    x = torch.ones(2, 16, 33, 30)
    masks = []
    for seed, threads in ((0, 1), (0, 2), (1, 1)):
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        masks.append(Dropout(0.5)(x))
    torch.set_num_threads(1)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])

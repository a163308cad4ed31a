"""Depthwise convolutions on a CPU: gradients as exact as in float32, nothing else changed."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn
from training import plain_config, trainer_of

from models import MODELS
from utils.hardware.depthwise import DepthwiseConv2d, replace_depthwise
from utils.hardware.precision import autocast
from utils.optim.ema import ExponentialMovingAverage

CPU = torch.device("cpu")
CASES = {
    "5x5": {"kernel_size": 5, "padding": 2},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "dilated": {"kernel_size": 3, "padding": 6, "dilation": 6},
    "two sizes, bias": {"kernel_size": (1, 7), "padding": (0, 1), "bias": True},
    "two strides": {"kernel_size": (3, 5), "padding": (1, 2), "stride": (2, 1)},
    "padded more than its kernel": {"kernel_size": 5, "padding": (5, 0)},
}


def convolution(kind=nn.Conv2d, *, bias=False, **options):
    torch.manual_seed(0)
    return kind(8, 8, groups=8, bias=bias, **options)


def gradients(conv, x, above, precision):
    """Of input and parameters, for a gradient above that bfloat16 holds exactly."""
    conv.zero_grad()
    x = x.clone().requires_grad_()
    with autocast(CPU, precision):
        y = conv(x)
    y.backward(above.to(y.dtype))
    return [x.grad, *(parameter.grad for parameter in conv.parameters())]


def errors(found, exact):
    pairs = zip(found, exact, strict=True)
    return [float((ours.double() - right).norm() / right.norm()) for ours, right in pairs]


@pytest.mark.parametrize("options", CASES.values(), ids=list(CASES))
def test_gradients_in_bf16_are_as_exact_as_in_fp32(options):
    conv = convolution(**options)
    x = torch.randn(2, 8, 13, 18).contiguous(memory_format=torch.channels_last)
    above = torch.randn_like(conv(x)).bfloat16()
    exact = gradients(copy.deepcopy(conv).double(), x.double(), above, "fp32")
    plain = errors(gradients(conv, x, above, "fp32"), exact)
    ours = errors(gradients(DepthwiseConv2d(conv, same=False), x, above, "bf16"), exact)
    rounded = errors(gradients(conv, x, above, "bf16"), exact)
    assert all(own <= 2 * fp32 + 1e-7 for own, fp32 in zip(ours, plain, strict=True))
    assert min(rounded[:2]) > 1e-4  # what autocast gives input and weight otherwise


def test_an_input_in_bf16_gets_its_gradient_rounded_once():
    conv = convolution(kernel_size=5, padding=2)
    x = torch.randn(2, 8, 9, 9).bfloat16()
    above = torch.randn(2, 8, 9, 9).bfloat16()
    exact = gradients(copy.deepcopy(conv).double(), x.double(), above, "fp32")
    found = gradients(DepthwiseConv2d(conv, same=False), x, above, "bf16")
    assert found[0].dtype == torch.bfloat16
    assert torch.allclose(found[0].double(), exact[0], rtol=2**-8, atol=1e-5)
    assert errors(found[1:], exact[1:])[0] < 1e-6


@pytest.mark.parametrize("size", [(14, 14), (15, 18)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_timms_padding_is_kept(size, precision):
    theirs = convolution(Conv2dSame, kernel_size=5, stride=2)
    ours = DepthwiseConv2d(theirs, same=True)
    x = torch.randn(2, 8, *size)
    with autocast(CPU, precision):
        assert torch.equal(ours(x), theirs(x))


def test_only_what_is_slow_is_replaced():
    encoder = timm.create_model("tf_efficientnet_lite0", features_only=True, output_stride=16)
    slow = {
        name
        for name, part in encoder.named_modules()
        if name.endswith("conv_dw")
        and (part.kernel_size[0] == 5 or part.stride[0] == 2 or part.dilation[0] == 2)
    }
    keys = list(encoder.state_dict())
    replace_depthwise(encoder)
    found = {name for name, part in encoder.named_modules() if isinstance(part, DepthwiseConv2d)}
    assert found == slow
    assert len(found) == 12
    assert list(encoder.state_dict()) == keys


@pytest.mark.parametrize(
    "options", [{"padding": "same"}, {"padding": 2, "padding_mode": "reflect"}], ids=str
)
def test_other_kinds_of_padding_stay_torchs(options):
    model = nn.Sequential(convolution(kernel_size=5, **options))
    replace_depthwise(model)
    assert type(model[0]) is nn.Conv2d


def mobile_config(folder, **trainer):
    config = plain_config(folder, **trainer)
    args = {"backbone": "test_efficientnet", "pretrained": False, "separable": True}
    config["arch"] = {"type": "DeepLab", "args": args}
    return config


def test_a_placed_model_has_its_weights_under_the_same_names(tmp_path):
    config = mobile_config(tmp_path, precision="bf16")
    placed = trainer_of(config).model.eval()
    assert any(isinstance(part, DepthwiseConv2d) for part in placed.modules())
    model = MODELS["DeepLab"](placed.num_classes, **config["arch"]["args"]).eval()
    model.load_state_dict(placed.state_dict())
    assert list(model.state_dict()) == list(placed.state_dict())
    images = torch.randn(1, 3, 40, 48).contiguous(memory_format=torch.channels_last)
    model.to(memory_format=torch.channels_last)
    with torch.no_grad(), autocast(CPU, "bf16"):
        assert torch.equal(placed(images), model(images))


def test_the_averaged_model_computes_with_its_own_weights():
    model = nn.Sequential(convolution(kernel_size=5, padding=2))
    replace_depthwise(model)
    x = torch.randn(1, 8, 9, 9)
    before = model(x)
    average = ExponentialMovingAverage(model, 0.9)
    nn.init.zeros_(model[0].weight)
    assert torch.equal(average.model(x), before)
    assert not model(x).any()


def test_a_frozen_convolution_hands_on_the_gradient_alone():
    conv = convolution(kernel_size=5, padding=2).requires_grad_(requires_grad=False)
    x = torch.randn(1, 8, 9, 9, requires_grad=True)
    DepthwiseConv2d(conv, same=False)(x).sum().backward()
    expected = torch.autograd.grad(F.conv2d(x, conv.weight, None, 1, 2, 1, 8).sum(), x)[0]
    assert torch.allclose(x.grad, expected)
    assert conv.weight.grad is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_is_the_eager_step():
    model = nn.Sequential(convolution(kernel_size=5, padding=2, stride=2))
    replace_depthwise(model)
    x, above = torch.randn(2, 8, 9, 9), torch.randn(2, 8, 5, 5).bfloat16()
    eager = gradients(model, x, above, "bf16")
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(gradients(compiled, x, above, "bf16"), eager, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)

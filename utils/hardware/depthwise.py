"""Depthwise convolutions on a CPU: gradients in the format of the weights, by fast kernels.

In bfloat16 oneDNN has slow kernels for the weight gradient of 5x5 and larger (four times float32's
time), the input gradient of strided ones (up to twenty times) and both of dilated ones: most of a
training step of a mobile encoder. The forward pass is fast and stays as it is.
"""

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseConv2d(nn.Module):
    """A depthwise convolution whose gradients are computed in the format of its weight.

    Args:
        conv: What it stands for, with one filter a channel; it has the same parameters.
        same: Whether images are padded as TensorFlow does ("same"), by their size.
    """

    def __init__(self, conv: nn.Conv2d, *, same: bool) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.options, self.same = (conv.stride, conv.padding, conv.dilation), same

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C, H', W')`` in autocast's format."""
        if self.same:
            from timm.layers import pad_same

            stride, _, dilation = self.options
            x = pad_same(x, list(self.weight.shape[2:]), list(stride), list(dilation))
        return _Convolution.apply(x, self.weight, self.bias, self.options)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: tuple) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options = options
        return F.conv2d(x, weight, bias, *options, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.options
        above, groups = gradients[0].to(weight.dtype), len(weight)
        x_wanted, *others = ctx.needs_input_grad[:3]
        sides = zip(dilation, weight.shape[2:], padding, strict=True)
        around = [step * (size - 1) - pad for step, size, pad in sides]
        turned = x_wanted and max(stride) == 1 and min(around) >= 0
        wanted = [x_wanted and not turned, *others]
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            above, x.to(weight.dtype), weight, [groups], *ctx.options, False, [0, 0], groups, wanted
        )
        if turned:  # a convolution too, with the weight turned by 180 degrees: fast if dilated
            of_x = torch.ops.aten.convolution(
                above, weight.flip(2, 3), None, stride, around, dilation, False, [0, 0], groups
            )
        return of_x, of_weight, of_bias, None


def replace_depthwise(model: nn.Module) -> None:
    """Replace, in place, the depthwise convolutions with slow gradients; names stay."""
    kinds: dict[type, bool] = {nn.Conv2d: False}
    if "timm" in sys.modules:
        from timm.layers import Conv2dSame

        kinds[Conv2dSame] = True
    for parent in list(model.modules()):
        for name, conv in parent.named_children():
            if type(conv) in kinds and isinstance(conv, nn.Conv2d) and _is_slow(conv):
                parent.set_submodule(name, DepthwiseConv2d(conv, same=kinds[type(conv)]))


def _is_slow(conv: nn.Conv2d) -> bool:
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    large, spread = max(conv.kernel_size) > 3, max(*conv.stride, *conv.dilation) > 1
    return depthwise and plain and (large or spread)

"""Depthwise convolutions on a CPU: gradients in the format of the weights, by fast kernels.

In bfloat16 oneDNN has no fast kernel for the weight gradient of 5x5 and larger (four times the time
of float32), for the input gradient of strided ones (up to twenty times) and for both of dilated
ones: most of a training step of a mobile encoder. The forward pass is fast and stays as it is.
"""

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseConv2d(nn.Module):
    """A depthwise convolution whose gradients are computed in the format of its weight.

    It has one filter a channel.

    Args:
        conv: The convolution that it stands for; its parameters are taken under their names.
        same: Whether images are padded as TensorFlow does ("same"), by their size.
    """

    def __init__(self, conv: nn.Conv2d, *, same: bool) -> None:
        super().__init__()
        self.weight = conv.weight
        self.bias = conv.bias
        self.options = (conv.stride, conv.padding, conv.dilation, conv.groups)
        self.same = same

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', H', W')`` in autocast's format."""
        if self.same:
            from timm.layers import pad_same

            stride, _, dilation, _ = self.options
            x = pad_same(x, list(self.weight.shape[2:]), list(stride), list(dilation))
        return _Convolution.apply(x, self.weight, self.bias, self.options)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: tuple) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options = options
        return F.conv2d(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        above = gradients[0].to(weight.dtype)
        around = [
            d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)
        ]
        turns = max(stride) == 1 and min(around) >= 0
        wanted, *others = ctx.needs_input_grad[:3]
        x_gradient, *own_gradients = torch.ops.aten.convolution_backward(
            above,
            x.to(weight.dtype),
            weight,
            [weight.shape[0]],
            stride,
            padding,
            dilation,
            False,  # not transposed
            [0, 0],
            groups,
            [wanted and not turns, *others],
        )
        if wanted and turns:
            # A convolution too, with the weight turned by 180 degrees: fast if dilated as well.
            x_gradient = torch.ops.aten.convolution(
                above, weight.flip(2, 3), None, stride, around, dilation, False, [0, 0], groups
            )
        return x_gradient, *own_gradients, None


def replace_depthwise(model: nn.Module) -> None:
    """Replace the depthwise convolutions that are slow; names and parameters stay as they are.

    Args:
        model: Changed in place.
    """
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
    return depthwise and (max(conv.kernel_size) > 3 or max(*conv.stride, *conv.dilation) > 1)

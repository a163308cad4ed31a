"""ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation.

Adam Paszke, Abhishek Chaurasia, Sangpil Kim, Eugenio Culurciello, 2016,
https://arxiv.org/abs/1606.02147

Idea: shrink the image early and keep few channels, so that most of the work happens on small maps.
All the rest is residual bottlenecks, some with dilated or asymmetric convolutions for context. A
small decoder only upsamples, guided by the places where the encoder's maxima were.

Differences from the paper:
- An odd size is rounded up when it is halved and cut back when it is doubled, so that any image
  works; at multiples of 8 nothing changes.
- The decoder's convolutions are followed by PReLU, as Sec. 3 has it for the whole network.

Parameters at 19 classes: 0.37 M in the paper (Table 3), 0.365 M here.
"""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from base.base_model import BaseModel, Facts, Size
from models.blocks import Probability, cut, halve, halve_with_winners, initialize, unpool


def _conv(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int],
    *,
    stride: int = 1,
    dilation: int = 1,
) -> nn.Conv2d:
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (dilation * (height // 2), dilation * (width // 2))
    # Without bias, as all of the paper's projections (Sec. 3): normalization has one.
    return nn.Conv2d(
        in_channels, out_channels, (height, width), stride, padding, dilation, bias=False
    )


class PReLU(nn.PReLU):
    """torch's PReLU with loops of its own on a CPU.

    torch's gradient branches at every value there, and its bfloat16 is slow below 32 channels.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is torch's)
        """Keep the shape ``(N, C, H, W)``."""
        # A compiler writes loops of its own, and an exported graph has the operator.
        if input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        n, channels, height, width = input.shape
        if input.is_contiguous(memory_format=torch.channels_last):
            rows = input.permute(0, 2, 3, 1).reshape(n * height, width * channels)
            rows = _PReLU.apply(rows, self.weight.repeat(width).to(input.dtype))
            return rows.view(n, height, width, channels).permute(0, 3, 1, 2)
        slopes = self.weight.repeat_interleave(height * width).to(input.dtype)
        return _PReLU.apply(input.reshape(n, -1), slopes).view(input.shape)


class _PReLU(torch.autograd.Function):
    """PReLU of a matrix with a slope for each column: long rows make fast loops."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(x, slopes)
        return torch.ops.aten._prelu_kernel(x, slopes)  # F.prelu without autocast

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,), (x, slopes) = gradients, ctx.saved_tensors
        positive = torch.ops.aten.threshold_backward(gradient, x, 0)  # 0 where x <= 0
        return positive.lerp_(gradient, slopes), x.clamp_max(0).mul_(gradient).sum(0)


def _norm_prelu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), PReLU(channels))


class Initial(nn.Module):
    """Fig. 2a: a strided convolution beside max pooling, 16 channels at half size."""

    def __init__(self, in_channels: int, out_channels: int = 16) -> None:
        super().__init__()
        self.conv = _conv(in_channels, out_channels - in_channels, 3, stride=2)
        self.norm = _norm_prelu(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, 16, ceil(H/2), ceil(W/2))``."""
        features = self.conv(x)
        # In the convolution's format: autocast would give float32 to all that is added to this.
        return self.norm(torch.cat([features, halve(x).to(features.dtype)], dim=1))


class Bottleneck(nn.Module):
    """Fig. 2b: 1x1 projection, a convolution, 1x1 expansion, added to the identity."""

    def __init__(
        self, channels: int, *, dropout: float, dilation: int = 1, asymmetric: bool = False
    ) -> None:
        super().__init__()
        inner = channels // 4
        if asymmetric:  # 5x1 and 1x5, Sec. 3
            middle = nn.Sequential(_conv(inner, inner, (5, 1)), _conv(inner, inner, (1, 5)))
        else:
            middle = nn.Sequential(_conv(inner, inner, 3, dilation=dilation))
        self.extension = nn.Sequential(
            _conv(channels, inner, 1),
            _norm_prelu(inner),
            *middle,
            _norm_prelu(inner),
            _conv(inner, channels, 1),
            nn.BatchNorm2d(channels),
            nn.Dropout2d(dropout),
        )
        self.activation = PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``(N, C, H, W)``."""
        return self.activation(x + self.extension(x))


class DownBottleneck(nn.Module):
    """Fig. 2b with downsampling: the identity is max-pooled and zero-padded to more channels."""

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float) -> None:
        super().__init__()
        inner = out_channels // 4
        self.padding = out_channels - in_channels
        self.extension = nn.Sequential(
            # One row and column of zeros whatever the size: reached only where it is odd.
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(in_channels, inner, 2, stride=2, bias=False),
            _norm_prelu(inner),
            _conv(inner, inner, 3),
            _norm_prelu(inner),
            _conv(inner, out_channels, 1),
            nn.BatchNorm2d(out_channels),
            nn.Dropout2d(dropout),
        )
        self.activation = PReLU(out_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Halve ``(N, C, H, W)``; also return where the maxima were, for the decoder."""
        pooled, winners = halve_with_winners(x)
        main = F.pad(pooled, (0, 0, 0, 0, 0, self.padding))
        return self.activation(main + self.extension(x)), winners


class UpBottleneck(nn.Module):
    """Fig. 2b with upsampling: the identity is reduced by a 1x1 convolution and unpooled."""

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float) -> None:
        super().__init__()
        inner = out_channels // 4
        self.reduce = nn.Sequential(
            _conv(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels)
        )
        self.extension = nn.Sequential(
            _conv(in_channels, inner, 1),
            _norm_prelu(inner),
            _double(inner, inner),
            _norm_prelu(inner),
            _conv(inner, out_channels, 1),
            nn.BatchNorm2d(out_channels),
            nn.Dropout2d(dropout),
        )
        self.activation = PReLU(out_channels)

    def forward(self, x: Tensor, winners: Tensor) -> Tensor:
        """Double ``(N, C, h, w)`` to the size of ``winners``."""
        main = unpool(self.reduce(x), winners)
        return self.activation(main + cut(self.extension(x), winners.shape[2:]))


def _double(in_channels: int, out_channels: int, *, bias: bool = False) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(
        in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=bias
    )


def _context(dropout: float) -> nn.Sequential:
    """Build bottlenecks 2.1 to 2.8 of Table 1, and 3.1 to 3.8."""
    return nn.Sequential(
        Bottleneck(128, dropout=dropout),
        Bottleneck(128, dropout=dropout, dilation=2),
        Bottleneck(128, dropout=dropout, asymmetric=True),
        Bottleneck(128, dropout=dropout, dilation=4),
        Bottleneck(128, dropout=dropout),
        Bottleneck(128, dropout=dropout, dilation=8),
        Bottleneck(128, dropout=dropout, asymmetric=True),
        Bottleneck(128, dropout=dropout, dilation=16),
    )


class ENet(BaseModel):
    """ENet as in Table 1 of the paper.

    Args:
        num_classes: Classes to tell apart.
        in_channels: Channels of the images, at most 15: the initial block has 16.
        pretrained: Accepted and noted: no weights exist.
        freeze_bn: Keep the statistics of batch normalization.
        freeze_backbone: Accepted and noted: there is no backbone.
        dropout: Spatial dropout before and from stage 2 on (Sec. 3).
    """

    facts = Facts(
        paper="ENet, 2016",
        arxiv="1606.02147",
        strides="8",
        encoders="its own",
        sizes=(Size(19, {}, 0.37, "ENet, Table 3"),),
    )

    def __init__(
        self,
        num_classes: Annotated[int, Ge(1)],
        *,
        in_channels: Annotated[int, Ge(1), Le(15)] = 3,
        pretrained: bool | str = False,
        freeze_bn: bool = False,
        freeze_backbone: bool = False,
        dropout: tuple[Probability, Probability] = (0.01, 0.1),
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels)
        early, late = dropout
        self.initial = Initial(in_channels)
        self.down1 = DownBottleneck(16, 64, dropout=early)
        self.stage1 = nn.Sequential(*(Bottleneck(64, dropout=early) for _ in range(4)))
        self.down2 = DownBottleneck(64, 128, dropout=late)
        self.stage2 = _context(late)
        self.stage3 = _context(late)
        self.up4 = UpBottleneck(128, 64, dropout=late)
        self.stage4 = nn.Sequential(*(Bottleneck(64, dropout=late) for _ in range(2)))
        self.up5 = UpBottleneck(64, 16, dropout=late)
        self.stage5 = Bottleneck(16, dropout=late)
        self.fullconv = _double(16, num_classes, bias=True)
        initialize(self)
        self.finish(freeze_bn=freeze_bn, freeze_backbone=freeze_backbone, pretrained=pretrained)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, num_classes, H, W)`` of images ``(N, in_channels, H, W)``."""
        x = self.initial(images)  # 1/2
        x, winners1 = self.down1(x)  # 1/4
        x, winners2 = self.down2(self.stage1(x))  # 1/8
        x = self.stage3(self.stage2(x))
        x = self.stage4(self.up4(x, winners2))  # 1/4
        x = self.stage5(self.up5(x, winners1))  # 1/2
        return cut(self.fullconv(x), images.shape[2:])

"""Understanding Convolution for Semantic Segmentation (DUC and HDC).

Panqu Wang, Pengfei Chen, Ye Yuan, Ding Liu, Zehua Huang, Xiaodi Hou, Garrison Cottrell, WACV 2018,
https://arxiv.org/abs/1702.08502

Idea: dense upsampling convolution (DUC) predicts, from each cell of a map of stride d, all d x d
pixels below it as channels, which are then only rearranged: it learns what bilinear upsampling
loses. Hybrid dilated convolution (HDC) varies the dilation from block to block, so that together
they look at every pixel, where one and the same rate leaves a grid of pixels unseen.

Differences from the paper:
- The branches of the ASPP (rates 6, 12, 18, 24) give 256 channels each, are added, and one DUC
  follows. In the paper each branch ends in d^2 x classes channels of its own, which at 150 classes
  alone is 700 M parameters.
- A map of a size that is no multiple of 8 is rounded up, and the surplus cropped from the logits.

Parameters at 19 classes with ResNet-101: the paper gives none; the ancestor has 69.18 M, 64.18 M
here, since the decoder of DeepLabV3+ that the ancestor adds is not in the paper.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from base.base_model import BaseModel, Facts, Size
from models.backbones import build_timm
from models.blocks import conv_bn_relu, crop, initialize
from models.encoder_names import Encoder, name_of
from utils.errors import ConfigError

ASPP_RATES = (6, 12, 18, 24)


def hybrid_dilations(stage: int, blocks: int) -> tuple[int, ...]:
    """Return the dilation of each block of a dilated ResNet stage ("Dilation-RF", Sec. 4.1).

    Args:
        stage: 4 or 5, as the paper counts (res4b, res5b).
        blocks: How many blocks the stage has.

    Returns:
        res4b: groups of 1, 2, 3, the remainder 2; res5b: 3, 4, 5.
    """
    if stage == 4:
        return (1, 2, 3) * (blocks // 3) + (2,) * (blocks % 3)
    return tuple(min(3 + block, 5) for block in range(blocks))


class HDCResNet(nn.Module):
    """A timm ResNet of stride 8 whose last two stages have hybrid dilations.

    Attributes:
        channels: Width of the features.
    """

    channels: int

    def __init__(self, encoder: str | Encoder, *, in_channels: int, pretrained: bool | str) -> None:
        super().__init__()
        network: Any = build_timm(
            encoder, in_channels=in_channels, pretrained=pretrained, options={"num_classes": 0}
        )
        if not all(hasattr(network, part) for part in ("maxpool", "layer3", "layer4")):
            raise ConfigError(
                f"arch.args.backbone: DeepLab_DUC_HDC dilates a ResNet; "
                f"{name_of(encoder)} is none; write resnet101"
            )
        for stage, layer in ((4, network.layer3), (5, network.layer4)):
            for block, dilation in zip(layer, hybrid_dilations(stage, len(layer)), strict=True):
                _dilate(block, dilation)
        self.network = network
        self.channels = network.num_features

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, channels, ceil(H/8), ceil(W/8))``."""
        return self.network.forward_features(images)


def _dilate(block: nn.Module, dilation: int) -> None:
    """Take the stride from a residual block and dilate its 3x3 convolutions."""
    for name, module in list(block.named_modules()):
        if not isinstance(module, nn.Conv2d) and getattr(module, "stride", 1) == 2 and name:
            block.set_submodule(name, nn.Identity())  # a ResNet-D's pool, a blur
        elif isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (dilation, dilation)


class ASPP(nn.Module):
    """Parallel dilated convolutions, added, as in DeepLabV2, https://arxiv.org/abs/1606.00915."""

    def __init__(
        self, in_channels: int, out_channels: int, *, rates: Sequence[int] = ASPP_RATES
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            conv_bn_relu(in_channels, out_channels, dilation=rate) for rate in rates
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, h, w)`` to ``(N, out_channels, h, w)``."""
        first, *others = self.branches
        total = first(x)
        for branch in others:
            total = total + branch(x)
        return total


class DUC(nn.Module):
    """Dense upsampling convolution (Sec. 3.1): factor^2 x classes channels, rearranged to pixels.

    These channels are the logits: neither normalization nor ReLU follows.
    """

    def __init__(self, in_channels: int, num_classes: int, *, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, num_classes * factor**2, 3, padding=1)
        nn.init.normal_(self.conv.weight, std=0.01)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, h, w)`` to ``(N, num_classes, factor * h, factor * w)``."""
        return F.pixel_shuffle(self.conv(x), self.factor)


class DeepLab_DUC_HDC(BaseModel):  # noqa: N801 - the name that configs have
    """ResNet-DUC-HDC.

    Args:
        num_classes: Classes to tell apart.
        in_channels: Channels of the images.
        backbone: A ResNet of timm's.
        pretrained: True, False, or the path of the encoder's weight file.
        output_stride: Stride of the features, and the factor of the DUC.
        freeze_bn: Keep the statistics of batch normalization.
        freeze_backbone: Keep the encoder as it is.
    """

    facts = Facts(
        paper="DUC and HDC, 2018",
        arxiv="1702.08502",
        strides="8",
        encoders="ResNets",
        small={"backbone": "test_resnet"},
        sizes=(Size(19, {}, 64.18, "predecessor: 69.18 M", within=0.003),),
    )

    def __init__(
        self,
        num_classes: Annotated[int, Ge(1)],
        *,
        in_channels: Annotated[int, Ge(1)] = 3,
        backbone: str | Encoder = "resnet101",
        pretrained: bool | str = True,
        output_stride: Literal[8] = 8,
        freeze_bn: bool = False,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels)
        self.backbone = HDCResNet(backbone, in_channels=in_channels, pretrained=pretrained)
        self.aspp = ASPP(self.backbone.channels, 256)
        initialize(self.aspp)
        self.duc = DUC(256, num_classes, factor=output_stride)
        self.finish(freeze_bn=freeze_bn, freeze_backbone=freeze_backbone, pretrained=pretrained)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, num_classes, H, W)`` of images ``(N, in_channels, H, W)``."""
        x = self.aspp(self.backbone(images))  # 1/8
        return crop(self.duc(x), images.shape[2:])

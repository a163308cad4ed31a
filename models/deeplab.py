"""Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation (DeepLabV3+).

Liang-Chieh Chen, Yukun Zhu, George Papandreou, Florian Schroff, Hartwig Adam, ECCV 2018,
https://arxiv.org/abs/1802.02611

Idea: the last features of a dilated encoder are looked at with several dilation rates at once and
as one average over the image (ASPP). A small decoder joins the result with features of stride 4,
of which only 48 channels are kept so that they do not outweigh it. Convolutions of the new parts
are factored into a depthwise and a pointwise one where the encoder is Xception, or where asked.

Differences from the paper:
- The encoder is any of timm's; `xception` is its modified aligned Xception with 16 middle blocks
  (Fig. 4), `resnet101` its other one.
- Dropout of 0.5 after the ASPP, as in the authors' code, and 0.1 before the classifier, as in the
  ancestor of this project.

Parameters at 19 classes: the paper gives none. 40.35 M with ResNet-50, as in the ancestor; with
Xception 41.06 M here, 54.71 M with `separable` false, which is the ancestor's 54.70 M.
"""

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from base.base_model import BaseModel, Facts, Size
from models.backbones import build_backbone
from models.blocks import (
    Dropout,
    classifier,
    conv_bn_relu,
    initialize,
    laid_out_as,
    resize,
    resize_logits,
)
from models.encoder_names import Encoder, timm_name

ATROUS_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Dilation rates by output stride: DeepLabV3, https://arxiv.org/abs/1706.05587, Sec. 3.3."""


def separable_conv(in_channels: int, out_channels: int, *, dilation: int = 1) -> nn.Sequential:
    """Build a 3x3 depthwise and a 1x1 convolution, each with normalization and ReLU (Sec. 3.1)."""
    depthwise = nn.Conv2d(
        in_channels, in_channels, 3, 1, dilation, dilation, groups=in_channels, bias=False
    )
    return nn.Sequential(
        depthwise,
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        conv_bn_relu(in_channels, out_channels, 1),
    )


def _conv3(
    in_channels: int, out_channels: int, *, separable: bool, dilation: int = 1
) -> nn.Sequential:
    if separable:
        return separable_conv(in_channels, out_channels, dilation=dilation)
    return conv_bn_relu(in_channels, out_channels, dilation=dilation)


class ImagePooling(nn.Module):
    """The branch of ASPP that averages over the whole image."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv_bn_relu(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, h, w)`` to ``(N, out_channels, h, w)``, constant over h, w."""
        return self.conv(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3, image pooling; then 1x1 to 256."""

    def __init__(
        self, in_channels: int, *, rates: tuple[int, ...], separable: bool, channels: int = 256
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(in_channels, channels, 1),
                *(
                    _conv3(in_channels, channels, separable=separable, dilation=rate)
                    for rate in rates
                ),
                ImagePooling(in_channels, channels),
            ]
        )
        self.project = conv_bn_relu(len(self.branches) * channels, channels, 1)
        self.dropout = Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, h, w)`` to ``(N, 256, h, w)``."""
        joined = torch.cat([laid_out_as(branch(x), x) for branch in self.branches], dim=1)
        return self.dropout(self.project(joined))


class Decoder(nn.Module):
    """Fig. 2, right: 48 channels of stride 4 beside the upsampled ASPP, two 3x3 convolutions."""

    def __init__(
        self, low_channels: int, num_classes: int, *, separable: bool, channels: int = 256
    ) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(low_channels, 48, 1)
        self.refine = nn.Sequential(
            _conv3(channels + 48, channels, separable=separable),
            _conv3(channels, channels, separable=separable),
            Dropout(0.1),
        )
        initialize(self)
        self.classifier = classifier(channels, num_classes)

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        """Join ``(N, 256, h, w)`` and ``(N, low_channels, H, W)`` to logits of the latter size."""
        low = self.reduce(low)
        joined = torch.cat([resize(x, low.shape[2:]), low], dim=1)
        return self.classifier(self.refine(joined))


class DeepLab(BaseModel):
    """DeepLabV3+ on any encoder that timm can dilate.

    Args:
        num_classes: Classes to tell apart.
        in_channels: Channels of the images.
        backbone: A timm name, or `{"name": ..., "img_size": ..., "drop_path_rate": ...}`.
        pretrained: True, False, or the path of the encoder's weight file.
        output_stride: Stride of the deepest features; sets the rates of the ASPP.
        separable: Whether ASPP and decoder factor their 3x3 convolutions; null as in the paper:
            with Xception only (Sec. 4.3).
        freeze_bn: Keep the statistics of batch normalization.
        freeze_backbone: Keep the encoder as it is.
    """

    facts = Facts(
        paper="DeepLabV3+, 2018",
        arxiv="1802.02611",
        strides="8, 16",
        encoders="any of timm's that can be dilated",
        small={"backbone": "test_resnet"},
        sizes=(
            Size(19, {"separable": False}, 54.70, "predecessor"),
            Size(19, {"backbone": "resnet50"}, 40.35, "predecessor"),
            Size(19, {"backbone": "resnet101"}, 59.34, "predecessor"),
        ),
    )

    def __init__(
        self,
        num_classes: Annotated[int, Ge(1)],
        *,
        in_channels: Annotated[int, Ge(1)] = 3,
        backbone: str | Encoder = "xception",
        pretrained: bool | str = True,
        output_stride: Literal[8, 16] = 16,
        separable: bool | None = None,
        freeze_bn: bool = False,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels)
        self.backbone = build_backbone(
            backbone,
            in_channels=in_channels,
            output_stride=output_stride,
            pretrained=pretrained,
        )
        self.low_index = self.backbone.at_stride(4)
        if separable is None:
            separable = timm_name(backbone).startswith("xception")
        channels = self.backbone.channels
        self.aspp = ASPP(channels[-1], rates=ATROUS_RATES[output_stride], separable=separable)
        initialize(self.aspp)
        self.decoder = Decoder(channels[self.low_index], num_classes, separable=separable)
        self.finish(
            freeze_bn=freeze_bn,
            freeze_backbone=freeze_backbone,
            pretrained=pretrained,
            pooled_batchnorm=True,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, num_classes, H, W)`` of images ``(N, in_channels, H, W)``."""
        features = self.backbone(images)
        x = self.aspp(features[-1])  # 1/16 or 1/8
        x = self.decoder(x, features[self.low_index])  # 1/4
        return resize_logits(x, images.shape[2:])

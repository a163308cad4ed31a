"""U-Net: Convolutional Networks for Biomedical Image Segmentation.

Olaf Ronneberger, Philipp Fischer, Thomas Brox, MICCAI 2015, https://arxiv.org/abs/1505.04597

Idea: a contracting path doubles the channels as it halves the map, an expanding path mirrors it.
Each step up takes the map of the same size from the way down, before it was pooled, and so
recovers where things are. Two 3x3 convolutions a step are all there is.

Differences from the paper:
- Convolutions are padded, so that the logits have the image's size and skips are not cropped.
- Batch normalization after each convolution instead of their biases; the paper predates it.
- No dropout at the end of the contracting path (Sec. 3.1), as in the ancestor of this project.
- An odd size is rounded up when it is halved and cut back when it is doubled.

Parameters at 2 classes: 31.0 M in the paper's layout (64..1024), 31.04 M here.
"""

from itertools import zip_longest
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from base.base_model import BaseModel, Facts, Size
from models.backbones import build_backbone
from models.blocks import classifier, conv_bn_relu, cut, halve, initialize, resize, resize_logits
from models.encoder_names import Encoder
from models.pyramid import Pyramid

DECODER_WIDTHS = (192, 128, 96, 64, 48, 32)
"""UNetResnet's widths at strides 32, 16, 8, 4, 2 and 1."""


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions: one step of either path (Fig. 1)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            conv_bn_relu(in_channels, out_channels), conv_bn_relu(out_channels, out_channels)
        )


class Up(nn.Module):
    """One step of the expanding path: 2x2 up-convolution, concatenation, two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.conv = DoubleConv(2 * channels, channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join ``(N, 2c, ceil(H/2), ceil(W/2))`` and the skip ``(N, c, H, W)`` to the latter."""
        x = cut(self.up(x), skip.shape[2:])
        return self.conv(torch.cat([skip, x], dim=1))


class UNet(BaseModel):
    """The U-Net of Fig. 1.

    Args:
        num_classes: Classes to tell apart.
        in_channels: Channels of the images.
        pretrained: Accepted and noted: no weights exist.
        freeze_bn: Keep the statistics of batch normalization.
        freeze_backbone: Accepted and noted: there is no backbone.
        base_channels: Channels at full size; doubled at each of four halvings (paper: 64).
    """

    facts = Facts(
        paper="U-Net, 2015",
        arxiv="1505.04597",
        strides="16",
        encoders="its own",
        small={"base_channels": 8},
        sizes=(Size(2, {}, 31.0, "the layers of U-Net, Fig. 1"),),
    )

    def __init__(
        self,
        num_classes: Annotated[int, Ge(1)],
        *,
        in_channels: Annotated[int, Ge(1)] = 3,
        pretrained: bool | str = False,
        freeze_bn: bool = False,
        freeze_backbone: bool = False,
        base_channels: Annotated[int, Ge(1)] = 64,
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels)
        widths = [base_channels * 2**level for level in range(5)]
        self.start = DoubleConv(in_channels, widths[0])
        self.downs = nn.ModuleList(DoubleConv(width, 2 * width) for width in widths[:-1])
        self.ups = nn.ModuleList(Up(width) for width in reversed(widths[:-1]))
        initialize(self)
        self.classifier = classifier(widths[0], num_classes)
        self.finish(freeze_bn=freeze_bn, freeze_backbone=freeze_backbone, pretrained=pretrained)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, num_classes, H, W)`` of images ``(N, in_channels, H, W)``."""
        x = self.start(images)
        skips = []
        for down in self.downs:  # 1/2 .. 1/16
            skips.append(x)
            x = down(halve(x))
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(x, skip)
        return self.classifier(x)


class UpSkip(nn.Module):
    """One step up on an encoder of any kind: double the map, join the skip, one convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, skip_channels: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )
        self.conv = conv_bn_relu(out_channels + skip_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Join ``(N, in_channels, h, w)`` and ``(N, skip_channels, H, W)`` at the latter's size."""
        x = self.up(x)
        if skip is not None:
            # Not a cut: encoders differ in whether they round an odd size up or down.
            x = torch.cat([skip, resize(x, skip.shape[2:])], dim=1)
        return self.conv(x)


class UNetResnet(BaseModel):
    """U-Net on a pretrained encoder, a variation of which there is no paper.

    Its decoder has the ancestor's widths, with the nonlinearities that were missing there, on an
    encoder with all its skips. Parameters at 19 classes with ResNet-50: 30.00 M in
    the ancestor, 29.91 M here.

    Args:
        num_classes: Classes to tell apart.
        in_channels: Channels of the images.
        backbone: A timm name, or `{"name": ..., "img_size": ..., "drop_path_rate": ...}`.
        pretrained: True, False, or the path of the encoder's weight file.
        freeze_bn: Keep the statistics of batch normalization.
        freeze_backbone: Keep the encoder as it is.
    """

    facts = Facts(
        paper="U-Net on an encoder",
        arxiv="1505.04597",
        strides="32",
        encoders="any of timm's for any image size",
        small={"backbone": "test_resnet"},
        sizes=(Size(19, {}, 30.00, "predecessor"),),
    )

    def __init__(
        self,
        num_classes: Annotated[int, Ge(1)],
        *,
        in_channels: Annotated[int, Ge(1)] = 3,
        backbone: str | Encoder = "resnet50",
        pretrained: bool | str = True,
        freeze_bn: bool = False,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels)
        self.backbone = build_backbone(backbone, in_channels=in_channels, pretrained=pretrained)
        self.pyramid = Pyramid(self.backbone)
        *skips, last = self.pyramid.channels
        # Strides 16, 8, 4, 2, 1; an encoder may have nothing to skip to at the last ones.
        skip_channels = [*reversed(skips), 0, 0, 0, 0][: len(DECODER_WIDTHS) - 1]
        self.center = conv_bn_relu(last, DECODER_WIDTHS[0])
        self.ups = nn.ModuleList(
            UpSkip(width, narrower, skip_channels=skip)
            for width, narrower, skip in zip(
                DECODER_WIDTHS[:-1], DECODER_WIDTHS[1:], skip_channels, strict=True
            )
        )
        initialize(self.center, self.ups)
        self.classifier = classifier(DECODER_WIDTHS[-1], num_classes)
        self.finish(
            freeze_bn=freeze_bn,
            freeze_backbone=freeze_backbone,
            pretrained=pretrained,
            batchnorm_stride=int(self.pyramid.strides[-1]),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, num_classes, H, W)`` of images ``(N, in_channels, H, W)``."""
        size = images.shape[2:]
        *skips, last = self.pyramid(self.backbone(images), size)  # 1/2 (or 1/4) .. 1/16; 1/32
        x = self.center(last)
        for up, skip in zip_longest(self.ups, reversed(skips)):
            x = up(x, skip)
        return resize_logits(self.classifier(x), size)

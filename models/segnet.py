"""SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation.

Vijay Badrinarayanan, Alex Kendall, Roberto Cipolla, PAMI 2017, https://arxiv.org/abs/1511.00561

Idea: the encoder is the 13 convolutions of VGG16, the decoder their mirror image. Where a map was
max-pooled, the encoder remembers where each maximum was; the decoder puts its values back at these
places instead of learning to upsample. That keeps boundaries sharp at almost no memory.

`SegResNet` is the ancestor's variation of it on a residual encoder, mirrored block by block.

Differences from the paper (SegNet):
- An odd size is rounded up when it is pooled and cut back when it is unpooled.
- The last convolution has neither normalization nor ReLU, as logits must be free to be negative.

Parameters at 11 classes: SegNet 29.5 M in the paper (as ENet's Table 3 quotes it), 29.45 M here.
SegResNet has no paper; the ancestor's has 53.56 M at 19 classes with ResNet-50, ours 55.30 M (3.2 %
more): the shortcut of each doubling block is a 2x2 transposed convolution.
"""

from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor, nn

from base.base_model import BaseModel, Facts, Size
from models.backbones import build_timm
from models.blocks import conv_bn_relu, cut, halve_with_winners, initialize, unpool
from models.encoder_names import Encoder, name_of
from models.vgg import VGG, VGGName
from utils.errors import ConfigError


class SegNet(BaseModel):
    """SegNet on VGG16.

    Args:
        num_classes: Classes to tell apart.
        in_channels: Channels of the images.
        backbone: VGG16 with batch normalization as in the paper, or without.
        pretrained: True, False, or the path of the encoder's weight file.
        freeze_bn: Keep the statistics of batch normalization.
        freeze_backbone: Keep the encoder as it is.
    """

    facts = Facts(
        paper="SegNet, 2017",
        arxiv="1511.00561",
        strides="32",
        encoders="vgg16, vgg16_bn",
        sizes=(Size(11, {}, 29.5, "quoted in ENet, Table 3"),),
    )

    def __init__(
        self,
        num_classes: Annotated[int, Ge(1)],
        *,
        in_channels: Annotated[int, Ge(1)] = 3,
        backbone: VGGName = "vgg16_bn",
        pretrained: bool | str = True,
        freeze_bn: bool = False,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels)
        self.backbone = VGG(
            backbone, in_channels=in_channels, pretrained=pretrained, fully_connected=False
        )
        self.decoder = nn.ModuleList(
            [
                _mirror(512, 512, convolutions=3),
                _mirror(512, 256, convolutions=3),
                _mirror(256, 128, convolutions=3),
                _mirror(128, 64, convolutions=2),
                nn.Sequential(conv_bn_relu(64, 64), nn.Conv2d(64, num_classes, 3, padding=1)),
            ]
        )
        initialize(self.decoder)
        self.finish(freeze_bn=freeze_bn, freeze_backbone=freeze_backbone, pretrained=pretrained)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, num_classes, H, W)`` of images ``(N, in_channels, H, W)``."""
        x = images
        places = []
        for stage in self.backbone.stages:  # 1/2 .. 1/32
            x, winners = halve_with_winners(stage(x))
            places.append(winners)
        for stage, winners in zip(self.decoder, reversed(places), strict=True):
            x = stage(unpool(x, winners))
        return x


def _mirror(in_channels: int, out_channels: int, *, convolutions: int) -> nn.Sequential:
    """Mirror one stage of the encoder: its last convolution is the one that changes the width."""
    same = (conv_bn_relu(in_channels, in_channels) for _ in range(convolutions - 1))
    return nn.Sequential(*same, conv_bn_relu(in_channels, out_channels))


class MirrorBlock(nn.Module):
    """A residual bottleneck, run backwards: it narrows the features and may double their map."""

    def __init__(self, in_channels: int, out_channels: int, *, double: bool = False) -> None:
        super().__init__()
        inner = in_channels // 4
        self.branch = nn.Sequential(
            conv_bn_relu(in_channels, inner, 1),
            _double(inner, inner) if double else conv_bn_relu(inner, inner),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels and not double
            else (
                nn.Sequential(
                    nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2, bias=False)
                    if double
                    else nn.Conv2d(in_channels, out_channels, 1, bias=False),
                    nn.BatchNorm2d(out_channels),
                )
            )
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, h, w)`` to ``(N, out_channels, h, w)`` or ``(N, out_channels, 2h, 2w)``."""
        return self.relu(self.branch(x) + self.shortcut(x))


def _double(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(
            in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class ResNetStages(nn.Module):
    """The stem of a timm ResNet without its pooling, and its four stages.

    Attributes:
        stem: Convolution, normalization, activation; stride 2.
        stages: Four sequences of blocks.
        channels: Width of the stem and of each stage.
    """

    def __init__(self, encoder: str | Encoder, *, in_channels: int, pretrained: bool | str) -> None:
        super().__init__()
        network: Any = build_timm(
            encoder, in_channels=in_channels, pretrained=pretrained, options={"num_classes": 0}
        )
        if not all(hasattr(network, part) for part in ("conv1", "bn1", "maxpool", "layer4")):
            raise ConfigError(
                f"arch.args.backbone: SegResNet mirrors a ResNet; {name_of(encoder)} is none; "
                "write resnet50"
            )
        self.stem = nn.Sequential(network.conv1, network.bn1, network.act1)
        self.stages = nn.ModuleList(
            [network.layer1, network.layer2, network.layer3, network.layer4]
        )
        self.channels = tuple(info["num_chs"] for info in network.feature_info)


class SegResNet(BaseModel):
    """SegNet's idea on a residual encoder.

    The stem pools 2x2 instead of the ResNet's overlapping 3x3, so that each maximum has one place
    to go back to.

    Args:
        num_classes: Classes to tell apart.
        in_channels: Channels of the images.
        backbone: A ResNet of timm's.
        pretrained: True, False, or the path of the encoder's weight file.
        freeze_bn: Keep the statistics of batch normalization.
        freeze_backbone: Keep the encoder as it is.
    """

    facts = Facts(
        paper="SegNet on a ResNet",
        arxiv="1511.00561",
        strides="32",
        encoders="ResNets",
        small={"backbone": "test_resnet"},
        sizes=(Size(19, {}, 55.30, "predecessor: 53.56 M", within=0.003),),
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
        self.backbone = ResNetStages(backbone, in_channels=in_channels, pretrained=pretrained)
        widths = self.backbone.channels
        self.decoder = nn.ModuleList()
        for level in (4, 3, 2, 1):
            blocks = len(self.backbone.stages[level - 1])  # pyrefly: ignore[bad-argument-type]
            same = (MirrorBlock(widths[level], widths[level]) for _ in range(blocks - 1))
            narrow = MirrorBlock(widths[level], widths[level - 1], double=level > 1)
            self.decoder.append(nn.Sequential(*same, narrow))
        self.unstem = _double(widths[0], widths[0])
        self.classifier = nn.Conv2d(widths[0], num_classes, 3, padding=1)
        initialize(self.decoder, self.unstem, self.classifier)
        self.finish(
            freeze_bn=freeze_bn,
            freeze_backbone=freeze_backbone,
            pretrained=pretrained,
            batchnorm_stride=32,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, num_classes, H, W)`` of images ``(N, in_channels, H, W)``."""
        x, winners = halve_with_winners(self.backbone.stem(images))
        sizes = []
        for stage in self.backbone.stages:  # 1/4 .. 1/32
            sizes.append(x.shape[2:])
            x = stage(x)
        for stage, size in zip(self.decoder, reversed(sizes), strict=True):
            x = cut(stage(x), size)
        x = self.unstem(unpool(x, winners))
        return self.classifier(cut(x, images.shape[2:]))

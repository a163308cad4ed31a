"""Pyramid Scene Parsing Network.

Hengshuang Zhao, Jianping Shi, Xiaojuan Qi, Xiaogang Wang, Jiaya Jia, CVPR 2017,
https://arxiv.org/abs/1612.01105

Idea: what a pixel is depends on the scene, so the features are averaged over the whole image and
over 2x2, 3x3 and 6x6 regions of it. These averages are set beside the features of a dilated encoder
of stride 8 before the pixels are classified. A second classifier on the stage before the last helps
a deep encoder to learn and is dropped afterwards.

Differences from the paper:
- The encoder is any of timm's that can be dilated; the paper's deep-stem ResNet is `resnet50s`,
  `resnet101s` or `resnet152s` by timm's names, while `resnet50` and the like have a 7x7 stem.
- The auxiliary head's width, on which the paper is silent, is a quarter of the encoder's width
  (512 for a ResNet-50), as in the ancestor of this project.

Parameters at 19 classes, training heads included: the paper gives none; the ancestor has 51.44 M
with ResNet-50 (deep stem), 51.32 M here with `resnet50`.
"""

from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor, nn

from base.base_model import BaseModel, Facts, Size
from models.backbones import OutputStride, build_backbone, build_timm
from models.blocks import FCNHead, PyramidPooling, classifier, resize_logits
from models.encoder_names import Encoder, name_of
from utils.errors import ConfigError


class PSPHead(nn.Sequential):
    """Pyramid pooling over 1, 2, 3 and 6 regions a side, dropout, classifier (Fig. 3c, d)."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        # The authors' networks upsample the pyramid's levels corner to corner.
        channels = in_channels // 4
        super().__init__(
            PyramidPooling(in_channels, channels, align_corners=True),
            nn.Dropout2d(0.1),
            classifier(channels, num_classes),
        )


class PSPNet(BaseModel):
    """PSPNet on any encoder that timm can dilate.

    Args:
        num_classes: Classes to tell apart.
        in_channels: Channels of the images.
        backbone: A timm name, or `{"name": ..., "img_size": ..., "drop_path_rate": ...}`.
        pretrained: True, False, or the path of the encoder's weight file.
        use_aux: Whether to return auxiliary logits in training (Sec. 4).
        output_stride: Stride of the deepest features (paper: 8).
        freeze_bn: Keep the statistics of batch normalization.
        freeze_backbone: Keep the encoder as it is.
    """

    facts = Facts(
        paper="PSPNet, 2017",
        arxiv="1612.01105",
        strides="8, 16, 32",
        encoders="any of timm's that can be dilated or has that stride",
        small={"backbone": "test_resnet"},
        auxiliary=1,
        sizes=(
            Size(19, {"backbone": "resnet18"}, 12.92, "predecessor"),
            Size(19, {"backbone": "resnet50"}, 51.44, "predecessor"),
            Size(19, {"backbone": "resnet50s"}, 51.44, "predecessor"),
            Size(19, {"backbone": "resnet101"}, 70.44, "predecessor"),
            Size(19, {}, 86.08, "predecessor"),
        ),
    )

    def __init__(
        self,
        num_classes: Annotated[int, Ge(1)],
        *,
        in_channels: Annotated[int, Ge(1)] = 3,
        backbone: str | Encoder = "resnet152",
        pretrained: bool | str = True,
        use_aux: bool = True,
        output_stride: OutputStride = 8,
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
        aux_channels, channels = self.backbone.channels[-2:]
        self.head = PSPHead(channels, num_classes)
        self.aux = FCNHead(aux_channels, num_classes, channels=channels // 4) if use_aux else None
        self.finish(
            freeze_bn=freeze_bn,
            freeze_backbone=freeze_backbone,
            pretrained=pretrained,
            pooled_batchnorm=True,
        )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return logits ``(N, num_classes, H, W)``, in training with the auxiliary ones."""
        size = images.shape[2:]
        *_, before_last, last = self.backbone(images)  # both at 1/output_stride
        logits = resize_logits(self.head(last), size)
        if self.aux is None or not self.training:
            return logits
        return logits, resize_logits(self.aux(before_last), size)


class DilatedDenseNet(nn.Module):
    """A timm DenseNet of stride 8: the last two poolings are left out, what follows is dilated.

    Attributes:
        channels: Width of the features before the last block, and of the last ones.
    """

    channels: tuple[int, int]

    def __init__(self, encoder: str | Encoder, *, in_channels: int, pretrained: bool | str) -> None:
        super().__init__()
        network: Any = build_timm(
            encoder, in_channels=in_channels, pretrained=pretrained, options={"num_classes": 0}
        )
        if not hasattr(getattr(network, "features", None), "denseblock4"):
            raise ConfigError(
                f"arch.args.backbone: PSPDenseNet works on a DenseNet; "
                f"{name_of(encoder)} is none; write "
                "densenet121, densenet161, densenet169 or densenet201"
            )
        self.features = network.features
        for transition in (self.features.transition2, self.features.transition3):
            transition.pool = nn.Identity()
        for block, dilation in ((self.features.denseblock3, 2), (self.features.denseblock4, 4)):
            for layer in block.children():
                layer.conv2.dilation = layer.conv2.padding = (dilation, dilation)
        self.channels = (self.features.transition3.conv.out_channels, network.num_features)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features before the last block and the last ones, both at 1/8."""
        x = images
        before_last = x
        for name, part in self.features.named_children():
            x = part(x)
            if name == "transition3":
                before_last = x
        return before_last, x


class PSPDenseNet(BaseModel):
    """PSPNet on a dilated DenseNet, a variation of which there is no paper.

    Args:
        num_classes: Classes to tell apart.
        in_channels: Channels of the images.
        backbone: A DenseNet of timm's.
        pretrained: True, False, or the path of the encoder's weight file.
        use_aux: Whether to return auxiliary logits in training.
        freeze_bn: Keep the statistics of batch normalization.
        freeze_backbone: Keep the encoder as it is.
    """

    facts = Facts(
        paper="PSPNet on a DenseNet",
        arxiv="1612.01105",
        strides="8",
        encoders="DenseNets",
        small={"backbone": "densenet121"},
        auxiliary=1,
        sizes=(
            Size(19, {"backbone": "densenet121"}, 13.94, "predecessor"),
            Size(19, {}, 42.29, "predecessor"),
        ),
    )

    def __init__(
        self,
        num_classes: Annotated[int, Ge(1)],
        *,
        in_channels: Annotated[int, Ge(1)] = 3,
        backbone: str | Encoder = "densenet201",
        pretrained: bool | str = True,
        use_aux: bool = True,
        freeze_bn: bool = False,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels)
        self.backbone = DilatedDenseNet(backbone, in_channels=in_channels, pretrained=pretrained)
        aux_channels, channels = self.backbone.channels
        self.head = PSPHead(channels, num_classes)
        self.aux = FCNHead(aux_channels, num_classes, channels=channels // 4) if use_aux else None
        self.finish(
            freeze_bn=freeze_bn,
            freeze_backbone=freeze_backbone,
            pretrained=pretrained,
            pooled_batchnorm=True,
        )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return logits ``(N, num_classes, H, W)``, in training with the auxiliary ones."""
        size = images.shape[2:]
        before_last, last = self.backbone(images)
        logits = resize_logits(self.head(last), size)
        if self.aux is None or not self.training:
            return logits
        return logits, resize_logits(self.aux(before_last), size)

"""Unified Perceptual Parsing for Scene Understanding (UPerNet).

Tete Xiao, Yingcheng Liu, Bolei Zhou, Yuning Jiang, Jian Sun, ECCV 2018,
https://arxiv.org/abs/1807.10221

Idea: a feature pyramid network goes back up from the last stage of an encoder and adds what each
finer stage has to say. Before that, the pyramid pooling of PSPNet gives the last stage the whole
image to see. All levels of the pyramid are fused at stride 4 and classified: no dilation is needed.

Differences from the paper:
- Only its semantic segmentation; the heads for scenes, parts, materials and textures are left out.
- `use_aux` adds an FCN head on the stage of stride 16, as is usual since; the paper has none.
- The fused features have `fpn_out` channels, 256 by default as in the ancestor and in FPN.

Parameters at 19 classes, training heads included: the paper gives none; the ancestor has 107.1 M
with ResNet-50, of which 75 M are a convolution of its pyramid pooling that keeps all 2048 channels.
Ours has 44.1 M: pooled levels have a quarter of the channels, as in PSPNet and the authors' code.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from base.base_model import BaseModel, Facts, Size
from models.backbones import build_backbone
from models.blocks import (
    FCNHead,
    PyramidPooling,
    classifier,
    conv_bn_relu,
    initialize,
    resize,
    resize_logits,
)
from models.encoder_names import Encoder
from models.pyramid import Pyramid


class FeaturePyramid(nn.Module):
    """Fig. 4: a top-down path with lateral connections, all its levels fused at the finest size.

    Args:
        in_channels: Width of the encoder's stages, shallow to deep; the last is taken as it is.
        channels: Width of every level.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv_bn_relu(width, channels, 1) for width in in_channels)
        self.smooth = nn.ModuleList(conv_bn_relu(channels, channels) for _ in in_channels)
        self.fuse = conv_bn_relu((len(in_channels) + 1) * channels, channels)
        initialize(self)

    def forward(self, features: Sequence[Tensor], top: Tensor) -> Tensor:
        """Fuse the stages ``features``, shallow to deep, and ``top``, which lies above them.

        Returns:
            ``(N, channels, h, w)`` at the size of the first of ``features``.
        """
        levels = [top]
        x = top
        for feature, lateral, smooth in zip(
            reversed(features), reversed(self.lateral), reversed(self.smooth), strict=True
        ):
            x = lateral(feature) + resize(x, feature.shape[2:])
            levels.append(smooth(x))
        size = features[0].shape[2:]
        return self.fuse(torch.cat([resize(level, size) for level in reversed(levels)], dim=1))


class UperNet(BaseModel):
    """UPerNet on any encoder.

    Args:
        num_classes: Classes to tell apart.
        in_channels: Channels of the images.
        backbone: A timm name, or `{"name": ..., "img_size": ..., "drop_path_rate": ...}`.
        pretrained: True, False, or the path of the encoder's weight file.
        use_aux: Whether to return auxiliary logits in training.
        fpn_out: Width of the feature pyramid.
        freeze_bn: Keep the statistics of batch normalization.
        freeze_backbone: Keep the encoder as it is.
    """

    facts = Facts(
        paper="UPerNet, 2018",
        arxiv="1807.10221",
        strides="32",
        encoders="any of timm's for any image size",
        small={"backbone": "test_resnet", "fpn_out": 32},
        auxiliary=1,
        sizes=(
            Size(
                19,
                {"backbone": "resnet50"},
                44.1,
                "predecessor: 107.1 M",
                within=0.003,
            ),
        ),
    )

    def __init__(
        self,
        num_classes: Annotated[int, Ge(1)],
        *,
        in_channels: Annotated[int, Ge(1)] = 3,
        backbone: str | Encoder = "resnet101",
        pretrained: bool | str = True,
        use_aux: bool = True,
        fpn_out: Annotated[int, Ge(1)] = 256,
        freeze_bn: bool = False,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels)
        self.backbone = build_backbone(backbone, in_channels=in_channels, pretrained=pretrained)
        self.pyramid = Pyramid(self.backbone)
        channels = self.pyramid.channels[-4:]  # strides 4, 8, 16, 32
        self.ppm = PyramidPooling(channels[-1], fpn_out)
        self.fpn = FeaturePyramid(channels[:-1], fpn_out)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = classifier(fpn_out, num_classes)
        self.aux = FCNHead(channels[-2], num_classes, channels=256) if use_aux else None
        self.finish(
            freeze_bn=freeze_bn,
            freeze_backbone=freeze_backbone,
            pretrained=pretrained,
            pooled_batchnorm=True,
        )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return logits ``(N, num_classes, H, W)``, in training with the auxiliary ones."""
        size = images.shape[2:]
        *finer, last = self.pyramid(self.backbone(images), size)[-4:]  # 1/4, 1/8, 1/16; 1/32
        x = self.fpn(finer, self.ppm(last))  # 1/4
        logits = resize_logits(self.classifier(self.dropout(x)), size)
        if self.aux is None or not self.training:
            return logits
        return logits, resize_logits(self.aux(finer[-1]), size)

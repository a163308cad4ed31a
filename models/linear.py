"""DINOv2: Learning Robust Visual Features without Supervision, and its linear segmentation probe.

Maxime Oquab, Timothée Darcet, Théo Moutakanni et al., TMLR 2024, https://arxiv.org/abs/2304.07193

Idea: features that were learned without labels already tell classes apart, so one linear layer on
the patches of a frozen encoder is enough to read them, and how well it does tells how good they are
(Sec. 7.4). DINOv3, https://arxiv.org/abs/2508.10104, is measured in the same way.

Differences from the paper: the encoder is any of timm's, and it trains with the layer unless
`freeze_backbone` is set. As in the authors' code, features are batch-normalized.

Parameters at 150 classes with ViT-S/14: 21 M in the authors' list, 22.1 M here.
"""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from base.base_model import BaseModel, Facts, Size
from models.backbones import build_backbone
from models.blocks import classifier, crop, resize, resize_logits
from models.encoder_names import Encoder
from utils.errors import ConfigError


class Linear(BaseModel):
    """Batch normalization and one 1x1 convolution on an encoder's last features.

    Args:
        num_classes: Classes to tell apart.
        in_channels: Channels of the images.
        backbone: A timm name, or `{"name": ..., "img_size": ..., "drop_path_rate": ...}`.
        pretrained: True, False, or the path of the encoder's weight file.
        last: How many of the last features are joined: of a plain encoder its last blocks.
        freeze_bn: Keep the statistics of batch normalization.
        freeze_backbone: Keep the encoder as it is, the probe of the paper.
    """

    facts = Facts(
        paper="DINOv2, 2023",
        arxiv="2304.07193",
        strides="that of the encoder",
        encoders="any of timm's for any image size",
        small={"backbone": "test_vit"},
        sizes=(Size(150, {}, 22.1, "DINOv2, list of models: 21 M", within=0.003),),
    )

    def __init__(
        self,
        num_classes: Annotated[int, Ge(1)],
        *,
        in_channels: Annotated[int, Ge(1)] = 3,
        backbone: str | Encoder = "vit_small_patch14_reg4_dinov2.lvd142m",
        pretrained: bool | str = True,
        last: Annotated[int, Ge(1)] = 1,
        freeze_bn: bool = False,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels)
        self.backbone = build_backbone(backbone, in_channels=in_channels, pretrained=pretrained)
        if last > len(self.backbone.channels):
            raise ConfigError(
                f"arch.args.last: found {last}, expected at most {len(self.backbone.channels)}, "
                "the number of features that this encoder hands out"
            )
        self.last = last
        self.stride = int(self.backbone.strides[-last])
        width = sum(self.backbone.channels[-last:])
        self.norm = nn.BatchNorm2d(width)
        self.classifier = classifier(width, num_classes)
        self.finish(
            freeze_bn=freeze_bn,
            freeze_backbone=freeze_backbone,
            pretrained=pretrained,
            batchnorm_stride=self.stride,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, num_classes, H, W)`` of images ``(N, in_channels, H, W)``."""
        first, *others = self.backbone(images)[-self.last :]
        x = torch.cat([first, *(resize(other, first.shape[2:]) for other in others)], dim=1)
        logits = self.classifier(self.norm(x))
        height, width = images.shape[2:]
        # The last cells may reach over the border: to be stretched to it they must not.
        sides = zip(logits.shape[2:], (height, width), strict=True)
        covered = [torch.sym_max(cells * self.stride, side) for cells, side in sides]
        return crop(resize_logits(logits, covered), (height, width))

"""SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers.

Enze Xie, Wenhai Wang, Zhiding Yu, Anima Anandkumar, Jose M. Alvarez, Ping Luo, NeurIPS 2021,
https://arxiv.org/abs/2105.15203

Idea: a hierarchical transformer sees so far that its decoder need not: a linear layer brings each
stage to one width, all are resized to the finest and fused by a second linear layer, and a third
classifies (Sec. 3.2). No convolution looks at neighbors.

Differences from the paper:
- The encoder is any of timm's; of these PVTv2 is nearest to the paper's Mix Transformers.
- Each stage's share of the fusing layer is computed before it is resized, which is linear too: the
  sum is the same for a third of the work.

Parameters at 150 classes with the b2 encoder: 27.5 M in the paper's Table 1, 28.0 M here.
"""

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from base.base_model import BaseModel, Facts, Size
from models.backbones import build_backbone
from models.blocks import classifier, initialize, resize, resize_logits
from models.encoder_names import Encoder
from models.pyramid import Pyramid


class MLPHead(nn.Module):
    """The all-MLP decoder (Eq. 4).

    Args:
        in_channels: Width of each stage, fine to coarse.
        num_classes: Classes to tell apart.
        width: Of the embedded stages.
    """

    def __init__(self, in_channels: tuple[int, ...], num_classes: int, *, width: int) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)
        self.fuse = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in in_channels)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(0.1)
        initialize(self)
        self.classifier = classifier(width, num_classes)

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Return logits ``(N, num_classes, h, w)`` at the size of the first of ``stages``."""
        shares = [
            fuse(embed(stage))
            for embed, fuse, stage in zip(self.embed, self.fuse, stages, strict=True)
        ]
        x = shares[0]
        for share in shares[1:]:
            x = x + resize(share, x.shape[2:])
        return self.classifier(self.dropout(self.relu(self.norm(x))))


class SegFormer(BaseModel):
    """SegFormer's decoder on any encoder.

    Args:
        num_classes: Classes to tell apart.
        in_channels: Channels of the images.
        backbone: A timm name, or `{"name": ..., "img_size": ..., "drop_path_rate": ...}`.
        pretrained: True, False, or the path of the encoder's weight file.
        width: Of the decoder (paper: 256 for its B0 and B1, 768 for B2 to B5).
        freeze_bn: Keep the statistics of batch normalization.
        freeze_backbone: Keep the encoder as it is.
    """

    facts = Facts(
        paper="SegFormer, 2021",
        arxiv="2105.15203",
        strides="32",
        encoders="any of timm's for any image size",
        small={"backbone": "test_convnext", "width": 32},
        sizes=(Size(150, {}, 27.5, "SegFormer, Table 1, MiT-B2"),),
    )

    def __init__(
        self,
        num_classes: Annotated[int, Ge(1)],
        *,
        in_channels: Annotated[int, Ge(1)] = 3,
        backbone: str | Encoder = "pvt_v2_b2",
        pretrained: bool | str = True,
        width: Annotated[int, Ge(1)] = 768,
        freeze_bn: bool = False,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels)
        self.backbone = build_backbone(backbone, in_channels=in_channels, pretrained=pretrained)
        self.pyramid = Pyramid(self.backbone)
        self.head = MLPHead(self.pyramid.channels[-4:], num_classes, width=width)
        self.finish(
            freeze_bn=freeze_bn,
            freeze_backbone=freeze_backbone,
            pretrained=pretrained,
            batchnorm_stride=int(self.pyramid.strides[-4:][0]),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, num_classes, H, W)`` of images ``(N, in_channels, H, W)``."""
        size = images.shape[2:]
        stages = self.pyramid(self.backbone(images), size)[-4:]  # 1/4, 1/8, 1/16, 1/32
        return resize_logits(self.head(stages), size)

"""Fully Convolutional Networks for Semantic Segmentation.

Jonathan Long, Evan Shelhamer, Trevor Darrell, CVPR 2015, https://arxiv.org/abs/1411.4038

Idea: a classifier's fully connected layers are convolutions over its last map, so a pretrained
VGG16 gives a coarse map of scores for an image of any size. Scores from two earlier, finer pools
are added on the way up (stride 32, 16, 8). The upsampling itself is a transposed convolution that
starts as bilinear interpolation.

Differences from the paper:
- fc6 is padded by 3 instead of the image by 100 pixels, with no offsets to crop away afterwards.
- The last upsampling is learned like the others; the authors keep it bilinear.
- A map of odd size is rounded up when it is pooled, as in the authors' Caffe.

Parameters at 21 classes with VGG16: 134.5 M in the paper's Table 1 (FCN-VGG16: 134 M), 134.5 M
here.
"""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from base.base_model import BaseModel, Facts, Size
from models.blocks import Dropout, classifier, crop, cut, halve
from models.vgg import VGG, VGGName


def bilinear_upsampling(channels: int, factor: int) -> nn.ConvTranspose2d:
    """Build a transposed convolution that starts as bilinear interpolation (Sec. 3.3).

    Args:
        channels: Channels in and out; each starts out of itself alone.
        factor: How many times larger, an even number.
    """
    conv = nn.ConvTranspose2d(
        channels, channels, 2 * factor, stride=factor, padding=factor // 2, bias=False
    )
    distance = (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
    tent = 1 - distance
    with torch.no_grad():
        conv.weight.zero_()
        diagonal = torch.arange(channels)
        conv.weight[diagonal, diagonal] = tent[:, None] * tent
    return conv


class FCN8(BaseModel):
    """FCN-8s on VGG16.

    Args:
        num_classes: Classes to tell apart.
        in_channels: Channels of the images.
        backbone: VGG16 as in the paper, or with batch normalization.
        pretrained: True, False, or the path of the encoder's weight file.
        freeze_bn: Keep the statistics of batch normalization (`vgg16_bn` has some).
        freeze_backbone: Keep the encoder, fc6 and fc7 as they are.
    """

    facts = Facts(
        paper="FCN, 2015",
        arxiv="1411.4038",
        strides="32",
        encoders="vgg16, vgg16_bn",
        sizes=(Size(21, {}, 134.5, "FCN, Table 1"),),
    )

    def __init__(
        self,
        num_classes: Annotated[int, Ge(1)],
        *,
        in_channels: Annotated[int, Ge(1)] = 3,
        backbone: VGGName = "vgg16",
        pretrained: bool | str = True,
        freeze_bn: bool = False,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels)
        self.backbone = VGG(
            backbone, in_channels=in_channels, pretrained=pretrained, fully_connected=True
        )
        self.dropout = Dropout(0.5)
        self.relu = nn.ReLU(inplace=True)
        self.score_fc7 = classifier(4096, num_classes)
        self.score_pool4 = classifier(512, num_classes)
        self.score_pool3 = classifier(256, num_classes)
        for score in (self.score_pool4, self.score_pool3):
            nn.init.zeros_(score.weight)  # the finer nets start from the coarse one (Sec. 4.2)
        self.up_fc7 = bilinear_upsampling(num_classes, 2)
        self.up_pool4 = bilinear_upsampling(num_classes, 2)
        self.up_pool3 = bilinear_upsampling(num_classes, 8)
        self.finish(freeze_bn=freeze_bn, freeze_backbone=freeze_backbone, pretrained=pretrained)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, num_classes, H, W)`` of images ``(N, in_channels, H, W)``."""
        pools = []
        x = images
        for stage in self.backbone.stages:
            x = halve(stage(x))
            pools.append(x)
        _, _, pool3, pool4, pool5 = pools  # 1/8, 1/16, 1/32
        assert self.backbone.fc6 is not None
        assert self.backbone.fc7 is not None
        x = self.dropout(self.relu(self.backbone.fc6(pool5)))
        x = self.dropout(self.relu(self.backbone.fc7(x)))
        x = cut(self.up_fc7(self.score_fc7(x)), pool4.shape[2:]) + self.score_pool4(pool4)
        x = cut(self.up_pool4(x), pool3.shape[2:]) + self.score_pool3(pool3)
        return crop(self.up_pool3(x), images.shape[2:])

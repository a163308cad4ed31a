"""Large Kernel Matters: Improve Semantic Segmentation by Global Convolutional Network.

Chao Peng, Xiangyu Zhang, Gang Yu, Guiming Luo, Jian Sun, CVPR 2017,
https://arxiv.org/abs/1703.02719

Idea: to classify, a pixel must see the whole object, so the kernels that score the features are as
large as the maps themselves. A k x k kernel is made affordable as k x 1 followed by 1 x k plus the
two in the other order. A small residual block refines boundaries after each scoring and each
upsampling.

Differences from the paper:
- The encoder is any of timm's; the paper's are ResNet-50 to 152.
- Upsampling is bilinear unless `use_deconv` asks for the paper's transposed convolutions, as in the
  ancestor of this project.
- With `use_resnet_gcn` the last two stages of the encoder are GCN blocks with k = 5 and 7 and inner
  widths 85 and 128, as in the ancestor. They start from random weights: the authors' ImageNet
  weights for them are not available.

Parameters at 19 classes: the paper gives none; the ancestor has 25.21 M with ResNet-50, 25.20 M
here.
"""

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from base.base_model import BaseModel, Facts, Size
from models.backbones import Backbone, build_backbone, build_timm
from models.blocks import initialize, resize
from models.encoder_names import Encoder, name_of
from models.pyramid import Pyramid
from utils.errors import ConfigError


class GlobalConvolution(nn.Module):
    """Fig. 2b: a k x k kernel as k x 1 then 1 x k, plus 1 x k then k x 1; no nonlinearity."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.left = _factored(in_channels, out_channels, kernel, vertical_first=True)
        self.right = _factored(in_channels, out_channels, kernel, vertical_first=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, h, w)`` to ``(N, out_channels, h, w)``."""
        return self.left(x) + self.right(x)


def _factored(
    in_channels: int, out_channels: int, kernel: int, *, vertical_first: bool
) -> nn.Sequential:
    vertical, horizontal = (kernel, 1), (1, kernel)
    order = (vertical, horizontal) if vertical_first else (horizontal, vertical)
    widths = (in_channels, out_channels)
    return nn.Sequential(
        *(
            nn.Conv2d(width, out_channels, shape, padding=(shape[0] // 2, shape[1] // 2))
            for width, shape in zip(widths, order, strict=True)
        )
    )


class BoundaryRefinement(nn.Module):
    """Fig. 2c: scores plus what two 3x3 convolutions have to say about them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``(N, C, h, w)``."""
        return x + self.residual(x)


class ResidualGCN(nn.Module):
    """Fig. 5b: a residual block whose 3x3 convolution is a global one."""

    def __init__(
        self, in_channels: int, out_channels: int, *, inner: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            GlobalConvolution(in_channels, inner, kernel),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, out_channels, 1, stride=stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else (
                nn.Sequential(
                    nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                    nn.BatchNorm2d(out_channels),
                )
            )
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, h, w)`` to ``(N, out_channels, h/stride, w/stride)``."""
        return self.relu(self.branch(x) + self.shortcut(x))


def _gcn_stage(
    in_channels: int, out_channels: int, *, blocks: int, inner: int, kernel: int
) -> nn.Sequential:
    first = ResidualGCN(in_channels, out_channels, inner=inner, kernel=kernel, stride=2)
    rest = (
        ResidualGCN(out_channels, out_channels, inner=inner, kernel=kernel, stride=1)
        for _ in range(blocks - 1)
    )
    return nn.Sequential(first, *rest)


def _require_odd(num_filters: int) -> None:
    if num_filters % 2 == 0:
        raise ConfigError(
            f"arch.args.num_filters: {num_filters} is even; the size of the global kernels "
            f"must be odd, for example {num_filters + 1}"
        )


class GCN(BaseModel):
    """GCN on any encoder of four stages.

    Args:
        num_classes: Classes to tell apart.
        in_channels: Channels of the images.
        backbone: A timm name, or `{"name": ..., "img_size": ..., "drop_path_rate": ...}`.
        pretrained: True, False, or the path of the encoder's weight file.
        use_resnet_gcn: Whether the encoder's last two stages are GCN blocks (Sec. 4.1), new ones.
        use_deconv: Whether to upsample by transposed convolutions.
        num_filters: The size k of the global kernels, an odd number.
        freeze_bn: Keep the statistics of batch normalization.
        freeze_backbone: Keep the encoder as it is, GCN blocks excepted.
    """

    facts = Facts(
        paper="Large Kernel Matters, 2017",
        arxiv="1703.02719",
        strides="32",
        encoders="any of timm's for any image size",
        small={"backbone": "test_resnet"},
        sizes=(
            Size(19, {"backbone": "resnet18"}, 11.67, "predecessor"),
            Size(19, {}, 25.21, "predecessor"),
        ),
    )

    def __init__(  # noqa: PLR0913 - the ancestor's arguments, which configs name
        self,
        num_classes: Annotated[int, Ge(1)],
        *,
        in_channels: Annotated[int, Ge(1)] = 3,
        backbone: str | Encoder = "resnet50",
        pretrained: bool | str = True,
        use_resnet_gcn: bool = False,
        use_deconv: bool = False,
        num_filters: Annotated[int, Ge(1)] = 11,
        freeze_bn: bool = False,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels)
        _require_odd(num_filters)
        build = _first_stages if use_resnet_gcn else build_backbone
        self.backbone = build(backbone, in_channels=in_channels, pretrained=pretrained)
        self.pyramid = Pyramid(self.backbone, fewest=1 if use_resnet_gcn else 4)
        channels = self.pyramid.channels[-4:]  # strides 4, 8, 16, 32
        self.gcn_stages = nn.Sequential()
        if use_resnet_gcn:
            wide = channels[-1]
            self.gcn_stages.append(_gcn_stage(wide, 2 * wide, blocks=6, inner=85, kernel=5))
            self.gcn_stages.append(_gcn_stage(2 * wide, 4 * wide, blocks=3, inner=128, kernel=7))
            channels = (*channels, 2 * wide, 4 * wide)
        self.score = nn.ModuleList(
            nn.Sequential(
                GlobalConvolution(width, num_classes, num_filters),
                BoundaryRefinement(num_classes),
            )
            for width in channels
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(num_classes, num_classes, 4, stride=2, padding=1)
            if use_deconv
            else nn.Identity()
            for _ in range(5)
        )
        self.refine = nn.ModuleList(BoundaryRefinement(num_classes) for _ in range(5))
        initialize(self.gcn_stages, self.score, self.up, self.refine)
        self.finish(
            freeze_bn=freeze_bn,
            freeze_backbone=freeze_backbone,
            pretrained=pretrained,
            batchnorm_stride=max(32, int(self.pyramid.strides[-1])),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, num_classes, H, W)`` of images ``(N, in_channels, H, W)``."""
        height, width = images.shape[2:]
        features = self.pyramid(self.backbone(images), (height, width))
        for stage in self.gcn_stages:
            features.append(stage(features[-1]))
        *finer, x = (score(f) for score, f in zip(self.score, features[-4:], strict=True))
        steps = list(zip(self.up, self.refine, strict=True))
        for (up, refine), scores in zip(steps[:3], reversed(finer), strict=True):
            x = refine(resize(up(x), scores.shape[2:]) + scores)  # 1/16, 1/8, 1/4
        for (up, refine), size in zip(
            steps[3:], (((height + 1) // 2, (width + 1) // 2), (height, width)), strict=True
        ):
            x = refine(resize(up(x), size))
        return x


def _first_stages(encoder: str | Encoder, *, in_channels: int, pretrained: bool | str) -> Backbone:
    """Build a ResNet up to stride 8: the stages that ResNet-GCN keeps."""
    network = build_timm(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        options={"features_only": True, "out_indices": (1, 2)},
    )
    backbone = Backbone(network, encoder, in_channels=in_channels)
    if backbone.strides != (4, 8):
        raise ConfigError(
            f"arch.args.use_resnet_gcn: {name_of(encoder)} is no ResNet; write resnet50 or "
            '"use_resnet_gcn": false'
        )
    return backbone

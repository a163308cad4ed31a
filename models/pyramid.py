"""Features of several strides for the decoders that go through them, whatever the encoder.

Yanghao Li, Hanzi Mao, Ross Girshick, Kaiming He, "Exploring Plain Vision Transformer Backbones for
Object Detection" (ViTDet), 2022, https://arxiv.org/abs/2203.16527, Sec. 3: a plain encoder has one
stride, so its last features alone are brought to four strides.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from models.any_size import cells
from models.backbones import Backbone
from models.blocks import halve, initialize

WIDTH = 256
"""Channels of each level of a simple feature pyramid."""


class LayerNorm2d(nn.Module):
    """Layer normalization over the channels of ``(N, C, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Halve(nn.Module):
    """2x2 max-pooling that rounds up."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C, ceil(H/2), ceil(W/2))``."""
        return halve(x)


class Pyramid(nn.Module):
    """The stages of a hierarchical encoder as they are, or a simple feature pyramid of a plain one.

    The latter's levels for patches of p pixels have strides p/4, p/2, p and 2p. It starts from
    random weights and belongs to the decoder.

    Attributes:
        channels: Width of each level, fine to coarse.
        strides: Its stride with respect to the image; not always a whole number.
    """

    channels: tuple[int, ...]
    strides: tuple[float, ...]

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.channels, self.strides = backbone.channels, backbone.strides
        self.levels = nn.ModuleList()
        if not backbone.plain:
            return
        width, patch = self.channels[-1], self.strides[-1]
        self.channels, self.strides = (WIDTH,) * 4, (patch / 4, patch / 2, patch, 2 * patch)
        doubled = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
        quadrupled = (
            nn.ConvTranspose2d(width, width // 2, 2, stride=2),
            LayerNorm2d(width // 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2),
        )
        self.levels.extend(
            nn.Sequential(
                *resampling,
                nn.Conv2d(channels, WIDTH, 1, bias=False),
                LayerNorm2d(WIDTH),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
                LayerNorm2d(WIDTH),
            )
            for channels, resampling in (
                (width // 4, quadrupled),
                (width // 2, (doubled,)),
                (width, ()),
                (width, (Halve(),)),
            )
        )
        initialize(self)

    def forward(self, features: list[Tensor], size: Sequence[int]) -> list[Tensor]:
        """Return the levels, fine to coarse: one ``(N, c, H/s, W/s)`` for each stride s.

        Args:
            features: What the encoder returned.
            size: (H, W) of the images.
        """
        if not self.levels:
            return features
        levels = (level(features[-1]) for level in self.levels)
        return [
            x[:, :, : cells(size[0], stride), : cells(size[1], stride)]
            for x, stride in zip(levels, self.strides, strict=True)
        ]

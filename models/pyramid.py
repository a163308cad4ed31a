"""Features of several strides for the decoders that go through them, whatever the encoder.

Yanghao Li, Hanzi Mao, Ross Girshick, Kaiming He, "Exploring Plain Vision Transformer Backbones for
Object Detection" (ViTDet), 2022, https://arxiv.org/abs/2203.16527, Sec. 3: a plain encoder has one
stride, so its last features alone are brought to four strides.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from models.any_size import within
from models.backbones import Backbone
from models.blocks import initialize
from utils.errors import ConfigError

WIDTH = 256
"""Channels of each level of a simple feature pyramid."""


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

    def __init__(self, backbone: Backbone, *, fewest: int = 1) -> None:
        """Build the levels; ConfigError where there are less than the `fewest` a decoder needs."""
        super().__init__()
        self.channels, self.strides = backbone.channels, backbone.strides
        self.levels = nn.ModuleList()
        if not backbone.plain:
            if len(self.channels) < fewest:
                raise ConfigError(
                    f"arch.args.backbone: {backbone.name} has {len(self.channels)} stages, this "
                    f"model needs {fewest}; docs/encoders.md lists which encoders it takes"
                )
            return
        from timm.layers import LayerNorm2d  # seconds; the encoder has paid them

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
                (width, (nn.MaxPool2d(2, ceil_mode=True),)),
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
        levels = zip(self.levels, self.strides, strict=True)
        return [within(level(features[-1]), size, stride) for level, stride in levels]

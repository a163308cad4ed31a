"""Parts that two or more papers share; what one paper alone needs stands in its own file."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor, nn

Probability = Annotated[float, Ge(0), Lt(1)]


def resize(x: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Resize features or logits ``(N, C, h, w)`` bilinearly to ``(N, C, *size)``.

    The one place that decides ``align_corners`` for the project: pixels are areas, as in OpenCV.
    """
    # To its own size it would copy, twice in the backward pass: 5 % of a step of UNetResnet.
    if not torch.compiler.is_compiling() and x.shape[2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Resize logits ``(N, C, h, w)`` to ``(N, C, *size)``, half precisions in float32.

    Rounded to half precision after it, classes would tie along their borders and the first win.
    """
    # Also cheaper: the loss needs float32, and here it is converted before there is more of it.
    precise = logits if logits.dtype == torch.float64 else logits.float()
    return resize(precise, size)


def conv_bn_relu(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    dilation: int = 1,
) -> nn.Sequential:
    """Build convolution, batch normalization and ReLU; stride 1 keeps the size."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, dilation=dilation, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def initialize(*parts: nn.Module) -> None:
    """Initialize new layers for ReLU networks; never called on anything pretrained.

    Convolutions as He et al., "Delving Deep into Rectifiers" (2015), eq. 10, normalization to the
    identity, biases to 0. Of transposed convolutions torch counts the outputs as fan-in, 2 to 4
    times what eq. 10 counts.
    """
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)


def classifier(in_channels: int, num_classes: int) -> nn.Conv2d:
    """Build the 1x1 convolution to logits, as He et al. (2015) for no nonlinearity.

    Smaller weights, as detectors start with, would make all classes equally likely at first, but
    they starve narrow networks of gradient: a U-Net of 8 channels did not learn at all.
    """
    conv = nn.Conv2d(in_channels, num_classes, 1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
    nn.init.zeros_(_bias(conv))
    return conv


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


class Dropout(nn.Dropout):
    """torch's dropout; on a CPU it draws 64 random bits at a time, for four values.

    torch draws value by value: 8 % of a step of DeepLab. The seed alone decides, as in torch's own.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is torch's)
        """Keep the shape."""
        if not self.training or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        bits = torch.empty(input.numel() // 4 + 1, dtype=torch.int64).random_(-(2**63), None)
        dropped = round(self.p * 2**16)  # of the 65,536 values of 16 bits
        keep = bits.view(torch.int16)[: input.numel()] >= dropped - 2**15
        # Not from bool: converting that is not vectorized.
        scale = keep.view(torch.uint8).to(input.dtype).div_(1 - dropped / 2**16)
        return input * scale.as_strided(input.shape, torch.empty_like(input).stride())


class FCNHead(nn.Module):
    """The auxiliary head of PSPNet (Sec. 4) and UPerNet: 3x3 convolution, dropout, classifier."""

    def __init__(
        self, in_channels: int, num_classes: int, *, channels: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.conv = conv_bn_relu(in_channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        initialize(self.conv)
        self.classifier = classifier(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes, h, w)`` of features ``(N, in_channels, h, w)``."""
        return self.classifier(self.dropout(self.conv(x)))


def bin_averages(x: Tensor, bins: Sequence[int]) -> list[Tensor]:
    """Average ``x`` over b x b equal regions, for each b of ``bins``.

    The regions are those of adaptive average pooling. They are written as one matrix product,
    because adaptive pooling to a fixed number of bins cannot be exported for images of any size
    and its gradient on CUDA is not deterministic.

    Args:
        x: Features ``(N, C, H, W)``.
        bins: Regions a side.

    Returns:
        One tensor ``(N, C, b, b)`` for each b.
    """
    members = torch.cat([_region_members(x, b) for b in bins])
    counts = members.sum(1, keepdim=True)
    # A power of two is exact in bfloat16 and float16 alike, so that autocast rounds no weight,
    # and it keeps the sums as small as the averages, so that float16 does not overflow.
    power = torch.exp2(torch.ceil(torch.log2(counts)))
    weights = (members / power).to(x.dtype).expand(x.shape[0], -1, -1)
    sums = torch.bmm(weights, x.flatten(2).transpose(1, 2))
    means = (sums * (power / counts)).to(x.dtype).transpose(1, 2)
    parts = means.split([b * b for b in bins], dim=2)
    return [part.unflatten(2, (b, b)) for part, b in zip(parts, bins, strict=True)]


def _region_members(x: Tensor, bins: int) -> Tensor:
    """Return a float32 (bins * bins, H * W) matrix: 1 where the pixel lies in the region."""
    rows = _interval_members(x.shape[2], bins, x.device)
    columns = _interval_members(x.shape[3], bins, x.device)
    both = rows[:, None, :, None] & columns[None, :, None, :]
    return both.flatten(2).flatten(0, 1).float()


def _interval_members(length: int, bins: int, device: torch.device) -> Tensor:
    """Return a boolean (bins, length) matrix: which positions belong to which interval."""
    index = torch.arange(bins, device=device)
    first = index * length // bins
    last = ((index + 1) * length + bins - 1) // bins
    position = torch.arange(length, device=device)
    return (position >= first[:, None]) & (position < last[:, None])


class PyramidPooling(nn.Module):
    """The pyramid pooling module of PSPNet (Sec. 3.2), which UPerNet puts on its last stage.

    Each level averages the features over b x b regions, reduces them by a 1x1 convolution to
    ``in_channels / len(bins)`` channels and resizes them back; a 3x3 convolution fuses the levels
    with the features themselves.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.align_corners = align_corners
        channels = in_channels // len(self.bins)
        self.levels = nn.ModuleList(conv_bn_relu(in_channels, channels, 1) for _ in self.bins)
        self.fuse = conv_bn_relu(in_channels + channels * len(self.bins), out_channels)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, out_channels, h, w)`` for features ``(N, in_channels, h, w)``."""
        pooled = bin_averages(x, self.bins)
        levels = [
            laid_out_as(resize(level(average), x.shape[2:], align_corners=self.align_corners), x)
            for level, average in zip(self.levels, pooled, strict=True)
        ]
        return self.fuse(torch.cat([x, *levels], dim=1))


def laid_out_as(x: Tensor, other: Tensor) -> Tensor:
    """Copy features to the memory layout of those that they are joined with, if it differs.

    A tensor of one pixel has both layouts at once and is resized to the default one; joined with
    features in channels-last memory it would make all of them change their layout.
    """
    if torch.compiler.is_compiling():  # chooses layouts itself; a condition would tie the graph
        return x
    last = other.is_contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def halve(x: Tensor) -> Tensor:
    """Max-pool 2x2 to half the size, rounded up: the last row or column of an odd size counts."""
    return F.max_pool2d(_even(x), 2)


def halve_with_winners(x: Tensor) -> tuple[Tensor, Tensor]:
    """Max-pool 2x2 as :func:`halve` and remember which pixel of each window won.

    Returns:
        The pooled features and, for :func:`unpool`, the winners: bool, the size of ``x``.
    """
    height, width = x.shape[2:]
    pooled, index = F.max_pool2d(_even(x), 2, return_indices=True)
    padded_width = width + 1
    corner = index // padded_width % 2 * 2 + index % padded_width % 2
    row = torch.arange(height, device=x.device)[:, None] % 2
    column = torch.arange(width, device=x.device) % 2
    return pooled, _spread(corner.to(torch.uint8), (height, width)) == row * 2 + column


def unpool(x: Tensor, winners: Tensor) -> Tensor:
    """Put each value where the maximum of its window was, zero elsewhere.

    What ``max_unpool2d`` does for windows that do not overlap, but without a scatter: it is
    deterministic on every device and exports for any size.

    Args:
        x: ``(N, C, h, w)``.
        winners: From :func:`halve_with_winners`: bool ``(N, C, H, W)``, h = ceil(H / 2).

    Returns:
        ``(N, C, H, W)``.
    """
    return _spread(x, winners.shape[2:]) * winners


def cut(x: Tensor, size: Sequence[int]) -> Tensor:
    """Cut features to ``size``, at most a row and a column smaller than they are.

    Nearest-neighbor resizing from n + 1 to n takes the first n. Unlike a slice it says nothing
    about which size is larger, which torch.export would have to prove.
    Above 2,000 pixels float32 rounding may take the last row instead of the one before it.
    """
    # A condition on sizes is for eager mode only; the copy was 3 % of a training step of UNet.
    if not torch.compiler.is_compiling() and x.shape[2:] == tuple(size):
        return x
    return _spread(x, size)


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """Crop ``(N, C, h, w)`` to its first ``size`` rows and columns, however many are surplus.

    As :func:`cut` without naming the larger size, but it copies to the default memory layout:
    for logits, not for features.
    """
    rows, columns = (torch.arange(length, device=x.device) for length in size)
    return x.index_select(2, rows).index_select(3, columns)


def _even(x: Tensor) -> Tensor:
    # One row and column of -inf whatever the size: a window reaches them only where H or W is odd,
    # and a condition on the size would tie an exported graph to it.
    return F.pad(x, (0, 1, 0, 1), value=float("-inf"))


def _spread(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="nearest")

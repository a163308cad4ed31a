"""Normalization on the device: images arrive in their file's dtype, the model sees floats."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}


def mean_color(mean: Sequence[float], input_dtype: str) -> tuple[float, ...]:
    """Return the mean in the unit of the pixels, which padding and void become."""
    values = [value * FULL_SCALE[input_dtype] for value in mean]
    return tuple(values if input_dtype == "float32" else [float(round(one)) for one in values])


class Normalize(nn.Module):
    """(images / full scale - mean) / std, as one multiply-add.

    Args:
        mean: One value a channel, as a fraction of the dtype's full scale.
        std: Likewise; above 0.
        input_dtype: "uint8" (full scale 255), "uint16" (65535) or "float32" (1).
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], *, input_dtype: str = "uint8"
    ) -> None:
        super().__init__()
        mean_row = torch.tensor(mean, dtype=torch.float64)[:, None, None]
        std_row = torch.tensor(std, dtype=torch.float64)[:, None, None]
        scale = 1 / (FULL_SCALE[input_dtype] * std_row)
        self.register_buffer("scale", scale.float(), persistent=False)
        self.register_buffer("shift", (-mean_row / std_row).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalize (N, C, H, W) of any dtype to float32 in the same memory format."""
        if images.device.type != "cpu" or not images.is_contiguous(
            memory_format=torch.channels_last
        ):
            return torch.addcmul(self.shift, images.float(), self.scale)
        # Rows of one long dimension: a CPU's inner loop would else be three channels long. In
        # place: the page faults of a second buffer cost ten times the arithmetic.
        count, channels, height, width = images.shape
        rows = images.permute(0, 2, 3, 1).reshape(count, height, width * channels)
        rows = rows.to(torch.float32, copy=True)
        scale, shift = (
            part.view(1, channels).expand(width, channels).flatten()
            for part in (self.scale, self.shift)
        )
        rows.mul_(scale).add_(shift)
        return rows.view(count, height, width, channels).permute(0, 3, 1, 2)

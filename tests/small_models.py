"""Every network in a size that a test can afford."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from models import MODELS


def build_small(name: str, num_classes: int = 3, **arguments: object) -> BaseModel:
    """Build a small network with random weights, the same ones each time."""
    torch.manual_seed(0)
    model = MODELS[name]
    return model(num_classes, **{"pretrained": False, **model.facts.small, **arguments})


def outputs_of(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Return all outputs as a tuple."""
    output = model(images)
    return output if isinstance(output, tuple) else (output,)


def images(*size: int, count: int = 2, channels: int = 3) -> Tensor:
    """Return the same random images each time: ``(count, channels, *size)``."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, *size, generator=generator)

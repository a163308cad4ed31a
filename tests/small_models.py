"""Every network in a size that a test can afford."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from models import MODELS

SMALL: Mapping[str, Mapping[str, object]] = {
    "FCN8": {},
    "UNet": {"base_channels": 8},
    "UNetResnet": {"backbone": "test_resnet"},
    "SegNet": {},
    "SegResNet": {"backbone": "test_resnet"},
    "ENet": {},
    "GCN": {"backbone": "test_resnet"},
    "DeepLab": {"backbone": "test_resnet"},
    "DeepLab_DUC_HDC": {"backbone": "test_resnet"},
    "UperNet": {"backbone": "test_resnet", "fpn_out": 32},
    "PSPNet": {"backbone": "test_resnet"},
    "PSPDenseNet": {"backbone": "densenet121"},
}
"""Arguments that make each network small; VGG16 is what it is."""


def build_small(name: str, num_classes: int = 3, **arguments: object) -> BaseModel:
    """Build a small network with random weights, the same ones each time."""
    torch.manual_seed(0)
    return MODELS[name](num_classes, **{"pretrained": False, **SMALL[name], **arguments})


def outputs_of(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Return all outputs as a tuple."""
    output = model(images)
    return output if isinstance(output, tuple) else (output,)


def images(*size: int, count: int = 2, channels: int = 3) -> Tensor:
    """Return the same random images each time: ``(count, channels, *size)``."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, *size, generator=generator)

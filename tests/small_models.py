"""Every network in a size that a test can afford."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from models import MODELS

# Width is an argument of timm's that a config has no way to say.
SMALL_SWIN = {
    "name": "swin_tiny_patch4_window7_224",
    "embed_dim": 12,
    "num_heads": (1, 2, 3, 4),
    "drop_path_rate": 0.0,  # timm's is 0.1
}
# Encoders of kinds that no small network of the table has; a plain ViT is that of Linear.
VARIANTS = {
    "SegFormer on PVTv2": ("SegFormer", {"backbone": "pvt_v2_b0", "width": 32}),
    "UperNet on a ViT": ("UperNet", {"backbone": "test_vit", "fpn_out": 32}),
    "UperNet on Swin": ("UperNet", {"backbone": SMALL_SWIN, "fpn_out": 32}),
}
NETWORKS = [*MODELS, *VARIANTS]
ONE_SIZE = "UperNet on Swin"  # to export it for any size takes torch longer than minutes


def build_small(name: str, num_classes: int = 3, **arguments: object) -> BaseModel:
    """Build a small network of `NETWORKS` with random weights, the same ones each time."""
    torch.manual_seed(0)
    name, own = VARIANTS.get(name, (name, {}))
    model = MODELS[name]
    return model(num_classes, **{"pretrained": False, **model.facts.small, **own, **arguments})


class UperNetOnSwin(MODELS["UperNet"]):
    """The variant of this name as a config can say it, where `MODELS` has it."""

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        pretrained: bool | str = False,
        freeze_bn: bool = False,
    ) -> None:
        super().__init__(
            num_classes,
            in_channels=in_channels,
            backbone=SMALL_SWIN,
            pretrained=pretrained,
            fpn_out=32,
            freeze_bn=freeze_bn,
        )


def arch_of(name: str, **arguments: object) -> dict[str, object]:
    """What a config says under `arch` about a variant, or about the small network of a model."""
    model, own = VARIANTS.get(name, (name, MODELS[name].facts.small if name in MODELS else {}))
    if own.get("backbone") is SMALL_SWIN:
        model, own = "UperNetOnSwin", {}
    return {"type": model, "args": {**own, "pretrained": False, **arguments}}


def outputs_of(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Return all outputs as a tuple."""
    output = model(images)
    return output if isinstance(output, tuple) else (output,)


def images(*size: int, count: int = 2, channels: int = 3) -> Tensor:
    """Return the same random images each time: ``(count, channels, *size)``."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, *size, generator=generator)

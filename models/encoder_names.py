"""What a config calls an encoder: a name or an object, and which of timm's it means."""

import difflib
from collections.abc import Mapping
from typing import Annotated, NotRequired

from annotated_types import Ge, Lt
from pydantic import ConfigDict
from typing_extensions import TypedDict

from utils.errors import ConfigError

ALIASES: Mapping[str, str] = {
    # torchvision's first ImageNet weights ("IMAGENET1K_V1", 224 px, top-1 beside each): what the
    # published recipes of these networks start from.
    "resnet18": "resnet18.tv_in1k",  # 69.8
    "resnet34": "resnet34.tv_in1k",  # 73.3
    "resnet50": "resnet50.tv_in1k",  # 76.1
    "resnet101": "resnet101.tv_in1k",  # 77.4
    "resnet152": "resnet152.tv_in1k",  # 78.3
    "resnext50_32x4d": "resnext50_32x4d.tv_in1k",  # 77.6
    "resnext101_32x8d": "resnext101_32x8d.tv_in1k",  # 79.3
    "wide_resnet50_2": "wide_resnet50_2.tv_in1k",  # 78.5
    "wide_resnet101_2": "wide_resnet101_2.tv_in1k",  # 78.8
    "densenet121": "densenet121.tv_in1k",  # 74.4
    "densenet161": "densenet161.tv_in1k",  # 77.1
    "densenet169": "densenet169.tv_in1k",  # 75.6
    "densenet201": "densenet201.tv_in1k",  # 76.9
    "vgg16": "vgg16.tv_in1k",  # 71.6
    "vgg16_bn": "vgg16_bn.tv_in1k",  # 73.4
    # DeepLabV3+'s aligned Xception with 16 middle blocks, with the weights of DeepLab's authors.
    "xception": "xception65.tf_in1k",
    # torchvision's name; trained by timm.
    "mobilenet_v2": "mobilenetv2_100.ra_in1k",
}
"""Names of the ancestor and of torchvision, and the timm weights that each one loads."""


class Encoder(TypedDict):
    """An encoder as a config writes it where its name alone does not say enough."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # pyrefly: ignore

    name: str
    img_size: NotRequired[Annotated[int, Ge(1)]]
    drop_path_rate: NotRequired[Annotated[float, Ge(0), Lt(1)]]


def name_of(encoder: str | Encoder) -> str:
    """Return the name that a config gives an encoder."""
    return encoder if isinstance(encoder, str) else encoder["name"]


def timm_name(encoder: str | Encoder) -> str:
    """Return timm's name of an encoder, with a tag where one is meant.

    Raises:
        ConfigError: timm has no encoder or no weights of this name.
    """
    from timm.models import get_arch_pretrained_cfgs, is_model, list_models

    name = name_of(encoder)
    full_name = ALIASES.get(name, name)
    if not is_model(full_name):
        known = [*ALIASES, *list_models()]
        raise ConfigError(f"arch.args.backbone: unknown encoder {name!r}{_few(name, known)}")
    if "." in full_name and full_name not in get_arch_pretrained_cfgs(full_name):
        tags = ", ".join(get_arch_pretrained_cfgs(full_name))
        raise ConfigError(f"arch.args.backbone: unknown weights {name!r}; known: {tags}")
    return full_name


def options_of(encoder: str | Encoder) -> dict[str, object]:
    """Return what a config says about an encoder beside its name, as timm's arguments."""
    return {} if isinstance(encoder, str) else {k: v for k, v in encoder.items() if k != "name"}


def native_size(encoder: str | Encoder) -> int:
    """Return the side of the images that an encoder is built for."""
    from timm.models import get_pretrained_cfg

    chosen = options_of(encoder).get("img_size")
    if isinstance(chosen, int):
        return chosen
    configuration = get_pretrained_cfg(timm_name(encoder))
    return 224 if configuration is None else configuration.input_size[-1]


def _few(name: str, known: list[str]) -> str:
    """Suggest near names, but do not list a thousand known ones."""
    near = difflib.get_close_matches(name, dict.fromkeys(known), n=5)
    if near:
        return f"; did you mean {', '.join(near)}?"
    return "; a name of timm's is expected, for example resnet50, efficientnet_b0, convnext_tiny"

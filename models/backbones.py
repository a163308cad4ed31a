"""Encoders by name, from timm: features from shallow to deep, with their widths and strides."""

import contextlib
import difflib
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.pretrained import check_fit, weights_of
from utils.errors import ConfigError
from utils.files.matching import align

OutputStride = Literal[8, 16, 32]

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


class Backbone(nn.Module):
    """A timm encoder.

    Attributes:
        channels: Width of each feature map, shallow to deep.
        strides: Its stride with respect to the image.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        info: Any = network.feature_info
        self.network = network
        self.channels = tuple(info.channels())
        self.strides = tuple(info.reduction())

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of ``(N, in_channels, H, W)``: one ``(N, c, H/s, W/s)`` a stage."""
        return self.network(images)

    def at_stride(self, stride: int) -> int:
        """Return the index of the first feature map with this stride.

        Raises:
            ConfigError: The encoder has none.
        """
        if stride not in self.strides:
            raise ConfigError(
                f"arch.args.backbone: needs an encoder with features at stride {stride}; "
                f"this one has {', '.join(map(str, self.strides))}"
            )
        return self.strides.index(stride)


def build_backbone(
    name: str,
    *,
    in_channels: int = 3,
    output_stride: OutputStride = 32,
    pretrained: bool | str = True,
) -> Backbone:
    """Build an encoder that hands out all its stages.

    Args:
        name: A timm name, with or without a tag, or one of ``ALIASES``.
        in_channels: Channels of the images. A pretrained stem is adapted by timm: three-channel
            weights are repeated and rescaled.
        output_stride: Stride of the deepest features; below 32 the last stages are dilated.
        pretrained: True for timm's weights, False for none, or the path of a weight file.

    Raises:
        ConfigError: Unknown name, an encoder that cannot be dilated so or works on one image size
            only, no weights to be had.
        CheckpointError: The weight file is missing, damaged, or of another encoder.
    """
    dilation = {} if output_stride == 32 else {"output_stride": output_stride}
    network = build_timm(
        name,
        in_channels=in_channels,
        pretrained=pretrained,
        options={"features_only": True, **dilation},
    )
    backbone = Backbone(network)
    if backbone.strides[-1] != output_stride:
        raise ConfigError(
            f"arch.args.backbone: {name} ends at stride {backbone.strides[-1]}, "
            f"needed: {output_stride}"
        )
    return backbone


def build_timm(
    name: str,
    *,
    in_channels: int,
    pretrained: bool | str,
    options: Mapping[str, object],
) -> nn.Module:
    """Build a timm network for the papers that alter it themselves.

    On the meta device, which has no memory to load weights into, they are only asked for.

    Args:
        name: A timm name, with or without a tag, or one of ``ALIASES``.
        in_channels: Channels of the images.
        pretrained: True for timm's weights, False for none, or the path of a weight file.
        options: Further arguments of ``timm.create_model``.

    Raises:
        ConfigError: Unknown name, options the encoder lacks, no weights to be had.
        CheckpointError: The weight file is missing, damaged, or of another encoder.
    """
    import timm  # seconds; only who builds an encoder pays them

    full_name = ALIASES.get(name, name)
    _check_name(name, full_name)
    only_ask = torch.get_default_device().type == "meta"
    weights = weights_of(full_name, pretrained, only_ask=only_ask)
    if isinstance(pretrained, str) and weights is not None:
        plain = timm.create_model(full_name, in_chans=in_channels)
        weights = _to_timm_names(plain, align(weights, plain.state_dict()))
        check_fit(plain, weights, name=full_name, path=pretrained)
    arguments: dict[str, Any] = dict(options)
    weights = None if only_ask else weights
    if weights is not None:
        arguments["pretrained_cfg_overlay"] = {"state_dict": weights}
    try:
        with _quiet():
            return timm.create_model(
                full_name, in_chans=in_channels, pretrained=weights is not None, **arguments
            )
    except (TypeError, AssertionError, NotImplementedError) as error:
        # timm says it in as many ways as it has families of networks.
        raise ConfigError(
            f"arch.args.backbone: {name} does not offer "
            f"{', '.join(f'{key} {value}' for key, value in options.items())}; "
            "a ResNet, EfficientNet, MobileNet or ConvNeXt does"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep timm from reporting that a classifier was left out, which is what is wanted."""
    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_name(name: str, full_name: str) -> None:
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model, list_models

    if not is_model(full_name):
        known = [*ALIASES, *list_models()]
        raise ConfigError(f"arch.args.backbone: unknown encoder {name!r}{_few(name, known)}")
    if "." in full_name and full_name not in get_arch_pretrained_cfgs(full_name):
        tags = ", ".join(get_arch_pretrained_cfgs(full_name))
        raise ConfigError(f"arch.args.backbone: unknown weights {name!r}; known: {tags}")
    configuration = get_pretrained_cfg(full_name)
    if configuration is not None and configuration.fixed_input_size:
        raise ConfigError(
            f"arch.args.backbone: {name} works on images of one size only; take an encoder for "
            "any size, such as a ResNet, EfficientNet or ConvNeXt"
        )


def _few(name: str, known: list[str]) -> str:
    """Suggest near names, but do not list a thousand known ones."""
    near = difflib.get_close_matches(name, dict.fromkeys(known), n=5)
    if near:
        return f"; did you mean {', '.join(near)}?"
    return "; a name of timm's is expected, for example resnet50, efficientnet_b0, convnext_tiny"


def _to_timm_names(network: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate the tensor names of an encoder's first publication, where timm knows how."""
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    return weights if translate is None else translate(weights, network)

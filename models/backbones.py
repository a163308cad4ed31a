"""Encoders from timm: features from shallow to deep, with their widths and strides."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.any_size import cells, fit, within
from models.encoder_names import Encoder, name_of, native_size, options_of, timm_name
from models.pretrained import check_fit, weights_of
from utils.errors import ConfigError
from utils.files.matching import align

OutputStride = Literal[8, 16, 32]

# Families of timm (its modules) whose position tables or windows it brings to the image's size.
_DYNAMIC = {"deit", "eva", "swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr",
            "vision_transformer", "vision_transformer_hybrid", "vitamin"}  # fmt: skip
# Families with one stride throughout. The last four blocks are handed out, each behind the
# network's final normalization, as DINOv2 and DINOv3 evaluate theirs.
_PLAIN = {"deepseek_vit", "deit", "eva", "gemma4_vit", "naflexvit", "qwen3_vit",
          "vision_transformer", "vision_transformer_hybrid", "vision_transformer_sam", "vitamin",
          "xcit"}  # fmt: skip
_PLAIN_FEATURES = 4
# Families that compute with channels last, of which timm's other extractors hand out the layout.
_CHANNELS_LAST = {"mambaout", "sequencer", "swin_transformer", "swin_transformer_v2"}

# Of the options of timm.create_model those that a config may ask for.
_ASKED = ("img_size", "drop_path_rate", "output_stride")


class Backbone(nn.Module):
    """A timm encoder for images of any size.

    Images are padded with zeros, below and to the right, to what the encoder needs; its features
    are cropped back.

    Attributes:
        channels: Width of each feature map, shallow to deep.
        strides: Its stride with respect to the image.
        multiple: Images are padded to multiples of this side.
        name: timm's name of the encoder.
    """

    channels: tuple[int, ...]
    strides: tuple[float, ...]

    def __init__(self, network: nn.Module, encoder: str | Encoder, *, in_channels: int) -> None:
        """Find out what the encoder needs.

        Args:
            network: Maps images to a list of features, and describes them in `feature_info`.
            encoder: What the config calls it.
            in_channels: Channels of the images.

        Raises:
            ConfigError: It works at one size only.
        """
        super().__init__()
        info: Any = network.feature_info
        self.name = timm_name(encoder)
        self.network = network
        self.channels, self.strides = tuple(info.channels()), tuple(info.reduction())
        self.multiple, self._lost = fit(
            network, in_channels=in_channels, native=native_size(encoder), name=self.name
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of ``(N, in_channels, H, W)``: one ``(N, c, H/s, W/s)`` a stage."""
        if self.multiple == 1:
            return self.network(images)
        size = images.shape[2:]
        # Not a remainder: torch.export simplifies the padded side to a multiple only so.
        below, right = (cells(side, self.multiple) * self.multiple - side for side in size)
        features = self.network(F.pad(images, (0, right, 0, below)))
        return [
            _place(map_, lost, size, stride) if stride < self.multiple or lost else map_
            for map_, lost, stride in zip(features, self._lost, self.strides, strict=True)
        ]

    @property
    def plain(self) -> bool:
        """Whether all features have one stride."""
        return len(set(self.strides)) == 1

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
    encoder: str | Encoder,
    *,
    in_channels: int = 3,
    output_stride: OutputStride | None = None,
    pretrained: bool | str = True,
) -> Backbone:
    """Build an encoder that hands out all its stages.

    Args:
        encoder: A timm name, with or without a tag, or one of ``ALIASES``; or an object with a
            name and options.
        in_channels: Channels of the images. A pretrained stem is adapted by timm: three-channel
            weights are repeated and rescaled.
        output_stride: Stride that the deepest features must have; the last stages of an encoder
            that goes further are dilated. None: as far as it goes.
        pretrained: True for timm's weights, False for none, or the path of a weight file.

    Raises:
        ConfigError: Unknown name, an encoder that cannot be dilated so or works on one image size
            only, no weights to be had.
        CheckpointError: The weight file is missing, damaged, or of another encoder.
    """
    family = _family(timm_name(encoder))
    plain = family in _PLAIN
    options: dict[str, object] = {"dynamic_img_size": True} if family in _DYNAMIC else {}
    if output_stride not in (None, 32) and not plain:
        options["output_stride"] = output_stride
    own_extractor = plain or family in _CHANNELS_LAST
    options |= {"num_classes": 0} if own_extractor else {"features_only": True}
    network = build_timm(encoder, in_channels=in_channels, pretrained=pretrained, options=options)
    if own_extractor:
        from timm.models._features import FeatureGetterNet  # pyrefly: ignore

        info: Any = network.feature_info
        stages: Any = _PLAIN_FEATURES if plain else tuple(range(len(info)))
        network = FeatureGetterNet(network, out_indices=stages, norm=plain)
    backbone = Backbone(network, encoder, in_channels=in_channels)
    if output_stride is not None and backbone.strides[-1] != output_stride:
        raise ConfigError(
            f"arch.args.backbone: {name_of(encoder)} ends at stride {backbone.strides[-1]}, "
            f"needed: {output_stride}"
        )
    return backbone


def _place(features: Tensor, lost: int, size: Sequence[int], stride: float) -> Tensor:
    """Bring the features of padded images to the cells that lie in images of ``size``."""
    if lost:  # at all sides, by convolutions without padding
        features = F.pad(features, (lost // 2, lost - lost // 2) * 2, mode="replicate")
    return within(features, size, stride)


def _family(name: str) -> str:
    from timm.models import get_arch_name, model_entrypoint

    return model_entrypoint(get_arch_name(name)).__module__.rpartition(".")[2]


def build_timm(
    encoder: str | Encoder,
    *,
    in_channels: int,
    pretrained: bool | str,
    options: Mapping[str, object],
) -> nn.Module:
    """Build a timm network for the papers that alter it themselves.

    On the meta device, which has no memory to load weights into, they are only asked for.

    Args:
        encoder: A timm name, with or without a tag, or one of ``ALIASES``; or an object with a
            name and options.
        in_channels: Channels of the images.
        pretrained: True for timm's weights, False for none, or the path of a weight file.
        options: Further arguments of ``timm.create_model``.

    Raises:
        ConfigError: Unknown name, options the encoder lacks, no weights to be had.
        CheckpointError: The weight file is missing, damaged, or of another encoder.
    """
    import timm  # seconds; only who builds an encoder pays them

    full_name = timm_name(encoder)
    only_ask = torch.get_default_device().type == "meta"
    weights = weights_of(full_name, pretrained, only_ask=only_ask)
    if isinstance(pretrained, str) and weights is not None:
        plain = timm.create_model(full_name, in_chans=in_channels)
        weights = _to_timm_names(plain, align(weights, plain.state_dict()))
        check_fit(plain, weights, name=full_name, path=pretrained)
    arguments: dict[str, Any] = {**options_of(encoder), **options}
    weights = None if only_ask else weights
    if weights is not None:
        arguments["pretrained_cfg_overlay"] = {"state_dict": weights}
    try:
        with _quiet():
            return timm.create_model(
                full_name, in_chans=in_channels, pretrained=weights is not None, **arguments
            )
    except (TypeError, AssertionError, NotImplementedError) as error:
        if only_ask and "meta" in str(error):  # older timm computes while it builds
            raise
        # timm says it in as many ways as it has families of networks.
        asked = [f"{key} {value}" for key, value in arguments.items() if key in _ASKED]
        raise ConfigError(
            f"arch.args.backbone: {name_of(encoder)} does not offer "
            f"{', '.join(asked) or 'features'}; docs/encoders.md lists what each family offers"
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


def _to_timm_names(network: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate the tensor names of an encoder's first publication, where timm knows how."""
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    return weights if translate is None else translate(weights, network)

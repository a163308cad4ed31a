"""What every network of this project promises: its forward contract, its groups, its freezing."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Size(NamedTuple):
    """How many parameters a network must have; a test counts them."""

    num_classes: int
    arguments: Mapping[str, object]
    millions: float
    source: str
    """Where the number stands, or what the predecessor, yassouali/pytorch-segmentation, has."""
    within: float = 0.03
    """Relative difference that is accepted."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the documents and the tests need to know of a network beyond its signature."""

    paper: str
    """Short title and year."""
    arxiv: str
    """Number of the paper at arxiv.org."""
    strides: str
    """Output strides of the encoder."""
    encoders: str
    """Which encoders it takes."""
    small: Mapping[str, object] = field(default_factory=dict)
    """Arguments that make it small enough for a test."""
    auxiliary: int = 0
    """Outputs beside the logits in training."""
    sizes: tuple[Size, ...] = ()
    """Known numbers of parameters, of the paper's or of another implementation's network."""


class BaseModel(nn.Module):
    """A segmentation network.

    ``forward`` takes images, float ``(N, C, H, W)`` with H and W >= 32, and returns logits
    ``(N, num_classes, H, W)``. In training a network with deep supervision returns
    ``(logits, *aux)``, all at the images' size; in eval mode it always returns one tensor.

    A subclass builds its layers and calls :meth:`finish` as the last line of its constructor. The
    part that starts from pretrained weights is its attribute ``backbone``; all the rest is the
    decoder.

    Attributes:
        num_classes: Channels of the logits.
        in_channels: Channels of the images.
        min_train_batch: The smallest batch a process can train on: 2 where a branch normalizes a
            single pooled value, which has no variance with one image.
        notes: One line for each accepted argument that has no effect here.
        facts: What the documents and the tests say about the network.
    """

    facts: ClassVar[Facts]
    num_classes: int
    in_channels: int
    min_train_batch: int = 1
    notes: tuple[str, ...] = ()

    def __init__(self, num_classes: int, *, in_channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = in_channels
        self._frozen_backbone = False
        self._frozen_batchnorm = False
        self._batchnorm_stride = 1

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the logits of ``images``; see the class for shapes."""
        raise NotImplementedError

    def finish(
        self,
        *,
        freeze_bn: bool,
        freeze_backbone: bool,
        pretrained: bool | str,
        pooled_batchnorm: bool = False,
        batchnorm_stride: int = 1,
    ) -> None:
        """Freeze what is asked for and note what has no effect; ends every constructor.

        Args:
            freeze_bn: Keep the statistics of all batch normalization; its weights go on learning.
            freeze_backbone: Keep the backbone as it is: weights and statistics.
            pretrained: What the user asked for, to answer it where there is nothing to load into.
            pooled_batchnorm: Whether a branch normalizes values pooled to 1x1.
            batchnorm_stride: Stride of the coarsest map that is normalized.
        """
        name = type(self).__name__
        has_backbone = any(True for _ in self.backbone_parameters())
        has_batchnorm = any(isinstance(module, _BatchNorm) for module in self.modules())
        notes = []
        if freeze_bn and not has_batchnorm:
            notes.append(f"freeze_bn has no effect: this {name} has no batch normalization")
        if freeze_backbone and not has_backbone:
            notes.append(f"freeze_backbone has no effect: {name} has no backbone")
        if pretrained and not has_backbone:
            notes.append(f"pretrained has no effect: {name} learns from scratch, no weights exist")
        self.notes = tuple(notes)
        self.min_train_batch = 2 if pooled_batchnorm and not freeze_bn else 1
        self._batchnorm_stride = batchnorm_stride
        self._frozen_backbone = freeze_backbone and has_backbone
        self._frozen_batchnorm = freeze_bn and has_batchnorm
        if self._frozen_backbone:
            for parameter in self.backbone_parameters():
                parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch between training and eval; what is frozen stays in eval."""
        super().train(mode)
        if self._frozen_backbone:
            self._backbone().eval()
        if self._frozen_batchnorm:
            for module in self.modules():
                # SyncBatchNorm is no BatchNorm2d: only the common base catches both.
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def fewest_images(self, side: int | None) -> int:
        """Return the smallest batch a process can train on.

        Args:
            side: Of the images, which are square; None when they are large.
        """
        if side is None or side > self._batchnorm_stride:
            return self.min_train_batch
        learns = any(isinstance(part, _BatchNorm) and part.training for part in self.modules())
        return 2 if learns else 1  # the coarsest map is one value, which has no variance

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the backbone, frozen ones too."""
        yield from self._backbone().parameters()

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield every parameter that :meth:`backbone_parameters` does not."""
        backbone = {id(parameter) for parameter in self.backbone_parameters()}
        yield from (p for p in self.parameters() if id(p) not in backbone)

    def _backbone(self) -> nn.Module:
        backbone = self._modules.get("backbone")
        return nn.Identity() if backbone is None else backbone


class Network(Protocol):
    """The class of a network, as a table of networks holds it."""

    facts: Facts
    __call__: Callable[..., BaseModel]

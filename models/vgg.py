"""VGG encoders, cut where they pool: FCN takes the scores between, SegNet the places of the maxima.

Karen Simonyan, Andrew Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2014, https://arxiv.org/abs/1409.1556. The networks and their weights are timm's.
"""

from typing import Any, Literal

from torch import Tensor, nn

from models.backbones import build_timm

VGGName = Literal["vgg16", "vgg16_bn"]


class VGG(nn.Module):
    """The five convolutional stages of VGG16 and, where asked for, fc6 and fc7 as convolutions.

    Attributes:
        stages: Five groups of convolutions; the map is halved after each.
        fc6: 7x7 convolution to 4096 channels, or None.
        fc7: 1x1 convolution to 4096 channels, or None.
    """

    def __init__(
        self, name: VGGName, *, in_channels: int, pretrained: bool | str, fully_connected: bool
    ) -> None:
        super().__init__()
        network: Any = build_timm(
            name, in_channels=in_channels, pretrained=pretrained, options={"num_classes": 0}
        )
        stages: list[list[nn.Module]] = [[]]
        for layer in network.features:
            if isinstance(layer, nn.MaxPool2d):
                stages.append([])
            else:
                stages[-1].append(layer)
        self.stages = nn.ModuleList(nn.Sequential(*layers) for layers in stages[:-1])
        self.fc6: nn.Conv2d | None = network.pre_logits.fc1 if fully_connected else None
        self.fc7: nn.Conv2d | None = network.pre_logits.fc2 if fully_connected else None
        if self.fc6 is not None:
            self.fc6.padding = (3, 3)  # keeps the size of the map

    def forward(self, x: Tensor) -> Tensor:
        """Not used: the papers go through the stages in their own ways."""
        raise NotImplementedError

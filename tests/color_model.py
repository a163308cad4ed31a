"""A model whose answer is known: each pixel is the class whose color is nearest."""

import torch
from torch import nn

from utils.run import checkpoint

CLASSES = ("sky", "tree", "road", "car")
COLORS = ((251, 12, 7), (9, 241, 18), (13, 22, 255), (240, 237, 229))  # ties are rare
PALETTE = ((70, 130, 180), (107, 142, 35), (128, 64, 128), (0, 0, 142))


class ColorModel(nn.Module):
    """Logits are minus the squared distance to each color, less what all classes share."""

    def __init__(self, colours=COLORS):
        super().__init__()
        color = torch.tensor(colours, dtype=torch.float32) / 255
        self.conv = nn.Conv2d(color.shape[1], len(color), 1)
        self.conv.weight.data = 20 * color[:, :, None, None]
        self.conv.bias.data = -10 * color.square().sum(1)

    def forward(self, images):
        return self.conv(images)


def checkpoint_of(model, *, classes=CLASSES, palette=PALETTE, arch="ENet", **changes):
    """What a run would have saved for this model; mean 0 and std 1."""
    config = {
        "arch": {"type": arch, "args": {}},
        "train_loader": {"type": "Shapes", "args": {"crop_size": 64}},
        "trainer": {"precision": "fp32"},
    }
    channels = model.conv.in_channels if isinstance(model, ColorModel) else 3
    content = {
        "arch": arch,
        "epoch": 1,
        "step": 1,
        "state_dict": model.state_dict(),
        "config": config,
        "classes": list(classes),
        "palette": [list(color) for color in palette],
        "mean": [0.0] * channels,
        "std": [1.0] * channels,
        "ignore_index": 255,
        "input_dtype": "uint8",
    }
    return content | changes


def save_checkpoint(path, model, **changes):
    checkpoint.save([path], checkpoint_of(model, **changes))
    return path


def picture_of(mask, colours=COLORS):
    """The RGB image (H, W, 3) that `ColorModel` answers with `mask`."""
    return torch.tensor(colours, dtype=torch.uint8)[torch.tensor(mask.copy()).long()].numpy()

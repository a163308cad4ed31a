"""Small data and a fake model for the tests of evaluation, and a checkpoint to evaluate."""

import numpy as np
import torch

from models import MODELS
from utils.evaluation.scoring import Evaluator
from utils.run import checkpoint

CLASSES = ("sky", "road", "tree", "tram")
PALETTE = ((10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200))


class Images:
    """Random images of odd sizes; the 'model' sees its answer in the first channel."""

    num_classes = len(CLASSES)
    ignore_index = 255

    def __init__(self, length, *, seed=0, size=23):
        self.length = length
        self.seed = seed
        self.size = size

    def __len__(self):
        return self.length

    def name(self, index):
        return f"/data/set/{'ab'[index % 2]}/image {index:03}.png"

    def parts(self, index):
        """(prediction, mask), blocks of pixels, the mask with void, errors and no class 3."""
        random = np.random.default_rng((self.seed, index))
        height, width = random.integers(5, self.size, size=2)
        blocks = random.integers(0, 3, size=(height // 4 + 1, width // 4 + 1))
        mask = blocks.repeat(4, 0).repeat(4, 1)[:height, :width]
        prediction = mask.copy()
        wrong = random.random(mask.shape) < random.uniform(0, 0.6)
        prediction[wrong] = random.integers(0, 3, size=int(wrong.sum()))
        mask = mask.astype(np.uint8)
        mask[random.random(mask.shape) < 0.1] = 255
        if index == 1:
            mask[:] = 255
        return prediction, mask

    def load(self, index):
        prediction, mask = self.parts(index)
        return prediction[..., None].repeat(3, 2).astype(np.uint8), mask


def answer(image):
    """The 'model': its answer stands in the image."""
    return image[..., 0].astype(np.int64)


def draw_nothing(image, mask, prediction):
    """Images that cost nothing."""
    return (b"image", b"label", b"prediction", b"errors")


def evaluated():
    """Everything that an evaluation of 33 images finds, as text."""
    return repr(Evaluator(Images(33), answer, draw=draw_nothing, boundary_ratio=0.02).run())


def oracle(pairs, num_classes, ignore_index):
    """Counts by a plain loop over classes, in NumPy."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    for prediction, mask in pairs:
        valid = mask != ignore_index
        for label in range(num_classes):
            for other in range(num_classes):
                counts[label, other] += (valid & (mask == label) & (prediction == other)).sum()
    return counts


def shapes_config(length, **trainer):
    """A config of the embedded data set with a tiny network."""
    data = {"split": "val", "length": length, "height": 48, "width": 64}
    return {
        "name": "tiny",
        "n_gpu": 0,
        "arch": {"type": "UNet", "args": {"base_channels": 4}},
        "train_loader": {
            "type": "Shapes",
            "args": {
                **data,
                "split": "train",
                "batch_size": 2,
                "crop_size": 32,
                "augment": True,
                "num_workers": 0,
            },
        },
        "val_loader": {
            "type": "Shapes",
            "args": {**data, "batch_size": 2, "crop_size": 32, "val": True, "num_workers": 0},
        },
        "trainer": {"precision": "fp32", "epochs": 1, "tensorboard": False, **trainer},
    }


def write_checkpoint(path, *, length=5, classes=None):
    """A checkpoint of an untrained network for `shapes_config`."""
    from dataloaders.shapes import Shapes

    config = shapes_config(length)
    torch.manual_seed(0)
    names = list(classes or Shapes.classes)
    model = MODELS["UNet"](len(names), base_channels=4)
    content = {
        "arch": "UNet",
        "config": config,
        "state_dict": model.state_dict(),
        "classes": names,
        "palette": [list(color) for color in Shapes.palette[: len(names)]],
        "mean": list(Shapes.mean),
        "std": list(Shapes.std),
        "ignore_index": 255,
        "input_dtype": "uint8",
        "epoch": 3,
        "step": 12,
    }
    checkpoint.save([path], content)
    return path

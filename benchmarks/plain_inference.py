"""The usual way to segment a folder of images: what inference is measured against.

Pillow, float32, one image, one scale or one window at a time, nothing overlapped. `model` maps
(1, 3, H, W) normalized float32 to (1, K, H, W) logits. Time it beside the project's own prediction
in ONE run, alternating, with the same model and images.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Model = Callable[[Tensor], Tensor]
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def read(path: Path) -> Tensor:
    """One image, normalized: float32 (1, 3, H, W)."""
    pixels = np.array(Image.open(path).convert("RGB"))
    return ((torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - MEAN) / STD)[None]


def multiscale(
    model: Model,
    image: Tensor,
    scales: Sequence[float] = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
    *,
    flip: bool = False,
) -> Tensor:
    """The sum of the logits at several scales, each resized back."""
    size, total = image.shape[2:], torch.zeros(1)
    for scale in scales:
        scaled = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
        for turned in (False, True) if flip else (False,):
            logits = model(scaled.flip(-1) if turned else scaled)
            logits = logits.flip(-1) if turned else logits
            total = total + F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return total


def sliding(
    model: Model,
    image: Tensor,
    window: tuple[int, int],
    overlap: float = 1 / 3,
    *,
    flip: bool = True,
) -> Tensor:
    """The mean of the logits of overlapping windows."""
    height, width = image.shape[2:]
    win_h, win_w = min(window[0], height), min(window[1], width)
    step_h, step_w = (max(1, int(side * (1 - overlap))) for side in (win_h, win_w))
    rows = sorted({min(y, height - win_h) for y in range(0, height, step_h)})
    cols = sorted({min(x, width - win_w) for x in range(0, width, step_w)})
    total, count = torch.zeros(1), torch.zeros(1, 1, height, width)
    for y in rows:
        for x in cols:
            part = image[:, :, y : y + win_h, x : x + win_w]
            logits = model(part)
            if flip:
                logits = (logits + model(part.flip(-1)).flip(-1)) / 2
            if total.ndim == 1:
                total = torch.zeros(1, logits.shape[1], height, width)
            total[:, :, y : y + win_h, x : x + win_w] += logits
            count[:, :, y : y + win_h, x : x + win_w] += 1
    return total / count


@torch.no_grad()
def segment_folder(
    model: Model,
    images: Path,
    output: Path,
    palette: Sequence[int],
    predict: Callable[[Model, Tensor], Tensor],
) -> None:
    """`predict(model, image)` is one of the above, or the model itself for whole images."""
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(images.glob("*.jpg")):
        mask = predict(model, read(path)).argmax(1)[0].byte().numpy()
        image = Image.fromarray(mask)
        image.putpalette(palette)
        image.save(output / f"{path.stem}.png")


if __name__ == "__main__":  # it is timed by the others
    print(__doc__)

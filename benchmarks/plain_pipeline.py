"""The usual way to prepare a training sample, step by step: what the loader is measured against.

Decode with Pillow, go to float32, resize, rotate, pad, crop, flip, blur, back to uint8, to tensor,
normalize, as most segmentation projects do it with OpenCV. Time it beside the project's own dataset
in ONE run, alternating, on one thread:

    from plain_pipeline import plain_sample
    image, mask = plain_sample(
        image_path, mask_path, base_size=400, crop_size=380, rng=random.Random(0)
    )
"""

import random

import cv2
import numpy as np
import torch
from PIL import Image

MEAN = np.array([0.457, 0.433, 0.401], np.float32)
STD = np.array([0.240, 0.235, 0.240], np.float32)


def plain_sample(
    image_path: str,
    mask_path: str,
    *,
    base_size: int,
    crop_size: int,
    rng: random.Random,
    label_map: dict[int, int] | None = None,
    ignore_index: int = 255,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (3, crop, crop) float32 normalized and (crop, crop) int64, everything switched on."""
    image = np.asarray(Image.open(image_path).convert("RGB"), dtype=np.float32)
    mask = np.array(Image.open(mask_path), dtype=np.int32)
    for raw, train_id in (label_map or {}).items():
        mask[mask == raw] = train_id

    height, width = mask.shape
    longest = rng.randint(int(base_size * 0.5), int(base_size * 2.0))
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)

    turn = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), rng.uniform(-10, 10), 1.0)
    image = cv2.warpAffine(image, turn, size, flags=cv2.INTER_LINEAR)
    mask = cv2.warpAffine(mask, turn, size, flags=cv2.INTER_NEAREST, borderValue=ignore_index)

    below, beside = max(crop_size - size[1], 0), max(crop_size - size[0], 0)
    if below or beside:
        image = cv2.copyMakeBorder(image, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=0)
        mask = cv2.copyMakeBorder(
            mask, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=ignore_index
        )
    top = rng.randint(0, mask.shape[0] - crop_size)
    left = rng.randint(0, mask.shape[1] - crop_size)
    image = image[top : top + crop_size, left : left + crop_size]
    mask = mask[top : top + crop_size, left : left + crop_size]

    if rng.random() < 0.5:
        image, mask = np.fliplr(image).copy(), np.fliplr(mask).copy()
    sigma = rng.random()
    kernel = int(3.3 * sigma) | 1
    image = cv2.GaussianBlur(image, (kernel, kernel), sigmaX=sigma)

    pixels = np.asarray(Image.fromarray(np.uint8(image)))
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float().div(255)
    tensor = (tensor - torch.from_numpy(MEAN)[:, None, None]) / torch.from_numpy(STD)[:, None, None]
    return tensor, torch.from_numpy(mask.astype(np.int64))


if __name__ == "__main__":  # it is timed by the others
    print(__doc__)

"""What happens to the colors of a sample, in the file's own dtype; values stay within it.

How much is drawn from which range: see the arguments in base/augmentation.py.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import cv2
import numpy as np

BLUR_PROBABILITY = 0.5
BLUR_SIGMA = (0.5, 1.5)
GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma, as Pillow and OpenCV use
# RGB to luma and two color differences, as in analog television; hue is their angle.
_YUV = np.array([GRAY, 0.492 * (np.eye(3)[2] - GRAY), 0.877 * (np.eye(3)[0] - GRAY)])


class Draw(NamedTuple):
    """What an effect depends on beside the image.

    Attributes:
        amount: Its strength, as a config says it.
        rng: Its own generator.
        mean: Of each channel of the data set, in the unit of its pixels.
        std: Likewise the standard deviation.
    """

    amount: float
    rng: np.random.Generator
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def change(self) -> float:
        """Draw from -amount..amount."""
        return self.amount * (2 * self.rng.random() - 1)


def random_blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur (H, W, C) with the documented probability and range."""
    blurred, sigma = rng.random() < BLUR_PROBABILITY, rng.uniform(*BLUR_SIGMA)
    if not blurred:
        return image
    side = 2 * math.ceil(2 * sigma) + 1  # 95 % of the Gaussian's weight along each axis
    kernel = cv2.getGaussianKernel(side, sigma)
    # Faster than OpenCV's GaussianBlur, and rounded once where that rounds after each axis.
    return cv2.sepFilter2D(image, -1, kernel, kernel).reshape(image.shape)


def random_jitter(
    image: np.ndarray, rng: np.random.Generator, *, jitter: float, pivot: tuple[float, ...]
) -> np.ndarray:
    """Change brightness, contrast and (with three channels) saturation as one linear map.

    Args:
        image: (H, W, C), any dtype; values of integer dtypes saturate at the dtype's ends.
        rng: The sample's own generator.
        jitter: Each factor is uniform in [1 - jitter, 1 + jitter].
        pivot: The color that contrast leaves alone (the data set's mean), one value a channel.
    """
    brightness, contrast, saturation = rng.uniform(1 - jitter, 1 + jitter, size=3)
    channels = image.shape[2]
    color = _saturated(saturation) if channels == 3 else np.eye(channels)
    shift = brightness * (1 - contrast) * color @ np.asarray(pivot, np.float64)
    return _mapped(image, brightness * contrast * color, shift)


def _saturated(factor: float) -> np.ndarray:
    return factor * np.eye(3) + (1 - factor) * np.tile(GRAY, (3, 1))


def _mapped(image: np.ndarray, matrix: np.ndarray, shift: np.ndarray | float = 0.0) -> np.ndarray:
    """Map each pixel's channels linearly."""
    channels = image.shape[2]
    if channels <= 4:
        rows = np.column_stack([matrix, np.broadcast_to(shift, channels)])
        return cv2.transform(image, rows).reshape(image.shape)
    return _fitted(image @ matrix.T + shift, image.dtype)


def _fitted(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Round and clip to what an integer dtype holds."""
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)


def _brightness(image: np.ndarray, draw: Draw) -> np.ndarray:
    return _mapped(image, (1 + draw.change()) * np.eye(image.shape[2]))


def _contrast(image: np.ndarray, draw: Draw) -> np.ndarray:
    change = draw.change()
    return _mapped(image, (1 + change) * np.eye(image.shape[2]), -change * np.array(draw.mean))


def _saturation(image: np.ndarray, draw: Draw) -> np.ndarray:
    return _mapped(image, _saturated(1 + draw.change()))


def _hue(image: np.ndarray, draw: Draw) -> np.ndarray:
    angle = 2 * math.pi * draw.change()
    turn = np.eye(3)
    turn[1:, 1:] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return _mapped(image, np.linalg.inv(_YUV) @ turn @ _YUV)


def _gamma(image: np.ndarray, draw: Draw) -> np.ndarray:
    exponent = 1 + draw.change()
    if np.issubdtype(image.dtype, np.integer):
        full = np.iinfo(image.dtype).max
        table = _fitted(full * np.linspace(0, 1, full + 1) ** exponent, image.dtype)
        return cv2.LUT(image, table).reshape(image.shape) if full == 255 else table[image]
    low, high = float(image.min()), float(image.max())
    room = (high - low) or 1.0
    return low + room * ((image - low) / room) ** exponent


def _noise(image: np.ndarray, draw: Draw) -> np.ndarray:
    sigma = draw.amount * draw.rng.random() * np.array(draw.std)
    noise = draw.rng.standard_normal(image.shape, np.float32)
    return _fitted(image + sigma.astype(np.float32) * noise, image.dtype)


def _cutout(image: np.ndarray, draw: Draw) -> np.ndarray:
    height, width = image.shape[:2]
    rows, columns = (round(side * draw.amount * draw.rng.random()) for side in (height, width))
    top, left = draw.rng.integers((height - rows + 1, width - columns + 1))
    image = image.copy()
    image[top : top + rows, left : left + columns] = _fitted(np.array(draw.mean), image.dtype)
    return image


EFFECTS: Mapping[str, Callable[[np.ndarray, Draw], np.ndarray]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
    "gamma": _gamma,
    "noise": _noise,
    "cutout": _cutout,
}
"""What changes an image (H, W, C), in this order; a config names each with its strength."""

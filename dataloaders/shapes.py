"""Shapes: an embedded data set, drawn on the spot; nothing to download.

Each image holds textured, shaded shapes that hide one another before a textured background. A
class is an outline with its texture in two of four hues: every hue belongs to three classes, so
that one pixel's color says little and its surroundings say much. The border of every shape is
void, one pixel to each side. Image i of a split depends on (split, content_seed, i, height,
width) alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import cv2
import numpy as np
from annotated_types import Ge

from base.base_dataset import BaseDataset
from utils.data.labels import mask_dtype
from utils.seeding import image_generator

_RADIUS = (10.0, 26.0)  # pixels
_HUES = np.array([(205, 75, 65), (75, 165, 85), (75, 100, 205), (210, 180, 70)], np.float32)
_HUES_OF = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))  # of each class but the background
_COLOR_SPREAD = 22.0  # standard deviation of a shape's colors about its hues
_AREA_PER_SHAPE = 2400.0  # pixels of image for one shape, on average
_SUBPIXEL = 4  # bits of fraction of the corner coordinates that OpenCV draws

Texture = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


@dataclass(kw_only=True, eq=False, repr=False)
class Shapes(BaseDataset):
    """Generated images of six shapes before a background: seven classes.

    Args:
        split: "train" and "val" never share an image.
        length: Number of images.
        height: Image height in pixels.
        width: Image width in pixels.
        content_seed: Another number gives other images.
    """

    split: Literal["train", "val"] = "train"
    length: Annotated[int, Ge(1)] = 1000
    height: Annotated[int, Ge(32)] = 128
    width: Annotated[int, Ge(32)] = 128
    content_seed: Annotated[int, Ge(0)] = 0

    classes: ClassVar[tuple[str, ...]] = (
        "background", "disc", "square", "triangle", "ring", "star", "cross",
    )  # fmt: skip
    palette: ClassVar[tuple[tuple[int, int, int], ...]] = (
        (40, 40, 48), (230, 80, 70), (80, 160, 240), (250, 200, 60), (110, 200, 100),
        (190, 100, 220), (70, 210, 200),
    )  # fmt: skip
    mean: ClassVar[tuple[float, ...]] = (0.49, 0.49, 0.47)
    std: ClassVar[tuple[float, ...]] = (0.18, 0.16, 0.18)

    def __post_init__(self) -> None:
        """Take every image; `select` may leave some out."""
        super().__post_init__()
        self._numbers: Sequence[int] = range(self.length)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._numbers)

    def select(self, indices: Sequence[int]) -> None:
        """Keep only these images."""
        self._numbers = [self._numbers[index] for index in indices]

    def name(self, index: int) -> str:
        """Return an image's name."""
        return f"shapes-{self.split}-{self._numbers[index]:05d}"

    def size(self, index: int) -> tuple[int, int]:  # noqa: ARG002 (all have one size)
        """Return (height, width)."""
        return self.height, self.width

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw image `index`: uint8 (height, width, 3) and its mask (height, width)."""
        split = ("train", "val").index(self.split)
        rng = image_generator(
            split, self.content_seed, self._numbers[index], self.height, self.width
        )
        image, labels, border = draw(self.height, self.width, rng)
        mask = labels.astype(mask_dtype(self.num_classes, self.ignore_index))
        mask[border > 0] = self.ignore_index
        return image, mask


def draw(
    height: int, width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw an image.

    Returns:
        The image uint8 (H, W, 3), its labels uint8 (H, W) without void, and the border
        uint8 (H, W), 1 where a label is doubtful.
    """
    image = _background(height, width, rng)
    labels = np.zeros((height, width), np.uint8)
    border = np.zeros((height, width), np.uint8)
    for _ in range(max(2, round(rng.uniform(0.7, 1.3) * height * width / _AREA_PER_SHAPE))):
        label = int(rng.integers(1, len(_SHAPES) + 1))
        outline, texture = _SHAPES[label - 1]
        center = rng.uniform((0, 0), (width, height))
        radius, turn = rng.uniform(*_RADIUS), rng.uniform(0, 2 * math.pi)
        contours = [
            np.rint((_turned(contour, turn) * radius + center) * 2**_SUBPIXEL).astype(np.int32)
            for contour in outline
        ]
        _paint(image, labels, border, contours, label=label, texture=texture, rng=rng)
    image = cv2.GaussianBlur(image, (3, 3), 0.6)
    noise = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape) >> 4
    grain = np.full_like(image, 8)
    return cv2.subtract(cv2.add(image, noise), grain), labels, border


def _paint(
    image: np.ndarray,
    labels: np.ndarray,
    border: np.ndarray,
    contours: list[np.ndarray],
    *,
    label: int,
    texture: Texture,
    rng: np.random.Generator,
) -> None:
    """Paint one shape over what is there, in place; only its bounding box is touched."""
    corners = np.concatenate(contours) >> _SUBPIXEL
    left, top = np.maximum(corners.min(axis=0) - 2, 0)
    right, bottom = np.minimum(corners.max(axis=0) + 3, (labels.shape[1], labels.shape[0]))
    if left >= right or top >= bottom:
        return
    box = (slice(top, bottom), slice(left, right))
    local = [contour - (np.array((left, top)) << _SUBPIXEL) for contour in contours]
    inside = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(inside, local, 1, lineType=cv2.LINE_8, shift=_SUBPIXEL)
    edge = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))

    v, u = np.mgrid[top:bottom, left:right].astype(np.float32)
    turn, period = rng.uniform(0, math.pi), rng.uniform(4.5, 7.0)
    step = 2 * math.pi / period
    across = (math.cos(turn) * u + math.sin(turn) * v) * step
    along = (math.cos(turn) * v - math.sin(turn) * u) * step
    hues = _HUES[list(_HUES_OF[label - 1])]
    one, other = hues + rng.normal(0, _COLOR_SPREAD, (2, 3)).astype(np.float32)
    blend = texture(across, along, rng)[..., None]
    painted = (one * blend + other * (1 - blend)) * _shade(u, v, rng)[..., None]
    np.copyto(image[box], painted.clip(0, 255).astype(np.uint8), where=inside[..., None] > 0)
    np.copyto(labels[box], label, where=inside > 0)
    # What the shape hides loses its border; what it leaves visible keeps its own.
    np.copyto(border[box], 0, where=inside > 0)
    np.copyto(border[box], 1, where=edge > 0)


def _background(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw value noise of two scales between two colors; uint8 (H, W, 3)."""
    coarse = rng.random((max(2, height // 24), max(2, width // 24)), np.float32)
    fine = rng.random((max(2, height // 6), max(2, width // 6)), np.float32)
    size = (width, height)
    blend = 0.6 * cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    blend += 0.4 * cv2.resize(fine, size, interpolation=cv2.INTER_LINEAR)
    one, other = rng.uniform(30, 225, (2, 3)).astype(np.float32)
    painted = one * blend[..., None] + other * (1 - blend[..., None])
    return painted.clip(0, 255).astype(np.uint8)


def _shade(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return light that falls off linearly in a random direction; about 0.7 to 1.2."""
    angle = rng.uniform(0, 2 * math.pi)
    ramp = math.cos(angle) * u + math.sin(angle) * v
    low, high = float(ramp.min()), float(ramp.max())
    return 0.7 + 0.5 * (ramp - low) / max(high - low, 1.0)


def _turned(contour: np.ndarray, turn: float) -> np.ndarray:
    cos, sin = math.cos(turn), math.sin(turn)
    return contour @ np.array(((cos, sin), (-sin, cos)))


def _polygon(corners: int, radii: tuple[float, ...] = (1.0,)) -> np.ndarray:
    """Return a closed outline (corners, 2) about the origin; radii are used in turn."""
    angles = np.arange(corners) * 2 * math.pi / corners
    lengths = np.resize(radii, corners)
    return np.stack([lengths * np.cos(angles), lengths * np.sin(angles)], axis=1)


def _plus(arm: float) -> np.ndarray:
    corner = np.array([(1, -arm), (1, arm), (arm, arm)])
    quarter = np.array(((0, 1), (-1, 0)))
    parts = [corner]
    for _ in range(3):
        parts.append(parts[-1] @ quarter)
    return np.concatenate(parts)


def _stripes(across: np.ndarray, along: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    return (np.sin(across) > 0).astype(np.float32)


def _checks(across: np.ndarray, along: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    return (np.sin(across * 0.6) * np.sin(along * 0.6) > 0).astype(np.float32)


def _dots(across: np.ndarray, along: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    return (np.sin(across) * np.sin(along) > 0.35).astype(np.float32)


def _smooth(across: np.ndarray, along: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    return 0.5 + 0.5 * np.sin(across * 0.7)


def _grid(across: np.ndarray, along: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    return (np.maximum(np.sin(across), np.sin(along)) > 0.6).astype(np.float32)


def _speckle(across: np.ndarray, along: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    return rng.random(across.shape, np.float32)


# The order is that of Shapes.classes without the background.
_SHAPES: tuple[tuple[tuple[np.ndarray, ...], Texture], ...] = (
    ((_polygon(40),), _stripes),
    ((_polygon(4),), _checks),
    ((_polygon(3, (1.2,)),), _dots),
    ((_polygon(40), 0.5 * _polygon(40)), _smooth),
    ((_polygon(10, (1.2, 0.55)),), _grid),
    ((1.1 * _plus(0.36),), _speckle),
)

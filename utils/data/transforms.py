"""Geometry of a sample, in the file's own dtype.

Scale, rotation, crop and flips are ONE affine warp from the source straight to the crop: no
intermediate image, no float copy. Documented ranges of training:

    scale    the long side becomes uniform(low, high) x base_size, default (0.5, 2)
    rotate   uniform(low, high) degrees about the center of the rescaled image, default (-10, 10);
             with rotate90 after 0 to 3 quarter turns, equally likely
    crop     every whole-pixel position equally likely; a smaller image lands anywhere inside
    flip     left-right, probability 0.5; vertical_flip likewise

Validation: the short side becomes crop_size, then a center crop.

Coordinates: pixel i covers [i, i + 1) and its center is i + 0.5. Bilinear (image) and nearest
(mask) sampling use the same matrix, so a mask stays on its image whatever the warp is.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

ROTATE_RANGE = (-10.0, 10.0)
FLIP_PROBABILITY = 0.5
SCALE_RANGE = (0.5, 2.0)


class Geometry(NamedTuple):
    """An affine warp: which source position each output pixel shows.

    Attributes:
        matrix: float64 (2, 3); maps an output pixel index (x, y, 1) to a source pixel index.
        size: (height, width) of the output.
        source: (height, width) of the source that `matrix` refers to.
        scale: Output pixels per source pixel along the long side.
    """

    matrix: np.ndarray
    size: tuple[int, int]
    source: tuple[int, int]
    scale: float

    def reduced(self, height: int, width: int) -> "Geometry":
        """Return the same warp for a source that a decoder reduced to (height, width).

        A decoder reduces by 2, 4 or 8 and rounds the size up, so the factor is whole.
        """
        if (height, width) == self.source:
            return self
        factor = round(self.source[1] / width)
        matrix = self.matrix / factor
        matrix[:, 2] += 0.5 / factor - 0.5
        return self._replace(matrix=matrix, source=(height, width))


class View(NamedTuple):
    """What a sample shows of its source, which is resized, turned, cut and flipped.

    Attributes:
        source: (height, width) of the source.
        canvas: (height, width) that it is resized and then quarter-turned to.
        size: (height, width) of the cut.
        angle: Degrees by which the canvas is turned about its center.
        offset: (top, left) of the cut on the canvas, negative where the canvas is smaller.
        flipped: Whether left and right change places.
        upended: Whether top and bottom do.
        turns: Quarter turns clockwise.
    """

    source: tuple[int, int]
    canvas: tuple[int, int]
    size: tuple[int, int]
    angle: float = 0.0
    offset: tuple[int, int] = (0, 0)
    flipped: bool = False
    upended: bool = False
    turns: int = 0

    def rooms(self) -> tuple[int, int]:
        """Return by how much the canvas is higher and wider than the cut."""
        return self.canvas[0] - self.size[0], self.canvas[1] - self.size[1]

    def placed(self, down: float, across: float) -> "View":
        """Return the view with its cut elsewhere; uniform shares make all places equally likely."""
        top, left = (
            min(0, room) + int(share * (abs(room) + 1))
            for room, share in zip(self.rooms(), (down, across), strict=True)
        )
        return self._replace(offset=(top, left))

    def centered_on(self, row: int, column: int) -> "View":
        """Return the view with its cut about a source pixel, as far as the canvas reaches."""
        matrix = self._replace(offset=(0, 0), flipped=False, upended=False).geometry().matrix
        x, y = np.linalg.solve(matrix[:, :2], (column, row) - matrix[:, 2])
        top, left = (
            _about(round(place), side, room)
            for place, side, room in zip((y, x), self.size, self.rooms(), strict=True)
        )
        return self._replace(offset=(top, left))

    def geometry(self) -> Geometry:
        """Chain flips, crop, rotation and resize, each as a map from its output to its input."""
        source, canvas, size, angle, offset, *flips, turns = self
        (step_x, left), (step_y, top) = (
            (-1, begin + side - 1) if flipped else (1, begin)
            for begin, side, flipped in zip(offset[::-1], size[::-1], flips, strict=True)
        )
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        for _ in range(turns):
            cos, sin = -sin, cos
        upright = canvas[::-1] if turns % 2 else canvas
        right, below = left - (canvas[1] - 1) / 2, top - (canvas[0] - 1) / 2
        down, across = source[0] / upright[0], source[1] / upright[1]
        x = across * (cos * right + sin * below + (upright[1] - 1) / 2 + 0.5) - 0.5
        y = down * (cos * below - sin * right + (upright[0] - 1) / 2 + 0.5) - 0.5
        matrix = [
            [across * cos * step_x, across * sin * step_y, x],
            [-down * sin * step_x, down * cos * step_y, y],
        ]
        return Geometry(np.array(matrix), size, source, max(canvas) / max(source))


def _about(place: int, side: int, room: int) -> int:
    """Return where a cut begins that has `place` in its middle, or as near as the canvas allows."""
    begin = min(max(place - side // 2, min(0, room)), max(0, room))
    # Turned, the place may lie outside the canvas, and is seen all the same.
    return min(max(begin, place - side + 1), place)


def training_view(
    height: int,
    width: int,
    *,
    rng: np.random.Generator,
    base_size: int | None,
    crop_size: int | None,
    scale_range: tuple[float, float] | None,
    rotate_range: tuple[float, float] | None,
    flip: bool,
) -> View:
    """Draw what a training sample shows.

    Args:
        height: Source height in pixels.
        width: Source width in pixels.
        rng: The sample's own generator.
        base_size: Long side before the random factor; None keeps the source's size.
        crop_size: Side of the square output; None gives the whole rescaled image.
        scale_range: Random factor of the long side; None rescales to base_size exactly.
        rotate_range: Random angle in degrees; None does not rotate.
        flip: Whether to flip.
    """
    # One call: five would take as long as the warp of a mask.
    scaled, turned, down, across, mirrored = rng.random(5).tolist()
    canvas = (height, width)
    if base_size is not None:
        low, high = (1.0, 1.0) if scale_range is None else scale_range
        longest = max(1.0, base_size * (low + (high - low) * scaled))
        ratio = longest / max(height, width)
        canvas = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    low, high = rotate_range or (0.0, 0.0)
    angle = (low + high) / 2 + (high - low) / 2 * (2 * turned - 1)
    size = canvas if crop_size is None else (crop_size, crop_size)
    flipped = flip and mirrored < FLIP_PROBABILITY
    view = View((height, width), canvas, size, angle, flipped=flipped)
    return view.placed(down, across)


def validation_geometry(height: int, width: int, *, crop_size: int) -> Geometry:
    """Return the warp that makes the short side `crop_size` and cuts the center square."""
    short = min(height, width)
    canvas = (round(height * crop_size / short), round(width * crop_size / short))
    offset = ((canvas[0] - crop_size) // 2, (canvas[1] - crop_size) // 2)
    return View((height, width), canvas, (crop_size, crop_size), offset=offset).geometry()


def warp_image(image: np.ndarray, geometry: Geometry, border: tuple[float, ...]) -> np.ndarray:
    """Warp an image bilinearly.

    Args:
        image: (H, W, C) of uint8, uint16 or a float dtype.
        geometry: A warp whose `source` is (H, W).
        border: Color of what lies outside the source, one value a channel.

    Returns:
        (*geometry.size, C), the image's dtype.
    """
    assert image.shape[:2] == geometry.source
    channels = image.shape[2]
    if channels > 4:  # OpenCV's border color has four values at most
        parts = [
            warp_image(np.ascontiguousarray(image[..., at : at + 4]), geometry, border[at : at + 4])
            for at in range(0, channels, 4)
        ]
        return np.concatenate(parts, axis=2)
    image, matrix = _needed(image, geometry)
    # OpenCV warps four channels in half the time of three; the detour costs a tenth.
    padded = channels == 3 and image.dtype != np.float64
    warped = cv2.warpAffine(
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA) if padded else image,
        matrix,
        (geometry.size[1], geometry.size[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=border,
    )
    if padded:
        warped = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    return warped.reshape(*geometry.size, channels)


def _needed(image: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of the source that the output can show, and the matrix onto it."""
    (left, right), (top, bottom) = (_reach(row, geometry.size) for row in geometry.matrix.tolist())
    left, top = max(0, math.floor(left) - 2), max(0, math.floor(top) - 2)
    right, bottom = math.ceil(right) + 3, math.ceil(bottom) + 3
    part = image[top:bottom, left:right]
    if part.shape[0] < 1 or part.shape[1] < 1:
        return image, geometry.matrix
    matrix = geometry.matrix.copy()
    matrix[:, 2] -= (left, top)
    # A part that ends inside the source is never read beyond its end: two pixels are to spare.
    return part, matrix


def _reach(row: list[float], size: tuple[int, int]) -> tuple[float, float]:
    """Return the first and last source position that one row of a matrix leads to."""
    ends = (row[0] * (size[1] - 1), row[1] * (size[0] - 1))
    return row[2] + sum(min(0.0, end) for end in ends), row[2] + sum(max(0.0, end) for end in ends)


def warp_mask(mask: np.ndarray, geometry: Geometry, ignore_index: int) -> np.ndarray:
    """Warp a mask (H, W), uint8 or int16, to the nearest pixel; outside is `ignore_index`."""
    assert mask.shape == geometry.source
    # The same bits without a sign: of int16 OpenCV picks other pixels, 4.13 nearly everywhere.
    return cv2.warpAffine(
        mask.view(f"u{mask.itemsize}"),
        geometry.matrix,
        (geometry.size[1], geometry.size[0]),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(ignore_index % 2 ** (8 * mask.itemsize),),
    ).view(mask.dtype)

"""Where classes meet: Boundary IoU, and errors near boundaries against errors inside regions.

Source of the measure: Cheng et al. 2021, "Boundary IoU" (arXiv:2103.16562), section 4. It is
taken class by class and summed over the data set before it is divided, like the IoU beside it.
"""

import math

import cv2
import numpy as np

_ERROR_RATIO = 0.005  # a narrower one for errors: at the paper's, half of an image is boundary


def width_in_pixels(size: tuple[int, ...], ratio: float) -> int:
    """The share of the diagonal of (height, width) in whole pixels, at least 1."""
    return max(1, round(ratio * math.hypot(*size)))


def near_boundary(classes: np.ndarray, distance: int, *, frame: bool) -> np.ndarray:
    """Which pixels have another class within a square of `distance` around them.

    One dilation and one erosion find it for all classes together: a pixel is inside its region
    when the largest and the smallest class number around it agree.

    Args:
        classes: (H, W) integers in [-32768, 32767]; void is one more class.
        distance: Pixels, at least 1.
        frame: Whether the image's border counts as a boundary (it does in Boundary IoU).

    Returns:
        (H, W) bool.
    """
    outside = np.iinfo(np.int16).min
    numbers = classes.astype(np.int16)
    border = cv2.BORDER_CONSTANT if frame else cv2.BORDER_REPLICATE
    sides = (distance, distance, distance, distance)
    wide = cv2.copyMakeBorder(numbers, *sides, borderType=border, value=outside)
    square = np.ones((2 * distance + 1,) * 2, np.uint8)
    inner = np.s_[distance:-distance, distance:-distance]
    return cv2.dilate(wide, square)[inner] != cv2.erode(wide, square)[inner]


def boundary_counts(
    prediction: np.ndarray,
    mask: np.ndarray,
    *,
    num_classes: int,
    ignore_index: int,
    ratio: float,
) -> np.ndarray:
    """What one image adds to the sums of Boundary IoU.

    Void pixels are void in the prediction too, so that their outline is the same in both.

    Args:
        prediction: (H, W) integers; what is outside [0, C) is void, and of no class.
        mask: (H, W) integers in [0, C) or `ignore_index`.
        num_classes: C.
        ignore_index: The label of void pixels.
        ratio: Width of the boundary as a share of the diagonal.

    Returns:
        (2, C) int64: intersections and unions of the boundary regions.
    """
    void = mask == ignore_index
    distance = width_in_pixels(mask.shape, ratio)
    labels = np.where(void, num_classes, mask)
    known = ~void & (prediction >= 0) & (prediction < num_classes)
    predictions = np.where(known, prediction, num_classes)
    at_label = near_boundary(labels, distance, frame=True) & ~void
    at_prediction = near_boundary(predictions, distance, frame=True) & ~void
    both = at_label & at_prediction & (labels == predictions)
    shared, labelled, predicted = (
        np.bincount(classes[region], minlength=num_classes + 1)[:num_classes]
        for classes, region in ((labels, both), (labels, at_label), (predictions, at_prediction))
    )
    return np.stack([shared, labelled + predicted - shared]).astype(np.int64)


def error_places(prediction: np.ndarray, mask: np.ndarray, *, ignore_index: int) -> np.ndarray:
    """Where one image's errors are.

    Args:
        prediction: (H, W) integers.
        mask: (H, W) integers; `ignore_index` where void.
        ignore_index: The label of void pixels.

    Returns:
        (2, 2) int64: [[errors, pixels] near a boundary of the labels, [errors, pixels] inside].
        Near is within half a per cent of the diagonal; the image's border is no boundary.
    """
    valid = mask != ignore_index
    distance = width_in_pixels(mask.shape, _ERROR_RATIO)
    near = near_boundary(mask, distance, frame=False) & valid
    inside = valid & ~near
    wrong = valid & (prediction != mask)
    return np.array([[(wrong & zone).sum(), zone.sum()] for zone in (near, inside)], np.int64)

"""Boundary IoU against the paper's procedure, pixel by pixel."""

import numpy as np
import pytest

from utils.metrics.boundary import boundary_counts, error_places, near_boundary, width_in_pixels


def eroded(region, distance):
    """`distance` erosions with a 3x3 square; outside the image nothing belongs to a region."""
    height, width = region.shape
    for _ in range(distance):
        padded = np.pad(region, 1)
        region = np.logical_and.reduce(
            [padded[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
        )
    return region


def random_masks(seed):
    random = np.random.default_rng(seed)
    size = random.integers(6, 40, size=2)
    both = []
    for _ in range(2):
        blocks = random.integers(0, 4, size=(9, 9)).repeat(5, 0).repeat(5, 1)
        both.append(blocks[: size[0], : size[1]])
    mask = both[1].astype(np.int16)
    mask[random.random(mask.shape) < 0.02] = -1
    prediction = both[0].astype(np.int16)
    prediction[random.random(mask.shape) < 0.02] = -1  # void is predicted too, anywhere
    return prediction, mask


@pytest.mark.parametrize("ratio", [0.02, 0.08])
def test_boundary_iou_equals_the_papers_procedure_class_by_class(ratio):
    for seed in range(25):
        prediction, mask = random_masks(seed)
        void = mask == -1
        distance = width_in_pixels(mask.shape, ratio)
        counts = boundary_counts(prediction, mask, num_classes=4, ignore_index=-1, ratio=ratio)
        for number in range(4):
            label = (mask == number) & ~void
            predicted = (prediction == number) & ~void
            label &= ~eroded(label, distance)
            predicted &= ~eroded(predicted, distance)
            assert counts[0, number] == (label & predicted).sum()
            assert counts[1, number] == (label | predicted).sum()


def test_the_frame_is_a_boundary_only_where_it_is_asked_for():
    plain = np.zeros((5, 7), np.uint8)
    assert not near_boundary(plain, 1, frame=False).any()
    assert near_boundary(plain, 1, frame=True).sum() == 35 - 15


def test_errors_are_told_by_their_place():
    mask = np.zeros((20, 20), np.int64)
    mask[:, 10:] = 1
    mask[0] = 255
    prediction = mask % 255
    prediction[5, 9] = 1  # beside the boundary
    prediction[10, 2] = 1  # far from it
    prediction[0, 0] = 1  # void
    prediction[10, 15] = 255  # void is no answer
    near, inside = error_places(prediction, mask, ignore_index=255).tolist()
    assert near == [1, 20 + 2 * 18]
    assert inside == [2, 18 * 18]

import functools

import numpy as np
import pytest

from dataloaders.shapes import Shapes, draw
from utils.seeding import image_generator


@functools.cache
def drawn(split, length=80):
    data = Shapes(split=split, length=length)
    images, masks = zip(*(data.load(index) for index in range(length)), strict=True)
    return np.stack(images), np.stack(masks)


def mean_iou(labels, predictions, classes=7):
    valid = labels != 255
    joint = labels[valid].astype(np.int64) * classes + predictions[valid]
    matrix = np.bincount(joint, minlength=classes**2).reshape(classes, classes)
    hits = np.diag(matrix)
    return float(np.mean(hits / (matrix.sum(0) + matrix.sum(1) - hits)))


@pytest.mark.parametrize("balanced", [False, True])
def test_color_alone_does_not_tell_the_class(balanced):
    """The best guess from one pixel's color: a table of votes over 16 levels a channel."""
    images, masks = drawn("train")
    votes = np.zeros((4096, 7))
    cells = color_cells(images)
    valid = masks != 255
    np.add.at(votes, (cells[valid], masks[valid]), 1)
    if balanced:
        votes /= votes.sum(axis=0)
    unseen, labels = drawn("val", 40)
    assert mean_iou(labels, votes.argmax(axis=1)[color_cells(unseen)]) < 0.4


def color_cells(images):
    levels = images.astype(np.int64) >> 4
    return levels[..., 0] * 256 + levels[..., 1] * 16 + levels[..., 2]


@pytest.mark.parametrize("shift", [(0, 2), (2, 0), (2, 2), (-2, 0)])
def test_masks_shifted_by_two_pixels_cost_five_points(shift):
    solid, labels = outlines()
    assert mean_iou(labels, solid) == 1.0
    assert mean_iou(labels, np.roll(solid, shift, axis=(1, 2))) <= 0.95


@functools.cache
def outlines():
    """Labels of 80 images without and with their void borders."""
    drawn = [draw(128, 128, image_generator(0, 0, index, 128, 128)) for index in range(80)]
    solid = np.stack([labels for _, labels, _ in drawn])
    return solid, np.where(np.stack([border for _, _, border in drawn]) > 0, 255, solid)


def test_every_class_and_void_occur():
    _, masks = drawn("val", 40)
    assert set(np.unique(masks)) == {*range(7), 255}
    assert len(Shapes.classes) == len(Shapes.palette) == len(set(Shapes.palette)) == 7


def test_splits_share_no_image_and_an_image_repeats():
    train, masks = drawn("train", 60)
    val, _ = drawn("val", 60)
    prints = {image.tobytes() for image in train}
    assert len(prints) == 60
    assert prints.isdisjoint(image.tobytes() for image in val)
    again, again_masks = Shapes(split="train", length=60).load(7)
    assert (again == train[7]).all()
    assert (again_masks == masks[7]).all()


def test_content_seed_gives_other_images():
    one, _ = Shapes(content_seed=0).load(0)
    other, _ = Shapes(content_seed=1).load(0)
    assert (one != other).any()


@pytest.mark.parametrize("ignore_index", [255, 7, -1, -100, 1000])
def test_void_is_the_configs_ignore_index(ignore_index):
    _, reference = Shapes().load(3)
    _, mask = Shapes(ignore_index=ignore_index).load(3)
    assert ((mask == ignore_index) == (reference == 255)).all()
    assert (mask == ignore_index).any()


def test_any_size_and_length():
    data = Shapes(height=40, width=200, length=3)
    image, mask = data.load(2)
    assert image.shape == (40, 200, 3)
    assert mask.shape == (40, 200)
    assert len(data) == 3
    assert data.size(0) == (40, 200)
    assert data.name(2) == "shapes-train-00002"

"""Crops that follow the labels: rare_crops and cat_max_ratio."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.base_dataset import BaseDataset
from dataloaders.shapes import Shapes
from utils.data.crops import choose_crop
from utils.data.transforms import View, training_view, warp_mask
from utils.errors import ConfigError

VOID = 255


@dataclass(kw_only=True, eq=False, repr=False)
class Drawn(BaseDataset):
    """One image; of its 120 x 160 pixels one is rare, a hundred are scarce, half are void."""

    classes = ("common", "rare", "scarce", "absent")
    palette = ((0, 0, 0),) * 4
    mean = (0.1,)
    std = (0.2,)

    def __len__(self):
        return 1

    def size(self, index):  # noqa: ARG002
        return 120, 160

    def load(self, index):  # noqa: ARG002
        mask = np.zeros((120, 160), self.table.dtype)
        mask[:, 80:] = self.ignore_index
        mask[50, 60] = 1
        mask[70:80, 60:70] = 2
        return np.arange(120 * 160, dtype=np.uint16).reshape(120, 160, 1), mask


def samples(count, **options):
    data = Drawn(augment=True, crop_size=20, scale=False, **options)
    return [data[(epoch, 0)] for epoch in range(count)]


@pytest.mark.parametrize("ignore_index", [255, -1])
def test_the_class_in_the_middle_is_drawn_evenly_among_those_present(ignore_index):
    crops = samples(900, rare_crops=1.0, ignore_index=ignore_index)
    middles = np.array([crop.mask[10, 10] for crop in crops])
    shares = [(middles == label).mean() for label in range(3)]
    assert sum(shares) > 0.97  # at the image's edge the middle lies elsewhere
    assert np.abs(np.array(shares) - 1 / 3).max() < 0.05  # three standard deviations
    scarce = {int(crop.image[10, 10, 0]) for crop in crops if crop.mask[10, 10] == 2}
    assert len(scarce) > 90  # each pixel of the class, not one of them


def test_the_other_crops_keep_every_pixel():
    plain, some = samples(600), samples(600, rare_crops=0.33)
    moved = [(a.image != b.image).any() for a, b in zip(plain, some, strict=True)]
    assert abs(np.mean(moved) - 0.33) < 0.06
    # 400 of 14,241 places show the rare pixel.
    assert abs(np.mean([(crop.mask == 1).any() for crop in some]) - 0.33 / 3 - 0.028) < 0.05
    again = samples(600, rare_crops=0.33)
    assert all((a.image == b.image).all() for a, b in zip(some, again, strict=True))


def test_a_mask_without_labels_is_cropped_as_ever():
    view = View((40, 40), (40, 40), (8, 8)).placed(0.3, 0.6)
    void = np.full((40, 40), VOID, np.uint8)
    assert choose(view, void, rare_crops=1.0) == view


def choose(view, mask, seed=0, **options):
    knobs = {"rare_crops": 0.0, "cat_max_ratio": 1.0, "num_classes": 3, "ignore_index": VOID}
    return choose_crop(view, mask, np.random.default_rng(seed), **(knobs | options))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31), height=st.integers(8, 90), width=st.integers(8, 90),
    base_size=st.none() | st.integers(8, 160), crop_size=st.integers(8, 80),
    rotate=st.booleans(), flip=st.booleans(), down=st.floats(0, 0.999), across=st.floats(0, 0.999),
    turns=st.integers(0, 3), upended=st.booleans(),
)  # fmt: skip
def test_a_pixel_is_centered_as_far_as_the_image_reaches(
    seed, height, width, base_size, crop_size, rotate, flip, down, across, turns, upended
):
    view = training_view(
        *((width, height) if turns % 2 else (height, width)), rng=np.random.default_rng(seed),
        base_size=base_size, crop_size=crop_size, scale_range=(0.5, 2.0),
        rotate_range=(-10, 10) if rotate else None, flip=flip,
    )._replace(source=(height, width), turns=turns, upended=upended)  # fmt: skip
    pixel = (int(down * height), int(across * width))
    moved = view.centered_on(*pixel)
    assert moved._replace(offset=view.offset) == view
    matrix, size, *_ = moved.geometry()
    # Brute force: the output pixel that lies nearest to where the source pixel is shown.
    y, x = np.indices(size)
    shown = np.tensordot(matrix, np.stack([x, y, np.ones_like(x)]), 1)
    distance = np.hypot(shown[0] - pixel[1], shown[1] - pixel[0])
    place = np.unravel_index(distance.argmin(), size)
    across_a_pixel = np.hypot(*matrix[:, 0])
    assert distance.min() <= 0.8 * across_a_pixel  # it is in the crop: half a diagonal
    for axis, room in enumerate(moved.rooms()):
        at_the_edge = not min(0, room) < moved.offset[axis] < max(0, room)
        assert at_the_edge or abs(place[axis] - (crop_size - 1) / 2) <= 1.5
        if not rotate:
            assert min(0, room) <= moved.offset[axis] <= max(0, room)


def test_a_crop_that_one_class_fills_is_drawn_again_ten_times():
    """Mmsegmentation's rule, counted: of the places every seventh will do, whatever was tried."""
    mask = np.zeros((10, 79), np.uint8)
    mask[:, 68:] = 1
    mask[:5, 75:] = VOID

    def will_do(left):
        counts = np.bincount(mask[:, left : left + 10].ravel(), minlength=256)[:2]
        return counts.max() / counts.sum() < 0.75

    good = np.array([will_do(left) for left in range(70)])
    assert 0 < good.sum() < 10
    start = View((10, 79), (10, 79), (10, 10))
    lefts = [choose(start, mask, seed, cat_max_ratio=0.75).offset[1] for seed in range(900)]
    failed = 1 - good[lefts].mean()
    assert abs(failed - (1 - good.mean()) ** 10) < 0.05  # three standard deviations
    kept = start._replace(offset=(0, int(np.flatnonzero(good)[0])))
    assert choose(kept, mask, cat_max_ratio=0.75) == kept


def test_a_crop_of_a_rare_class_is_not_drawn_again():
    mask = np.zeros((40, 40), np.uint8)
    mask[20, 20] = 1
    view = View((40, 40), (40, 40), (9, 9))
    for seed in range(20):
        there = choose(view, mask, seed, rare_crops=1.0, cat_max_ratio=0.5)
        assert there == choose(view, mask, seed, rare_crops=1.0)


def test_a_crop_without_a_valid_pixel_is_drawn_again():
    mask = np.full((10, 40), VOID, np.uint8)
    mask[:, 20:30], mask[:, 30:] = 0, 1
    view = View((10, 40), (10, 40), (10, 10))
    moved = choose(view, mask, cat_max_ratio=0.9)
    assert len(np.unique(warp_mask(mask, moved.geometry(), VOID))) > 1


@pytest.mark.parametrize("knob", ["rare_crops", "cat_max_ratio"])
@pytest.mark.parametrize(
    "rest", [{"augment": True}, {"crop_size": 32}, {"val": True, "augment": True, "crop_size": 32}]
)
def test_without_random_crops_there_is_nothing_to_choose(knob, rest):
    with pytest.raises(
        ConfigError, match=re.escape(f'{knob}: has no effect without "augment" and "crop_size"')
    ):
        Shapes(**rest, **{knob: 0.5})
    Shapes(augment=True, crop_size=32, **{knob: 0.5})

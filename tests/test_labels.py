import re

import numpy as np
import pytest

from utils.data.labels import LabelTable, count_values, mask_dtype
from utils.errors import DataError


def table(ignore_index=255, void=255, classes=4):
    return LabelTable.identity(classes, ignore_index=ignore_index, void=void)


def array(values, dtype=np.uint8):
    return np.array([values], dtype)


@pytest.mark.parametrize(
    ("classes", "ignore_index", "dtype"),
    [(4, 255, np.uint8), (4, -1, np.int16), (256, 255, np.uint8), (300, 255, np.int16),
     (4, 256, np.int16), (4, 0, np.uint8)],
)  # fmt: skip
def test_masks_take_the_smallest_dtype(classes, ignore_index, dtype):
    assert mask_dtype(classes, ignore_index) is dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("ignore_index", [255, -1, 200, 999])
def test_void_becomes_ignore_index(dtype, ignore_index):
    mask = table(ignore_index).apply(array([0, 3, 255], dtype), "m.png")
    assert mask.tolist() == [[0, 3, ignore_index]]
    assert mask.dtype == mask_dtype(4, ignore_index)


def test_a_table_with_wide_and_negative_values():
    wide = LabelTable({-1: 255, 7: 0, 26000: 1}, num_classes=2, ignore_index=255)
    assert wide.apply(array([-1, 7, 26000], np.int32), "m.png").tolist() == [[255, 0, 1]]
    with pytest.raises(DataError, match=r"m\.png: label values outside the classes: 8 \(1 px\)"):
        wide.apply(array([26000, 8], np.int32), "m.png")


def test_values_are_used_as_they_are_when_equal():
    raw = array([0, 1, 2, 3, 255])
    assert table().apply(raw, "m.png") is raw


def test_an_unknown_value_is_refused_with_everything_needed():
    with pytest.raises(DataError) as caught:
        table().apply(array([0, 1, 9, 9, 200]), "some/m.png")
    assert str(caught.value) == (
        "some/m.png: label values outside the classes: 9 (2 px), 200 (1 px)\n"
        "  values found: 0..1, 9, 200\n"
        "  values allowed: 0..3, 255 (4 classes and void; ignore_index is 255)\n"
        "  hint: check that the mask belongs to this data set; "
        '"label_map" of "type": "Folder" maps values to classes or to "void"'
    )


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ([0, 255], 'a 0/255 mask: map it with "label_map": {"0": 0, "255": 1}'),
        ([1, 2, 4], "labels start at 1, train ids at 0: off by one"),
        (list(range(100)), "look like a photograph or a JPEG-compressed mask"),
    ],
)
def test_the_hint_names_the_usual_cause(values, hint):
    with pytest.raises(DataError, match=re.escape(hint)):
        table(void=None).apply(array(values), "m.png")


def test_counting_agrees_with_bincount():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (50, 60)).astype(np.uint8)
    expected = np.bincount(small.ravel(), minlength=300)
    assert (count_values(small, 300) == expected).all()
    assert (count_values(small, 5) == expected[:5]).all()
    signed = small.astype(np.int16) - 1
    assert (count_values(signed, 20) == expected[1:21]).all()


def test_counting_is_exact_on_a_large_mask():
    large = np.zeros((4097, 4097), np.uint8)  # more pixels than a float32 counts exactly
    large[0, 0] = 1
    assert count_values(large, 3).tolist() == [4097**2 - 1, 1, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_everything_else_has_a_train_id(dtype):
    rest = LabelTable({0: 0, 9: 255}, num_classes=2, ignore_index=255, tolerance=1, rest=1)
    high = 300 if dtype is np.int32 else 200
    assert rest.apply(array([0, 1, 2, 8, 9, high], dtype), "m").tolist() == [[0, 0, 1, 255, 255, 1]]
    only = LabelTable({}, num_classes=2, ignore_index=255, tolerance=5, rest=255)
    assert only.apply(array([0, high], dtype), "m").tolist() == [[255, 255]]

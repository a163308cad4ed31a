"""The comparison image: order, colors, void, and shrinking that mixes no labels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.drawing.grid import comparison_grid, comparison_sheet, shrink_mask, shrunk_size
from utils.drawing.palette import VOID_COLOR

RED, GREEN = (200, 0, 0), (0, 200, 0)


def dataset(ignore_index=255):
    return SimpleNamespace(classes=("cat", "dog"), palette=(RED, GREEN), ignore_index=ignore_index)


def sample(height, width, ignore_index=255):
    image = torch.full((3, height, width), 77, dtype=torch.uint8)
    mask = torch.zeros(height, width, dtype=torch.long)
    mask[: height // 2] = ignore_index
    return image, mask, torch.ones(height, width, dtype=torch.long)


@pytest.mark.parametrize("ignore_index", [-1, 0, 255])
def test_a_row_is_input_target_prediction_with_void_in_its_color(ignore_index):
    grid = comparison_grid([sample(10, 20, ignore_index)], dataset(ignore_index))
    assert grid.dtype == np.uint8
    assert grid.shape == (5 + 10 + 5, 5 + 3 * (20 + 5), 3)
    assert tuple(grid[6, 10]) == (77, 77, 77)
    assert tuple(grid[6, 35]) == VOID_COLOR
    assert tuple(grid[13, 35]) == (VOID_COLOR if ignore_index == 0 else RED)
    assert tuple(grid[6, 60]) == GREEN


def test_samples_of_different_sizes_stand_in_rows_on_white():
    grid = comparison_grid([sample(8, 30), sample(12, 10)], dataset())
    assert grid.shape == (5 + 8 + 5 + 12 + 5, 5 + 3 * 35, 3)
    assert (grid[18:30, 50:] == 255).all()
    assert comparison_grid([], dataset()).shape[2] == 3


def test_large_samples_shrink_without_new_colors():
    image, mask, prediction = sample(900, 600)
    mask[:, ::2] = 1
    grid = comparison_grid([(image, mask, prediction)], dataset())
    assert grid.shape == (410, 5 + 3 * (267 + 5), 3)
    target = grid[5:405, 5 + 272 : 5 + 272 + 267].reshape(-1, 3)
    assert {tuple(color) for color in np.unique(target, axis=0)} <= {RED, GREEN, VOID_COLOR}


def test_other_dtypes_and_channel_counts_are_shown():
    _, mask, prediction = sample(6, 6)
    for channels, dtype in ((1, torch.uint8), (5, torch.float32), (4, torch.uint16)):
        one = torch.arange(36 * channels).view(channels, 6, 6).to(dtype)
        assert comparison_grid([(one, mask, prediction)], dataset()).std() > 0


def test_nearest_pixels_are_those_at_the_middle_of_the_new_ones():
    mask = np.arange(9)[:, None].repeat(9, 1)
    assert shrink_mask(mask, longest=3)[:, 0].tolist() == [1, 4, 7]
    assert shrink_mask(mask, longest=20) is not mask
    assert (shrink_mask(mask, longest=20) == mask).all()
    assert shrunk_size(2, 4000, longest=100) == (1, 100)


@pytest.mark.parametrize("ignore_index", [-1, 1, 255])
def test_the_sheet_names_its_columns_and_every_class_that_occurs(ignore_index):
    one = torch.full((3, 200, 300), 255, dtype=torch.uint8)
    mask = torch.zeros(200, 300, dtype=torch.long)
    mask[:, 150:] = ignore_index
    sample = (one, mask, torch.zeros_like(mask))
    sheet = comparison_sheet([sample], dataset(ignore_index))
    grid = comparison_grid([sample], dataset(ignore_index))
    assert (sheet[16 : 16 + len(grid), : grid.shape[1]] == grid).all()
    above, below = sheet[:16], sheet[16 + len(grid) :].reshape(-1, 3)
    for column in range(3):  # dark letters over the start of each
        assert above[:, 5 + 305 * column : 100 + 305 * column].min() < 100
    shown = {tuple(color) for color in np.unique(below, axis=0)}
    assert RED in shown
    assert VOID_COLOR in shown
    assert GREEN not in shown  # class 1 does not occur, or is what void is called
    assert comparison_sheet([], dataset()).shape[2] == 3

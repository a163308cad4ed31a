"""Charts: values land on their pixels, ticks are round; and the README's pictures are current."""

import numpy as np
import pytest
from PIL import Image

from tools import figures
from utils.chart import COLOURS, Axis, Curve, Mark, line_chart


def test_an_axis_places_its_ends_and_its_middle():
    assert Axis(0, 10, 100, 300).place(5) == 200
    assert Axis(1e-4, 1, 0, 400, log=True).place(1e-2) == pytest.approx(200)


def test_ticks_are_round_and_inside():
    assert Axis(0, 1, 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert Axis(-3, 44, 0, 1).ticks() == [0, 10, 20, 30, 40]
    assert Axis(3e-5, 2, 0, 1, log=True).ticks() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])


def has_colour(picture, colour, box):
    pixels = np.asarray(picture.crop(box)).reshape(-1, 3).astype(int)
    return bool((np.abs(pixels - colour).max(1) < 60).any())


def test_a_curve_is_drawn_where_its_values_are():
    curve = Curve("falls", [0, 1, 2], [1.0, 0.5, 0.0])
    picture = line_chart([curve], title="t", x_label="x", y_label="y", marks=[Mark(1, "here")])
    assert picture.size == (860, 420)
    assert has_colour(picture, COLOURS[0], (70, 80, 110, 130))
    assert has_colour(picture, COLOURS[0], (800, 320, 840, 364))
    assert not has_colour(picture, COLOURS[0], (70, 300, 110, 360))


def test_constant_curves_and_values_that_are_not_finite_are_drawn():
    curve = Curve("flat", [1.0, 2.0, 3.0], [2.0, float("nan"), 2.0])
    picture = line_chart([curve], title="t", x_label="x", y_label="y", log_x=True)
    assert has_colour(picture, COLOURS[0], (70, 200, 840, 240))


def test_the_readmes_pictures_are_what_the_code_draws(tmp_path):
    assert figures.main(["--output", str(tmp_path)]) == 0
    for name in ("schedules", "palettes"):
        folders = (tmp_path, figures.ROOT / "docs" / "pictures")
        new, committed = (np.asarray(Image.open(folder / f"{name}.png"), int) for folder in folders)
        assert new.shape == committed.shape
        apart = np.abs(new - committed).mean()
        # Not to the byte: another FreeType may draw a letter's edge otherwise.
        assert apart < 1


def test_the_schedules_picture_draws_the_schedules():
    shares, rates = figures.rate_curve("Poly")
    assert rates == pytest.approx([(1 - share) ** 0.9 for share in shares])
    assert min(figures.momentum_curve()[1]) == pytest.approx(0.85, abs=1e-5)

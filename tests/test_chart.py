"""Charts: what is drawn, and whether the README's images are current."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from tools import figures
from utils.drawing.chart import Curve, draw, new_figure
from utils.errors import ResourceError


def test_a_curve_is_drawn_with_its_name_and_what_is_not_finite_is_left_out():
    figure = new_figure(400, 300)
    axes = figure.add_subplot()
    curve = Curve("falls", [0, 1, 2], [1.0, float("nan"), 0.0])
    draw(axes, [curve], title="t", x_label="x", y_label="y")
    (line,) = axes.get_lines()
    assert line.get_xydata().tolist()[::2] == [[0, 1], [2, 0]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["falls"]
    buffer = io.BytesIO()
    figure.savefig(buffer)
    assert Image.open(buffer).size == (400, 300)


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ResourceError, match=r"pip install -r requirements-charts\.txt"):
        new_figure(400, 300)


def test_the_readmes_images_are_what_the_code_draws(tmp_path):
    assert figures.main(["--output", str(tmp_path)]) == 0
    for name in ("schedules", "palettes", "aerial"):
        folders = (tmp_path, figures.ROOT / "docs" / "images")
        new, committed = (np.asarray(Image.open(folder / f"{name}.png"), int) for folder in folders)
        assert new.shape == committed.shape
        apart = np.abs(new - committed).mean()
        # Not to the byte: another FreeType may draw a letter's edge otherwise.
        assert apart < 1


def test_the_schedules_image_draws_the_schedules():
    shares, rates = figures.rate_curve("Poly")
    assert rates == pytest.approx([(1 - share) ** 0.9 for share in shares])
    assert min(figures.momentum_curve()[1]) == pytest.approx(0.85, abs=1e-5)

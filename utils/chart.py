"""Line charts with Pillow alone: enough for a few curves, and no plotting library to install."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

_FINE = 2  # drawn this much larger and shrunk, which smooths the lines
_INK, _SOFT, _GRID, _PAPER = (27, 36, 48), (91, 103, 117), (226, 231, 237), (255, 255, 255)
COLOURS = ((29, 92, 160), (220, 38, 38), (22, 138, 74), (202, 138, 4), (124, 58, 173))
_TICKS = 5


class Curve(NamedTuple):
    """One line: a name for the legend and its points."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


class Mark(NamedTuple):
    """A vertical line with a text."""

    x: float
    text: str


class Axis(NamedTuple):
    """A range of values on a range of pixels; a logarithmic one needs positive values."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def place(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values within the range: powers of ten, or steps of 1, 2 or 5."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1)]
        rough = (self.high - self.low) / _TICKS
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def line_chart(
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    marks: Sequence[Mark] = (),
    size: tuple[int, int] = (860, 420),
) -> Image.Image:
    """Curves over one pair of axes.

    Args:
        curves: At least one point in all; points that are not finite are left out.
        title: Above the chart.
        x_label: Below the axis.
        y_label: Above the axis.
        log_x: Powers of ten along x.
        marks: Vertical lines.
        size: (width, height) in pixels.

    Returns:
        RGB.
    """
    width, height = (side * _FINE for side in size)
    picture = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    points = [_finite(curve) for curve in curves]
    xs = [x for line in points for x, _ in line]
    ys = [y for line in points for _, y in line]
    across = Axis(*_range(xs, log=log_x), 70 * _FINE, width - 24 * _FINE, log_x)
    up = Axis(*_range(ys, margin=0.05), height - 56 * _FINE, 78 * _FINE)
    _frame(draw, across, up)
    draw.text((20 * _FINE, 14 * _FINE), title, fill=_INK, font=_font(18))
    draw.text((20 * _FINE, 54 * _FINE), y_label, fill=_SOFT, font=_font(12))
    middle = (across.start + across.stop) / 2
    draw.text((middle, height - 14 * _FINE), x_label, fill=_SOFT, font=_font(12), anchor="mm")
    for line, colour in zip(points, _colours(len(points)), strict=True):
        places = [(across.place(x), up.place(y)) for x, y in line]
        draw.line(places, fill=colour, width=2 * _FINE, joint="curve")
    for mark in marks:
        place = across.place(mark.x)
        draw.line([(place, up.start), (place, up.stop)], fill=_SOFT, width=_FINE)
        draw.text((place + 4 * _FINE, up.stop), mark.text, fill=_INK, font=_font(12))
    _legend(draw, [curve.name for curve in curves], width)
    return picture.resize(size, Image.Resampling.LANCZOS)


def _finite(curve: Curve) -> list[tuple[float, float]]:
    pairs = zip(curve.xs, curve.ys, strict=True)
    return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def _range(
    values: Sequence[float], *, margin: float = 0.0, log: bool = False
) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        return (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    room = margin * (high - low)
    return low - room, high + room


def _colours(number: int) -> list[tuple[int, int, int]]:
    return [COLOURS[place % len(COLOURS)] for place in range(number)]


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size * _FINE)


def _frame(draw: ImageDraw.ImageDraw, across: Axis, up: Axis) -> None:
    for value in up.ticks():
        y = up.place(value)
        draw.line([(across.start, y), (across.stop, y)], fill=_GRID, width=_FINE)
        text = f"{value:.6g}"
        draw.text((across.start - 8 * _FINE, y), text, fill=_SOFT, font=_font(12), anchor="rm")
    for value in across.ticks():
        x = across.place(value)
        draw.line([(x, up.start), (x, up.start + 5 * _FINE)], fill=_SOFT, width=_FINE)
        text = f"{value:.0e}" if across.log else f"{value:.6g}"
        draw.text((x, up.start + 14 * _FINE), text, fill=_SOFT, font=_font(12), anchor="mm")
    draw.line([(across.start, up.start), (across.stop, up.start)], fill=_SOFT, width=_FINE)


def _legend(draw: ImageDraw.ImageDraw, names: Sequence[str], width: int) -> None:
    left = width - 24 * _FINE
    for name, colour in reversed(list(zip(names, _colours(len(names)), strict=True))):
        left -= int(draw.textlength(name, font=_font(13)))
        draw.text((left, 60 * _FINE), name, fill=_INK, font=_font(13), anchor="lm")
        left -= 24 * _FINE
        y = 60 * _FINE
        draw.line([(left, y), (left + 16 * _FINE, y)], fill=colour, width=3 * _FINE)
        left -= 18 * _FINE

"""Charts for an HTML page: paths in a square of 1000 x 1000, which the page stretches as it likes.

Labels are places in per cent of the sides: as text of the page they keep their size on any screen.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from utils.drawing.chart import Curve

_SIDE = 1000
_POINTS = 500  # of a line; more cannot be told apart
_TICKS = 5

Labels = list[tuple[str, float]]


class Chart(NamedTuple):
    """A chart of lines.

    Attributes:
        title: What it shows.
        lines: The name and the path of each.
        rows: Labels of the vertical axis and their distance from the top in per cent.
        columns: Labels of the horizontal axis and their distance from the left in per cent.
    """

    title: str
    lines: list[tuple[str, str]]
    rows: Labels
    columns: Labels


def line_chart(title: str, curves: Sequence[Curve]) -> Chart | None:
    """Draw curves, whose x and y are finite and from 0 on; None if none has a point."""
    curves = [curve for curve in curves if curve.xs]
    if not curves:
        return None
    right = max(max(curve.xs) for curve in curves) or 1
    marks = ticks(max(max(curve.ys) for curve in curves) or 1)
    lines = [(curve.name, _path(curve, right=right, top=marks[-1])) for curve in curves]
    rows = [(f"{mark:g}", 100 - 100 * mark / marks[-1]) for mark in marks]
    columns = [(f"{mark:,.0f}", 100 * mark / right) for mark in ticks(right) if mark <= right]
    return Chart(title, lines, rows, columns)


def ticks(high: float) -> list[float]:
    """Round numbers at equal distances, from 0 to at least `high` > 0."""
    least = high / _TICKS
    magnitude = 10.0 ** math.floor(math.log10(least))
    step = magnitude * next(one for one in (1, 2, 5, 10) if one * magnitude >= least * (1 - 1e-9))
    return [number * step for number in range(math.ceil(high / step * (1 - 1e-9)) + 1)]


def _path(curve: Curve, *, right: float, top: float) -> str:
    points = list(zip(curve.xs, curve.ys, strict=True))
    stride = -(-len(points) // _POINTS)
    kept = points[::stride] + ([] if (len(points) - 1) % stride == 0 else points[-1:])
    drawn = [f"{_SIDE * x / right:.1f} {_SIDE * (1 - y / top):.1f}" for x, y in kept]
    return f"M{'L'.join(drawn)}h0"  # of no length: a single point is seen by its round ends


def bars(scores: Sequence[float]) -> str:
    """The path of bars side by side; scores in [0, 1], 1 being the full height."""
    width = _SIDE / len(scores)
    filled = width - min(2.0, width / 4)
    return "".join(
        f"M{number * width:.2f} {_SIDE}v{-_SIDE * score:.2f}h{filled:.2f}V{_SIDE}z"
        for number, score in enumerate(scores)
    )

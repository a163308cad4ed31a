"""Line charts by matplotlib, which only the tools that draw them need."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from utils.errors import ResourceError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100


class Curve(NamedTuple):
    """One line: a name for the legend and its points."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


def new_figure(width: int, height: int) -> "Figure":
    """An empty figure of this size in pixels.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ResourceError(
            "matplotlib, which draws the image, is not installed\n"
            "  fix: pip install -r requirements-charts.txt"
        ) from error
    # Not by pyplot: it would look for a screen, and keep the figure.
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")


def draw(axes: "Axes", curves: Sequence[Curve], *, title: str, x_label: str, y_label: str) -> None:
    """Draw curves, a legend and a grid; points that are not finite are left out."""
    for curve in curves:
        axes.plot(curve.xs, curve.ys, label=curve.name)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.grid(alpha=0.3)
    axes.legend()

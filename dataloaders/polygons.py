"""Which pixels a polygon covers: those whose center lies inside, by the even-odd rule.

Of neighbors that share an edge no pixel is in both or in none.
"""

import numpy as np


class ShapeError(ValueError):
    """A shape that cannot be drawn: why, and a line that says the fix."""


def inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return which pixels of an image (height, width) have their center inside a polygon.

    Args:
        points: (N, 2) float corners x, y; the first pixel covers 0..1 in both.
        size: (height, width).
    """
    if len(points) < 3 or not np.isfinite(points).all():
        raise ShapeError(
            f"a polygon of {len(points)} points, expected three finite ones or more\n"
            "  fix: delete it, or draw it again"
        )
    height, width = size
    ends = np.roll(points, -1, axis=0)
    (x, y), (x_end, y_end) = points.T, ends.T
    # The rows whose centers lie between the ends of an edge; half-open, as a corner counts once.
    low, high = (np.clip(np.ceil(pick(y, y_end) - 0.5), 0, height).astype(int)
                 for pick in (np.minimum, np.maximum))  # fmt: skip
    edges = np.repeat(np.arange(len(points)), high - low)
    rows = (
        low[edges]
        + np.arange(len(edges))
        - np.repeat(np.cumsum(high - low) - (high - low), high - low)
    )
    slope = (x_end - x)[edges] / (y_end - y)[edges]
    columns = np.ceil(x[edges] + (rows + 0.5 - y[edges]) * slope - 0.5)
    flips = np.zeros((height, width + 1), np.uint8)
    np.bitwise_xor.at(flips, (rows, np.clip(columns, 0, width).astype(int)), 1)
    return np.bitwise_xor.accumulate(flips, axis=1)[:, :width].astype(bool)

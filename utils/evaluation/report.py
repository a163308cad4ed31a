"""report.html: one file that opens offline and shows what a model gets right and wrong.

The page is the template report.html beside this file, on utils/pages/base.html; here stands what it
is given.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.drawing.palette import VOID_COLOR, Color
from utils.drawing.svg import bars
from utils.drawing.text import percent
from utils.evaluation.report_images import KINDS, RIGHT, TYPES, WRONG, heat_map, strength_of
from utils.evaluation.scoring import Evaluation, GalleryImage
from utils.evaluation.summary import VOID, overall, short_names
from utils.pages.page import fill, words

_TEMPLATE = Path(__file__).with_name("report.html")
_TABLE_CLASSES = 32  # a confusion matrix of more is an image: its numbers could not be read
_IN_TITLE = ("run", "arch", "data", "split", "date")
_STRONG = 0.6  # cells of a stronger color have white figures
_SECTIONS = {
    "classes": "Classes",
    "confusion": "Confusion matrix",
    "mistakes": "Commonest mistakes",
    "places": "Boundaries and interiors",
    "images": "Images",
    "worst": "Worst images",
    "best": "Best images",
}
_ZONES = {"boundary": "Near a boundary of the labels", "interior": "Inside regions"}


def render(evaluation: Evaluation, summary: Mapping[str, Any], *, palette: Sequence[Color]) -> str:
    """The whole page.

    Args:
        evaluation: The sums and the images.
        summary: What `utils.evaluation.summary.summarize` made of it.
        palette: A color for each class.

    Returns:
        HTML without scripts; the same for the same evaluation, to the byte.
    """
    about = summary["about"]
    scores = [one["Mean_IoU"] for one in summary["per_image"] if one["Mean_IoU"] is not None]
    classes: list[dict[str, Any]] = [
        {**row, "color": color} for row, color in zip(summary["classes"], palette, strict=False)
    ]
    legend = [(row["name"], row["color"]) for row in classes if row["IoU"] is not None]
    counts = evaluation.counts
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    boundary = ["Boundary_IoU"] if "Mean_Boundary_IoU" in summary else []
    large = len(counts) > _TABLE_CLASSES
    return fill(
        _TEMPLATE,
        title=_title(about),
        about=_about(summary),
        sections=_SECTIONS,
        cards={words(name): percent(value) for name, value in overall(summary).items()},
        zones=_ZONES,
        summary={**summary, "classes": classes},
        columns=["IoU", "Dice", "Precision", "Recall", *boundary],
        heat_map=heat_map(shares) if large else None,
        confusion=None if large else _confusion(shares, [row["name"] for row in classes]),
        bars=bars(scores) if scores else None,
        mean=sum(scores) / max(len(scores), 1),
        ticks=[(f"{tick} %", 100 - tick) for tick in (0, 25, 50, 75, 100)],
        legend=[*legend, ("void", VOID_COLOR), ("wrong (in errors)", WRONG)],
        worst=_gallery(evaluation, evaluation.worst),
        best=_gallery(evaluation, evaluation.best),
    )


def _title(about: Mapping[str, Any]) -> str:
    """What was scored on which data, and of which date the run is."""
    run = f"{about['run']}: " if about.get("run") else ""
    data = " ".join(filter(None, [about["data"], about.get("split")]))
    date = f", {about['date']}" if about.get("date") else ""
    return f"{run}{about['arch']} on {data}{date}"


def _about(summary: Mapping[str, Any]) -> dict[str, str]:
    facts = {"images": f"{summary['images']:,}", **summary["about"]}
    return {
        words(name): _fact(value)
        for name, value in facts.items()
        if value not in (None, False) and name not in _IN_TITLE
    }


def _fact(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "yes" if value is True else str(value)


def _confusion(shares: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The matrix as rows of cells; a cell's color lets the page through, be that light or dark."""
    columns = [*names, VOID][: shares.shape[1]]
    rows = []
    for label, name in enumerate(names):
        cells = []
        for share, strength, other in zip(
            shares[label], strength_of(shares[label]), columns, strict=True
        ):
            red, green, blue = RIGHT if name == other else WRONG
            color = f"rgb({red} {green} {blue} / {100 * strength:.0f}%)"
            strong = strength > _STRONG
            cells.append({"prediction": other, "share": share, "color": color, "strong": strong})
        rows.append((name, cells))
    return {"columns": columns, "rows": rows}


def _gallery(evaluation: Evaluation, gallery: Sequence[GalleryImage]) -> list[dict[str, Any]]:
    names = short_names([image.name for image in evaluation.images])
    name_of = {image.index: name for image, name in zip(evaluation.images, names, strict=True)}
    return [
        {
            "name": name_of[shown.score.index],
            "score": shown.score,
            "images": list(zip(KINDS, TYPES, shown.images, strict=True)),
        }
        for shown in gallery
    ]

"""report.html: one file that opens offline and shows what a model gets right and wrong.

The page itself is the template report.html beside this file; here stands what it is given.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from utils.drawing.palette import VOID_COLOR, Color
from utils.evaluation.report_images import KINDS, RIGHT, TYPES, WRONG, heat_map, strength_of
from utils.evaluation.scoring import Evaluation, GalleryImage
from utils.evaluation.summary import VOID, overall, percent, short_names

_FOLDER = Path(__file__).parent
_TABLE_CLASSES = 32  # a confusion matrix of more is an image: its numbers could not be read
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
    return _template().render(
        title=" ".join(filter(None, [f"{about['arch']} on {about['data']}", about.get("split")])),
        style=Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),  # noqa: S704  ours
        sections=_SECTIONS,
        zones=_ZONES,
        about=_about(summary),
        overall=overall(summary),
        summary={**summary, "classes": classes},
        columns=["IoU", "Dice", "Precision", "Recall", *boundary],
        heat_map=heat_map(shares) if large else None,
        confusion=None if large else _confusion(shares, [row["name"] for row in classes]),
        chart=_chart(scores),
        legend=[*legend, ("void", VOID_COLOR), ("wrong (in errors)", WRONG)],
        worst=_gallery(evaluation, evaluation.worst),
        best=_gallery(evaluation, evaluation.best),
    )


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["percent"] = percent
    environment.filters["words"] = _words
    environment.filters["base64"] = _base64
    return environment.get_template("report.html")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _about(summary: Mapping[str, Any]) -> dict[str, str]:
    facts = {"images": f"{summary['images']:,}", **summary["about"]}
    return {
        _words(name): _fact(value)
        for name, value in facts.items()
        if value not in (None, False) and name not in ("arch", "data", "split")
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


def _chart(scores: Sequence[float]) -> dict[str, Any] | None:
    """Bars in ascending order, from 0 to 100 %, in the template's coordinates."""
    if not scores:
        return None
    left, right, top, bottom = 44, 1180, 12, 212
    width, height = (right - left) / len(scores), bottom - top
    gap = min(2.0, width / 4)
    return {
        "ticks": [(tick, bottom - height * tick / 100) for tick in (0, 25, 50, 75, 100)],
        "mean": f"{bottom - height * sum(scores) / len(scores):.1f}",
        "bars": "".join(
            f"M{left + i * width:.2f} {bottom}v{-height * score:.2f}h{width - gap:.2f}V{bottom}z"
            for i, score in enumerate(scores)
        ),
    }


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

"""An evaluation as plain JSON types, as a CSV table, and as lines for a terminal."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.drawing.text import percent
from utils.evaluation.scoring import Evaluation, ImageScore
from utils.metrics.scores import (
    class_numbers,
    class_scores,
    mean_present,
    mean_scores,
    ratio,
    top_confusions,
)

VOID = "(void)"  # the prediction that is no class
CONFUSIONS = 20  # the commonest mistakes that are listed
RULES = (
    "Void pixels (the ignore_index) are not counted, whatever was predicted there (void for "
    "{void:,}); a labelled pixel predicted void is a miss ({missed:,}). A class in no label and no "
    "prediction is absent: it has no score and enters no mean. A class that is predicted but in no "
    "label has IoU 0. Counts are summed over all images and divided once."
)


def summarize(
    evaluation: Evaluation, *, classes: Sequence[str], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything of an evaluation but its images.

    Args:
        evaluation: The sums.
        classes: Names.
        about: What was evaluated and how; plain types. `scored_classes` are those that enter the
            means; None: all.

    Returns:
        Plain JSON types; an undefined score is None.
    """
    counts = evaluation.counts
    missed = int(counts[:, len(counts) :].sum())
    names = short_names([image.name for image in evaluation.images])
    scored = class_numbers(about.get("scored_classes"), classes)
    means = mean_scores(counts, scored)
    rows = _class_rows(evaluation, classes)
    if evaluation.boundaries is not None:
        entering = [rows[label] for label in scored or range(len(rows))]
        means["Mean_Boundary_IoU"] = mean_present([row["Boundary_IoU"] for row in entering])
    return {
        "about": dict(about),
        "rules": RULES.format(void=evaluation.void, missed=missed),
        "images": len(evaluation.images),
        "labelled_pixels": int(counts.sum()),
        "void_pixels": sum(image.void_pixels for image in evaluation.images),
        "predicted_void": {"not_counted": evaluation.void, "missed": missed},
        **means,
        "Class_IoU": {row["name"]: row["IoU"] for row in rows},
        "absent_classes": [row["name"] for row in rows if row["IoU"] is None],
        "classes": rows,
        "errors": _errors(evaluation.places),
        "top_confusions": [
            one._asdict()
            | {"label": classes[one.label], "prediction": [*classes, VOID][one.prediction]}
            for one in top_confusions(counts, CONFUSIONS)
        ],
        "per_image": [
            _image(name, image) for name, image in zip(names, evaluation.images, strict=True)
        ],
    }


def _class_rows(evaluation: Evaluation, classes: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "IoU": one.iou,
            "Dice": one.dice,
            "Precision": one.precision,
            "Recall": one.recall,
            "label_share": one.label_share,
            "label_pixels": one.label_pixels,
            "predicted_pixels": one.predicted_pixels,
        }
        for name, one in zip(classes, class_scores(evaluation.counts), strict=True)
    ]
    if evaluation.boundaries is not None:
        for row, (both, union) in zip(rows, evaluation.boundaries.T, strict=True):
            row["Boundary_IoU"] = ratio(int(both), int(union))
    return rows


def _image(name: str, image: ImageScore) -> dict[str, Any]:
    return {
        "image": name,
        "Mean_IoU": image.mean_iou,
        "Pixel_Accuracy": image.pixel_accuracy,
        "labelled_pixels": image.labelled_pixels,
    }


def _errors(places: np.ndarray) -> dict[str, Any]:
    """Where errors are; `places` as in `Evaluation`."""
    total = int(places[:, 0].sum())
    return {
        zone: {
            "errors": int(wrong),
            "pixels": int(pixels),
            "error_rate": ratio(int(wrong), int(pixels)),
            "error_share": ratio(int(wrong), total),
        }
        for zone, (wrong, pixels) in zip(("boundary", "interior"), places, strict=True)
    }


def short_names(names: Sequence[str]) -> list[str]:
    """Paths without the folder that all of them share; names that are no paths as they are."""
    folders = {str(Path(name).parent) for name in names}
    if len(folders) <= 1:
        return [Path(name).name for name in names]
    try:
        shared = os.path.commonpath(folders)
    except ValueError:  # absolute and relative paths, or two drives
        return list(names)
    return [Path(os.path.relpath(name, shared)).as_posix() for name in names]


def confusion_csv(counts: np.ndarray, classes: Sequence[str]) -> str:
    """`Evaluation.counts` as CSV: a row a label, a column a prediction, in pixels."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label \\ prediction", *[*classes, VOID][: counts.shape[1]]])
    writer.writerows([name, *row] for name, row in zip(classes, counts.tolist(), strict=True))
    return text.getvalue()


def table(summary: Mapping[str, Any]) -> str:
    """The scores as aligned text, classes in the data set's order."""
    columns = ["IoU", "Dice", "Precision", "Recall", "label_share"]
    if "Mean_Boundary_IoU" in summary:
        columns.insert(1, "Boundary_IoU")
    rows = summary["classes"]
    width = max(len("class"), *(len(row["name"]) for row in rows))
    lines = ["  ".join(["class".ljust(width), *(f"{name:>12}" for name in columns)])]
    lines += [
        "  ".join([row["name"].ljust(width), *(f"{percent(row[key]):>12}" for key in columns)])
        for row in rows
    ]
    scores = overall(summary)
    longest = max(map(len, scores))
    lines += ["", *(f"{key.ljust(longest)}  {percent(scores[key]):>8}" for key in scores)]
    return "\n".join(lines)


def overall(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """The scores of the whole data set, of what `summarize` returned."""
    return {
        key: value
        for key, value in summary.items()
        if key[0].isupper() and (value is None or isinstance(value, float))
    }

"""report.html of a run folder; tools/compare.py fills the same template with several runs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from utils.drawing.svg import line_chart
from utils.drawing.text import percent
from utils.files.outputs import write_whole
from utils.pages.page import fill, words
from utils.pages.run_files import Run, read_run
from utils.run.names import data_name

TEMPLATE = Path(__file__).with_name("runs.html")
SECTIONS = {
    "runs": "Run",
    "curves": "Curves",
    "classes": "Classes",
    "images": "Validation images",
    "data": "Data",
    "config": "Config",
}
_COLUMNS = 10  # epochs of the table of classes
_CURVES = {  # of each chart its lines: name, event, key
    "Loss": [("training", "log", "loss"), ("validation", "val", "val_loss")],
    "Mean IoU": [("training", "train", "Mean_IoU"), ("validation", "val", "Mean_IoU")],
    "Pixel accuracy": [
        ("training", "train", "Pixel_Accuracy"),
        ("validation", "val", "Pixel_Accuracy"),
    ],
}


def write_report(folder: Path) -> None:
    """Write `report.html` into a run folder, from nothing but its files.

    Raises:
        DataError: One of them is damaged.
    """
    page = render(read_run(folder)).encode(errors="backslashreplace")
    write_whole(folder / "report.html", lambda path: path.write_bytes(page))


def render(run: Run) -> str:
    """The page of one run: HTML without scripts; the same for the same files, to the byte."""
    loader = run.config["train_loader"]
    data = data_name(loader["type"], loader.get("args", {}))
    date = f", {run.date}" if run.date else ""
    charts = [
        line_chart(title, [run.curve(event, key, name) for name, event, key in lines])
        for title, lines in curves([run]).items()
    ]
    return fill(
        TEMPLATE,
        title=f"{run.name} on {data}{date}",
        about={},
        cards=result(run),
        sections=SECTIONS,
        tables={"runs": ("", (), run.facts().items())},
        charts=filter(None, charts),
        classes=_over_epochs(run),
        runs={run.name: run},
    )


def curves(runs: Iterable[Run]) -> dict[str, list[tuple[str, str, str]]]:
    """The lines of each chart by its title: name, event and key of the rows that a line shows."""
    rates = {key for run in runs for row in run.rows for key in row if key.startswith("learning_")}
    lines = [(f"group {key.rpartition('_')[2]}", "log", key) for key in sorted(rates)]
    return _CURVES | {"Learning rate": lines}


def result(run: Run) -> dict[str, str]:
    """What came of a run, in a few numbers."""
    monitor, facts = run.monitor, run.facts()
    cards = {
        f"best {words(monitor.metric or '')}": score(monitor.best, monitor.metric),
        "best epoch": f"{monitor.best_epoch} of {run.config['trainer'].get('epochs')}",
    }
    return cards | {name: facts[name] for name in ("time", "peak memory") if name in facts}


def score(value: float | None, metric: str | None) -> str:
    """A monitored value as text: shares in per cent, a loss as it is."""
    return f"{value:.4f}" if value is not None and metric == "val_loss" else percent(value)


def _over_epochs(run: Run) -> dict[str, Any]:
    """IoU of each class after some of the validations, the first, the last, the best among them."""
    rows = run.validations
    step = max(1, -(-len(rows) // _COLUMNS))
    best = run.monitor.best_epoch
    kept = {row["epoch"]: row for row in [*rows[::step], *rows[-1:], run.best] if row}
    heads = [f"{epoch}{' (best)' * (epoch == best)}" for epoch in sorted(kept)]
    return class_table(heads, [kept[epoch] for epoch in sorted(kept)])


def class_table(head: Sequence[str], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The IoU of each class, a row a class; of rows of validations, a column each."""
    ious = [row.get("Class_IoU", {}) for row in rows]
    classes = dict.fromkeys(name for one in ious for name in one)
    means = ("Mean IoU", [row.get("Mean_IoU") for row in rows])
    return {"head": head, "rows": [means, *((c, [one.get(c) for one in ious]) for c in classes)]}

"""report.html of a run folder, and the same page for several runs side by side."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.drawing.svg import Chart, line_chart
from utils.drawing.text import percent
from utils.files.outputs import write_whole
from utils.pages.page import fill, words
from utils.pages.run_files import Run, read_run

_TEMPLATE = Path(__file__).with_name("runs.html")
_COLUMNS = 10  # epochs of the table of classes
_CURVES = (  # title, whether in per cent, and each line: name, event, key
    ("Loss", False, (("training", "log", "loss"), ("validation", "val", "val_loss"))),
    ("Mean IoU", True, (("training", "train", "Mean_IoU"), ("validation", "val", "Mean_IoU"))),
    (
        "Pixel accuracy",
        True,
        (("training", "train", "Pixel_Accuracy"), ("validation", "val", "Pixel_Accuracy")),
    ),
)


class Table(NamedTuple):
    """A section of the page that is a table.

    Attributes:
        name: Its address within the page.
        title: Its heading.
        note: What it shows, in a sentence.
        head: A name for each column.
        rows: A text for each column; the first names the row.
    """

    name: str
    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_report(folder: Path) -> None:
    """Write `report.html` into a run folder, from nothing but its files.

    Raises:
        DataError: One of them is damaged.
    """
    page = render([read_run(folder)]).encode(errors="backslashreplace")
    write_whole(folder / "report.html", lambda path: path.write_bytes(page))


def render(runs: Sequence[Run], tables: Sequence[Table] = ()) -> str:
    """The page of one run, or of several compared.

    Args:
        runs: At least one.
        tables: More to show, before the curves.

    Returns:
        HTML without scripts; the same for the same runs, to the byte.
    """
    names = labels(runs)
    alone = runs[0] if len(runs) == 1 else None
    sections = {
        "runs": "Run" if alone else "Runs",
        **{table.name: table.title for table in tables},
        "curves": "Curves",
        "classes": "Classes",
        "images": "Validation images",
        "data": "Data",
        "config": "Config",
    }
    return fill(
        _TEMPLATE,
        title=_title(alone) if alone else _titles(runs),
        about={},
        cards=_cards(alone) if alone else {},
        sections=sections,
        facts=_facts(runs, names),
        tables=tables,
        charts=[chart for chart in _charts(runs, names) if chart is not None],
        classes=_over_epochs(alone) if alone else _of_runs(runs, names),
        runs=list(zip(names, runs, strict=True)),
        monitor=words(runs[0].monitor.metric or ""),
    )


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its own where that tells them apart, else with its date or a number."""
    plain = [run.name for run in runs]
    dated = [" ".join(filter(None, [run.name, run.date])) for run in runs]
    counted = [f"{name} ({number})" for number, name in enumerate(dated, start=1)]
    return next(names for names in (plain, dated, counted) if len(set(names)) == len(runs))


def score(value: float | None, metric: str | None) -> str:
    """A monitored value as text: shares in per cent, a loss as it is."""
    if value is None:
        return "-"
    return f"{value:.4f}" if metric == "val_loss" else percent(value)


def _title(run: Run) -> str:
    date = f", {run.date}" if run.date else ""
    return f"{run.name} on {run.config['train_loader']['type']}{date}"


def _titles(runs: Sequence[Run]) -> str:
    return f"{len(runs)} runs: {', '.join(dict.fromkeys(run.name for run in runs))}"


def _cards(run: Run) -> dict[str, str]:
    monitor, facts = run.monitor, run.facts()
    cards = {
        f"best {words(monitor.metric or '')}": score(monitor.best, monitor.metric),
        "best epoch": f"{monitor.best_epoch} of {run.config['trainer'].get('epochs')}",
    }
    return cards | {name: facts[name] for name in ("time", "peak memory") if name in facts}


def _facts(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """A column a run; of one run alone its result stands above already."""
    if len(runs) == 1:
        return Table("runs", "", "", (), list(runs[0].facts().items()))
    columns = [{"date": run.date or "-"} | _cards(run) | run.facts() for run in runs]
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = [[key, *(column.get(key, "-") for column in columns)] for key in keys]
    return Table("runs", "", "", ["", *names], rows)


def _charts(runs: Sequence[Run], names: Sequence[str]) -> Iterable[Chart | None]:
    """One run: training and validation in one chart. Several: a chart each, with a line a run."""
    rates = {key for run in runs for row in run.rows for key in row if key.startswith("learning_")}
    rate_lines = tuple((f"group {key.split('_')[-1]}", "log", key) for key in sorted(rates))
    for title, shares, lines in (*_CURVES, ("Learning rate", False, rate_lines)):
        if len(runs) == 1:
            curves = [runs[0].curve(event, key, name) for name, event, key in lines]
            yield line_chart(title, curves, shares=shares)
            continue
        for kind, event, key in lines:
            curves = [run.curve(event, key, name) for run, name in zip(runs, names, strict=True)]
            kinds = f", {kind}" if len(lines) > 1 else ""
            yield line_chart(f"{title}{kinds}", curves, shares=shares)


def _over_epochs(run: Run) -> dict[str, Any]:
    """IoU of each class after some of the validations, the first, the last, the best among them."""
    rows = run.validations
    step = max(1, -(-len(rows) // _COLUMNS))
    kept = {row["epoch"]: row for row in rows[::-step][::-1] + rows[:1]}
    if run.best:
        kept[run.best["epoch"]] = run.best
    epochs = sorted(kept)
    heads = [f"{epoch}{' (best)' * (epoch == run.monitor.best_epoch)}" for epoch in epochs]
    return _class_table(heads, [kept[epoch] for epoch in epochs])


def _of_runs(runs: Sequence[Run], names: Sequence[str]) -> dict[str, Any]:
    return _class_table(names, [run.best for run in runs])


def _class_table(head: Sequence[str], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ious = [row.get("Class_IoU", {}) for row in rows]
    classes = dict.fromkeys(name for one in ious for name in one)
    means = ("Mean IoU", [row.get("Mean_IoU") for row in rows])
    return {"head": head, "rows": [means, *((c, [one.get(c) for one in ious]) for c in classes)]}

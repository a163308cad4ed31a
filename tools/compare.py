"""Show training runs side by side, in one page that opens offline, from their folders alone.

    python tools/compare.py saved/Fields/*                         # writes compare.html
    python tools/compare.py saved/Fields/2026-01-31_12-00-00 -o run.html
    python tools/compare.py seed0 seed1 seed2 --output seeds.html

Curves, IoU of each class, images, and where the configs differ. Runs whose configs differ in
nothing but seed, fold, name and folders are summed up: mean, standard deviation, lowest, highest.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `python tools/...` puts tools/ on the path, not its parent

from utils.drawing.svg import Chart, line_chart  # noqa: E402
from utils.errors import guard  # noqa: E402
from utils.files.written import Written  # noqa: E402
from utils.pages.page import fill  # noqa: E402
from utils.pages.run_files import Run, read_runs  # noqa: E402
from utils.pages.runs import (  # noqa: E402
    SECTIONS,
    TEMPLATE,
    class_table,
    curves,
    result,
    score,
)

_REPEATED = ("seed", "name", "trainer.save_dir", "trainer.log_dir", "train_loader.args.val_fold")


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="a run's folder")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("compare.html"), help="(default: compare.html)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace other programs' files")
    options = parser.parse_args(arguments)
    written = Written(options.output.parent)
    written.refuse_others([options.output], overwrite=options.overwrite)
    runs = read_runs(options.runs)
    page = render(runs).encode(errors="backslashreplace")
    with written.opened([options.output]):
        written.write(options.output, lambda path: path.write_bytes(page))
    for name, run in zip(labels(runs), runs, strict=True):
        monitor = run.monitor
        best = score(monitor.best, monitor.metric)
        print(f"{name}: best {monitor.metric} {best} (epoch {monitor.best_epoch})")
    print(f"page: {options.output}")
    return 0


def render(runs: Sequence[Run]) -> str:
    """The page of several runs; HTML as that of one."""
    names = labels(runs)
    own = dict.fromkeys(run.name for run in runs)
    tables = {"runs": ("", ["", *names], facts(runs))}
    if repeated := spread(runs):
        note = "Of runs whose configs differ in nothing but seed, fold, name and folders."
        head = ["after the best epoch", "mean", "standard deviation", "lowest", "highest"]
        tables["spread"] = (note, head, repeated)
    note = "All other keys have the same value in all runs."
    tables["differences"] = (note, ["key", *names], differences(runs))
    titles = {"spread": "Mean and spread", "differences": "Differences of the configs"}
    return fill(
        TEMPLATE,
        title=f"{len(runs)} runs: {', '.join(own)}",
        about={},
        cards={},
        sections={name: titles.get(name, "Runs") for name in tables} | {**SECTIONS, "runs": "Runs"},
        tables=tables,
        charts=list(charts(runs)),
        classes=class_table(names, [run.best for run in runs]),
        runs=dict(zip(names, runs, strict=True)),
    )


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its own where that tells them apart, else with its date or a number."""
    plain = [run.name for run in runs]
    dated = [" ".join(filter(None, [run.name, run.date])) for run in runs]
    counted = [f"{name} ({number})" for number, name in enumerate(dated, start=1)]
    return next(names for names in (plain, dated, counted) if len(set(names)) == len(runs))


def facts(runs: Sequence[Run]) -> list[list[str]]:
    """What came of each run and what it consisted of, a column a run."""
    return _side_by_side([{"date": run.date or "-"} | result(run) | run.facts() for run in runs])


def differences(runs: Sequence[Run]) -> list[list[str]]:
    """The keys of the configs that have not the same value in all runs, a column a run."""
    rows = _side_by_side([dict(_leaves(run.config)) for run in runs])
    return [row for row in rows if len(set(row[1:])) > 1]


def _side_by_side(columns: Sequence[Mapping[str, str]]) -> list[list[str]]:
    keys = dict.fromkeys(key for column in columns for key in column)
    return [[key, *(column.get(key, "-") for column in columns)] for key in keys]


def charts(runs: Sequence[Run]) -> Iterator[Chart]:
    """A chart for training and one for validation, with a line a run."""
    names = labels(runs)
    for title, lines in curves(runs).items():
        for kind, event, key in lines:
            shown = [run.curve(event, key, name) for run, name in zip(runs, names, strict=True)]
            chart = line_chart(f"{title}, {kind}" if len(lines) > 1 else title, shown)
            if chart is not None:
                yield chart


def spread(runs: Sequence[Run]) -> list[list[str]]:
    """Mean and spread over runs that repeat each other, of each class too."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(without_repetition(run.config), []).append(run)
    names = dict(zip(map(id, runs), labels(runs), strict=True))
    rows = []
    for group in groups.values():
        if len(group) > 1:
            rows.append([f"{len(group)} runs: {', '.join(names[id(run)] for run in group)}"])
            rows[-1] += [""] * 4
            rows += _summed_up(group)
    return rows


def _summed_up(group: Sequence[Run]) -> Iterator[list[str]]:
    metric = group[0].monitor.metric or ""
    found = [{metric: run.monitor.best} | run.best.get("Class_IoU", {}) for run in group]
    for name in found[0]:
        values = [one[name] for one in found if one.get(name) is not None]
        if len(values) > 1:
            numbers = np.mean(values), np.std(values, ddof=1), min(values), max(values)
            row = name if name == metric else f"IoU/{name}"
            yield [row, *(score(float(number), row) for number in numbers)]


def without_repetition(config: Mapping[str, Any]) -> str:
    """A text that is the same for runs that repeat each other with another seed or fold."""
    kept = {key: value for key, value in _leaves(config) if key not in _REPEATED}
    return json.dumps(kept, sort_keys=True)


def _leaves(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

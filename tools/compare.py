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

from utils.errors import guard  # noqa: E402
from utils.files.outputs import prepare_folder, write_whole  # noqa: E402
from utils.pages.run_files import Run, read_run  # noqa: E402
from utils.pages.runs import Table, labels, render, score  # noqa: E402

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
    options = parser.parse_args(arguments)
    runs = [read_run(folder) for folder in options.runs]
    tables = [table for table in (spread(runs), differences(runs)) if table.rows]
    prepare_folder(options.output.parent)
    page = render(runs, tables).encode(errors="backslashreplace")
    write_whole(options.output, lambda path: path.write_bytes(page))
    for name, run in zip(labels(runs), runs, strict=True):
        monitor = run.monitor
        best = score(monitor.best, monitor.metric)
        print(f"{name}: best {monitor.metric} {best} (epoch {monitor.best_epoch})")
    print(f"page: {options.output}")
    return 0


def differences(runs: Sequence[Run]) -> Table:
    """The keys of the configs that have not the same value in all runs."""
    flat = [dict(_leaves(run.config)) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [[key, *(one.get(key, "-") for one in flat)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    note = "All other keys have the same value in all runs."
    return Table("differences", "Differences of the configs", note, ["key", *labels(runs)], rows)


def spread(runs: Sequence[Run]) -> Table:
    """Mean and spread over runs that repeat each other, of each class too."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_without_repetition(run.config), []).append(run)
    names = dict(zip(map(id, runs), labels(runs), strict=True))
    rows = []
    for group in groups.values():
        if len(group) > 1:
            rows.append([f"{len(group)} runs: {', '.join(names[id(run)] for run in group)}"])
            rows[-1] += [""] * 4
            rows += _summed_up(group)
    head = ["after the best epoch", "mean", "standard deviation", "lowest", "highest"]
    note = "Of runs whose configs differ in nothing but seed, fold, name and folders."
    return Table("spread", "Mean and spread", note, head, rows)


def _summed_up(group: Sequence[Run]) -> Iterator[list[str]]:
    metric = group[0].monitor.metric or ""
    found = [{metric: run.monitor.best} | run.best.get("Class_IoU", {}) for run in group]
    for name in found[0]:
        values = [one[name] for one in found if one.get(name) is not None]
        if len(values) > 1:
            numbers = np.mean(values), np.std(values, ddof=1), min(values), max(values)
            row = name if name == metric else f"IoU/{name}"
            yield [row, *(score(float(number), row) for number in numbers)]


def _without_repetition(config: Mapping[str, Any]) -> str:
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

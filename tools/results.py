"""Print a Markdown table of training runs, from their folders alone: as in docs/results.md.

    python tools/results.py saved/CamVid_ENet/* saved/CamVid_DeepLab_lite0/*
    python tools/results.py --classes saved/CamVid_ENet/*

Runs that differ in nothing but seed, fold, name and folders share a row: the mean, and the lowest
and highest score; time and peak memory are the first one's.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `python tools/...` puts tools/ on the path, not its parent

from tools.compare import without_repetition  # noqa: E402
from utils.errors import guard  # noqa: E402
from utils.pages.run_files import Run, read_runs  # noqa: E402

_HEAD = ("run", "network", "images seen", "Mean_IoU, best", "at the end", "runs", "time", "memory")


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--classes", action="store_true", help="a table of the classes' IoU")
    options = parser.parse_args(arguments)
    groups: dict[str, list[Run]] = {}
    for run in read_runs(options.runs):
        groups.setdefault(without_repetition(run.config), []).append(run)
    table = classes if options.classes else summary
    for number, row in enumerate(table(list(groups.values()))):
        print(f"| {' | '.join(row)} |")
        if number == 0:
            print("|---" * len(row) + "|")
    return 0


def summary(groups: Sequence[Sequence[Run]]) -> Iterator[Sequence[str]]:
    """A head, and a row for each group of runs that repeat each other."""
    yield _HEAD
    for group in groups:
        first = group[0]
        backbone = first.config["arch"].get("args", {}).get("backbone")
        network = ", ".join(filter(None, [first.config["arch"]["type"], _name(backbone)]))
        best = [run.best.get("Mean_IoU") for run in group]
        last = [run.validations[-1]["Mean_IoU"] for run in group if run.validations]
        seen = f"{images_seen(first):,}"
        facts = first.facts()
        cost = facts.get("time", "-"), facts.get("peak memory", "-")
        yield first.name, network, seen, spread(best), spread(last), str(len(group)), *cost


def classes(groups: Sequence[Sequence[Run]]) -> Iterator[Sequence[str]]:
    """A head, and a row for each class: its IoU at the best epoch of each group."""
    yield "class", *(group[0].name for group in groups)
    names = dict.fromkeys(
        name for group in groups for run in group for name in run.best.get("Class_IoU", {})
    )
    for name in names:
        found = ([run.best.get("Class_IoU", {}).get(name) for run in group] for group in groups)
        yield name, *map(spread, found)


def images_seen(run: Run) -> int:
    """How many images the training has taken, repetitions counted."""
    batch = run.config["train_loader"]["args"]["batch_size"]
    steps = run.rows[-1]["step"] if run.rows else 0
    return steps * batch * run.config["trainer"].get("accumulate", 1)


def spread(scores: Sequence[float | None]) -> str:
    """The mean in per cent, and of several the lowest and highest; "-" without any."""
    known = [100 * score for score in scores if score is not None]
    if not known:
        return "-"
    mean = f"{sum(known) / len(known):.1f}"
    return mean if len(known) == 1 else f"{mean} ({min(known):.1f} to {max(known):.1f})"


def _name(backbone: object) -> str | None:
    return backbone["name"] if isinstance(backbone, dict) else backbone  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

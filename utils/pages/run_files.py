"""What a run's folder tells of it, also of a run that is long over, or was killed."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from utils.drawing.chart import Curve
from utils.drawing.text import duration
from utils.errors import DataError
from utils.run import names
from utils.run.monitor import Monitor

_FACTS = ("device", "precision", "model", "data", "batch", "optimizer", "schedule", "software")
_FACT = re.compile(rf"^\S+ \S+ INFO ({'|'.join(_FACTS)}) {{3,}}(.*)", re.MULTILINE)
_DATA = re.compile(r"^\S+ \S+ INFO ((?:train|val)_loader: .*|  .*)", re.MULTILINE)
_TIME = re.compile(r"INFO trained for (\d+) s$", re.MULTILINE)
_MEMORY = re.compile(r"INFO peak memory (\d+) MiB$", re.MULTILINE)


class Run(NamedTuple):
    """A run as its files show it.

    Attributes:
        name: From its config.
        date: When it began, "" if the folder does not tell.
        config: As in config.json.
        rows: Of metrics.jsonl.
        log: The text of train.log.
        images: validation.png, or None.
    """

    name: str
    date: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    log: str
    images: bytes | None

    @property
    def validations(self) -> list[dict[str, Any]]:
        """The rows of validations, in order."""
        return [row for row in self.rows if row.get("event") == "val"]

    @property
    def monitor(self) -> Monitor:
        """The monitored metric, as it stood at the end."""
        text = self.config["trainer"]["monitor"]
        monitor = Monitor.parse("max Mean_IoU" if text == "off" else text, 0)
        for row in self.validations:
            monitor.improved(row, row["epoch"])
        return monitor

    @property
    def best(self) -> dict[str, Any]:
        """The row of the best validation; empty without one."""
        epoch = self.monitor.best_epoch
        return next((row for row in self.validations if row["epoch"] == epoch), {})

    def curve(self, event: str, key: str, name: str) -> Curve:
        """A number of the rows of an event over the iterations; what is null is left out."""
        rows = [row for row in self.rows if row.get("event") == event and row.get(key) is not None]
        return Curve(name, [row["step"] for row in rows], [row[key] for row in rows])

    def facts(self) -> dict[str, str]:
        """What it consisted of, took, and ran on."""
        facts = dict(_FACT.findall(self.log))  # of the last process, where several went on
        times = [int(seconds) for seconds in _TIME.findall(self.log)]
        if times:
            facts["time"] = duration(sum(times))
        if peaks := [int(peak) for peak in _MEMORY.findall(self.log)]:
            facts["peak memory"] = f"{max(peaks):,} MiB"
        return facts

    def data(self) -> list[str]:
        """What the data doctor said before the training, the last time."""
        lines = _DATA.findall(self.log)
        starts = [i for i, line in enumerate(lines) if line.startswith("train_loader: ")]
        first = lines[starts[0]] if starts else ""
        again = [i for i in starts if lines[i] == first]
        return lines[again[-1] :] if again else []


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Read run folders, each once however often it is named; errors as of `read_run`."""
    return [read_run(folder) for folder in {one.resolve(): one for one in folders}.values()]


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        DataError: It is none, or a file in it is damaged.
    """
    config, metrics = folder / "config.json", folder / "metrics.jsonl"
    if not config.is_file() or not metrics.is_file():
        below = sorted({file.parent for file in folder.glob("*/metrics.jsonl")})[:3]
        raise DataError(
            f"{folder}: no run folder: expected config.json and metrics.jsonl in it"
            + "".join(f"\n  a run folder in it: {run}" for run in below)
        )
    log, images = folder / "train.log", folder / names.IMAGES
    settings = _parsed(config.read_bytes(), config, needed={"name", "trainer", "train_loader"})
    return Run(
        settings["name"],
        names.date_of(folder) or "",
        settings,
        list(_rows(metrics)),
        log.read_text(encoding="utf-8", errors="replace") if log.is_file() else "",
        images.read_bytes() if images.is_file() else None,
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows, each learning rate by a name of its own; a last one cut by a kill is left out."""
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        row = _parsed(line, f"{path}, line {number}", needed={"event", "epoch", "step"})
        rates = row.pop("learning_rates", [])
        yield row | {f"learning_rate_{group}": rate for group, rate in enumerate(rates)}


def _parsed(text: bytes, place: Path | str, *, needed: set[str]) -> dict[str, Any]:
    with suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict) and needed <= found.keys():
            return found
    raise DataError(f"{place}: damaged: expected a JSON object with {', '.join(sorted(needed))}")

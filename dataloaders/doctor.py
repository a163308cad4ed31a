"""The data doctor: looks at everything, collects every problem, names the cause and the cure.

Before each training it looks at all headers and at a seeded sample of masks; on request at every
pixel. It reads only.
"""

import hashlib
import multiprocessing
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from base.base_dataset import BaseDataset
from utils.data.mask_causes import Cause, find_cause
from utils.data.mask_facts import MaskFacts, look_at_mask
from utils.errors import DataError
from utils.hardware.workers import START_METHOD
from utils.seeding import check_order

SAMPLE = 64  # masks looked at before every training
_EXAMPLES = 5
_NEW_PROCESSES_FROM = 500  # pairs; fewer are read sooner than processes start


class Finding(NamedTuple):
    """What one pair showed.

    Attributes:
        problem: Why it cannot be used, or "".
        facts: What its mask holds, where that could be read.
        counts: Labelled pixels of each class, where the mask could be used.
        void: Pixels of its image without a value, where that was decoded.
    """

    problem: str
    facts: MaskFacts | None
    counts: tuple[int, ...] | None
    void: int = 0


@dataclass
class Examination:
    """What the doctor found in one loader's data.

    Attributes:
        kind: "train_loader" or "val_loader".
        title: What was looked at.
        problems: Each with its examples; the data cannot be used with them.
        causes: What explains them and mends them.
        notes: What is worth knowing.
    """

    kind: str
    title: str
    problems: list[str] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report of this loader."""
        lines = [f"{self.kind}: {self.title}"]
        lines += [f"  problem: {problem}" for problem in self.problems]
        for cause in self.causes:
            lines.append(f"  cause: {cause.what}")
            if cause.lines:
                lines.append(f"  fix: in {cause.where}: {cause.cure()}")
            else:
                lines.append("  fix: export the masks anew as PNG with one label value a pixel")
        lines += [f"  note: {note}" for note in self.notes]
        if not self.problems:
            lines.append("  no problem found")
        return lines


def examine(kind: str, dataset: BaseDataset | DataError, *, full: bool) -> Examination:
    """Examine one loader's data.

    Args:
        kind: "train_loader" or "val_loader".
        dataset: The data set, or what building it raised.
        full: Decode everything; otherwise all headers and a seeded sample of the masks.
    """
    if isinstance(dataset, DataError):
        return Examination(kind, "cannot be found", problems=[_indented(str(dataset))])
    name, total = type(dataset).__name__, len(dataset)
    if not dataset.pairs:
        return Examination(kind, f"{name}, {total} generated pictures")
    order = check_order(total, seed=dataset.seed)
    looked_at = sorted(range(total) if full else order[:SAMPLE].tolist())
    title = f"{name}, {total} images, {len(looked_at)} masks looked at"
    result = Examination(kind, title)
    findings = _run(partial(_examine_pair, dataset, full), looked_at)
    headers = [] if full else _run(partial(_header_problem, dataset), range(total))
    _report_problems(result, [finding.problem for finding in findings] + headers)
    _report_values(result, dataset, [finding for finding in findings if finding.facts])
    _report_classes(result, dataset, findings, full=full)
    holes = [f"{dataset.name(index)}: {one.void} pixels"
             for index, one in zip(looked_at, findings, strict=True) if one.void]  # fmt: skip
    if holes:
        what = "images have pixels without a value (NaN, infinite or nodata), which are void"
        result.notes.append(_with_examples(f"{len(holes)} {what}", holes))
    return result


def overlap(train: BaseDataset, val: BaseDataset) -> str | None:
    """Return what is wrong when training and validation share images: a file or its content."""
    groups: defaultdict[int, list[tuple[str, Path]]] = defaultdict(list)
    for kind, dataset in (("train", train), ("val", val)):
        for pair in dataset.pairs:
            if pair.image.is_file():
                groups[pair.image.stat().st_size].append((kind, pair.image))
    shared = []
    for members in groups.values():
        if len({kind for kind, _ in members}) == 2:
            by_content: dict[bytes, Path] = {}
            for kind, path in members:
                if kind == "train":
                    by_content.setdefault(_digest(path), path)
            shared += [
                f"{path} is {by_content[_digest(path)]}"
                for kind, path in members
                if kind == "val" and _digest(path) in by_content
            ]
    if not shared:
        return None
    return _with_examples(
        f"{len(shared)} of {len(val)} validation images are also trained on (same file or same "
        "content): the score would be too good",
        shared,
    )


Task = Callable[[int], Any]
_inherited: list[Task] = []  # in a process of the pool: its task


def _run(task: Task, indices: Iterable[int]) -> list[Any]:
    indices = list(indices)
    processes = min(os.cpu_count() or 1, 16)
    if len(indices) < _NEW_PROCESSES_FROM or processes == 1:
        return [task(index) for index in indices]
    # OpenCV's threads would not live on in forked processes, which would then wait for them.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        # A forked process has the task already; sent with each chunk, the paths of a large data
        # set would cost more than reading its headers.
        with multiprocessing.get_context(START_METHOD).Pool(
            processes, initializer=_inherit, initargs=(task,)
        ) as pool:
            return pool.map(_inherited_task, indices, chunksize=16)
    finally:
        cv2.setNumThreads(threads)


def _inherit(task: Task) -> None:
    # A function of the module: a process that is not forked would be sent a copy of the list.
    _inherited.append(task)


def _inherited_task(index: int) -> Any:
    return _inherited[0](index)


def _examine_pair(dataset: BaseDataset, full: bool, index: int) -> Finding:
    """Look at one pair; with `full` the image is decoded too."""
    pair = dataset.pairs[index]
    facts, counts, void, problem = None, None, None, ""
    try:
        if pair.mask is not None:
            facts = look_at_mask(pair.mask, by_colour=dataset.colour_table is not None)
        image, void = dataset.read_image(pair.image) if full else (None, None)
        if pair.mask is not None:
            mask = dataset.read_labels(pair.mask)
            size = dataset.size(index) if image is None else image.shape[:2]
            dataset.check_size(pair, size, mask.shape)
            counts = dataset.label_counts(dataset.with_void(mask, void))
    except DataError as error:
        problem = str(error)
    labelled = None if counts is None else tuple(counts.tolist())
    return Finding(problem, facts, labelled, 0 if void is None else int(void.sum()))


def _header_problem(dataset: BaseDataset, index: int) -> str:
    try:
        dataset.size(index)
    except DataError as error:
        return str(error)
    return ""


def _report_problems(result: Examination, problems: Sequence[str]) -> None:
    """Group messages that differ in the file alone."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for problem in dict.fromkeys(problems):
        if problem:
            groups[_gist(problem)].append(problem)
    for members in groups.values():
        first = _indented(members[0])
        if len(members) > 1:
            more = [problem.partition("\n")[0] for problem in members[1:]]
            first += _with_examples(f"\n    and {len(members) - 1} more like it", more)
        result.problems.append(first)


def _gist(problem: str) -> str:
    """Return what remains of a message's first line without its file and numbers."""
    line = problem.partition("\n")[0].partition(": ")[2]
    return "".join(letter for letter in line.partition(":")[0] if not letter.isdigit())


def _report_values(result: Examination, dataset: BaseDataset, findings: Sequence[Finding]) -> None:
    facts = [finding.facts for finding in findings if finding.facts is not None]
    if not facts:
        return
    table = dataset.colour_table
    known = dataset.table.mapping if table is None else table.mapping()
    cause = find_cause(
        facts,
        num_classes=dataset.num_classes,
        ignore_index=dataset.ignore_index,
        known=known,
        by_colour=table is not None,
    )
    tolerant = dataset.table.tolerance > 0 or (table is not None and table.tolerance > 0)
    wrong = any("label values" in p or "colours" in p or "JPEG" in p or "mode" in p
                for p in result.problems)  # fmt: skip
    if cause is None or (tolerant and not wrong):
        return
    counts: Counter[int] = Counter()
    for one in facts:
        counts.update(one.values)
    shown = ", ".join(f"{value} ({count} px)" for value, count in counts.most_common(8))
    if not wrong:
        result.problems.append(f"the masks hold only {shown}: {cause.what}")
    result.causes.append(cause)


def _report_classes(
    result: Examination, dataset: BaseDataset, findings: Sequence[Finding], *, full: bool
) -> None:
    totals = [0] * dataset.num_classes
    for finding in findings:
        if finding.counts is not None:
            totals = [a + b for a, b in zip(totals, finding.counts, strict=True)]
    if not any(totals):
        seen = [finding for finding in findings if finding.facts and finding.counts]
        if seen and len(seen) == len(findings):
            void = f"none of the {len(seen)} masks looked at has a labelled pixel: all is void"
            # Of a sample it may be chance.
            (result.problems if full or len(seen) == len(dataset) else result.notes).append(void)
        return
    absent = [name for name, count in zip(dataset.classes, totals, strict=True) if not count]
    if absent:
        where = "in no mask" if full else f"in none of the {len(findings)} masks looked at"
        result.notes.append(f"classes that occur {where}: {', '.join(absent)}")
    pixels = sum(totals)
    shares = [
        f"{name} {count / pixels:.1%}"
        for name, count in zip(dataset.classes, totals, strict=True)
        if count
    ]
    result.notes.append(f"labelled pixels: {', '.join(shares)}")


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")


def _with_examples(text: str, examples: Sequence[str]) -> str:
    shown = [f"\n      {example}" for example in examples[:_EXAMPLES]]
    if len(examples) > _EXAMPLES:
        shown.append(f"\n      and {len(examples) - _EXAMPLES} more")
    return text + ":" + "".join(shown)


def check(datasets: Mapping[str, BaseDataset | DataError], *, full: bool) -> tuple[str, bool]:
    """Examine what a run will read.

    Args:
        datasets: By "train_loader" and "val_loader".
        full: Decode everything.

    Returns:
        The report, and whether the data can be used.
    """
    results = [examine(kind, dataset, full=full) for kind, dataset in datasets.items()]
    train, val = datasets.get("train_loader"), datasets.get("val_loader")
    if isinstance(train, BaseDataset) and isinstance(val, BaseDataset):
        shared = overlap(train, val)
        if shared is not None:
            # Before a training it is said and allowed: overfitting on purpose is a good test.
            (results[-1].problems if full else results[-1].notes).append(shared)
    lines = [line for result in results for line in result.lines()]
    return "\n".join(lines), not any(result.problems for result in results)

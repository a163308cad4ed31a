"""The data doctor: looks at everything, collects every problem, names the cause and the cure.

Before each training it looks at all headers and at a seeded sample of masks; on request at every
pixel. It reads only.
"""

import contextlib
import json
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from base.base_data_loader import mixed_sizes
from base.base_dataset import BaseDataset
from dataloaders.image_notes import image_notes
from dataloaders.known_files import read_sizes
from dataloaders.layout import named_colors, with_examples
from dataloaders.overlap import overlap
from dataloaders.processes import run
from utils.data.color_labels import TRANSPARENT
from utils.data.mask_causes import Cause, find_cause
from utils.data.mask_facts import MaskFacts, look_at_mask
from utils.drawing.text import in_percent
from utils.errors import DataError
from utils.seeding import check_order

SAMPLE = 64  # masks looked at before every training
_COLORS = 4  # channels that Pillow reads; it complains of more aloud
_in_lines = partial(textwrap.fill, width=92, subsequent_indent="    ")


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
        facts: What its masks hold.
    """

    kind: str
    title: str
    problems: list[str] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: list[MaskFacts] = field(default_factory=list)

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
        return Examination(kind, f"{name}, {total} generated images")
    order = check_order(total, seed=dataset.seed)
    looked_at = sorted(range(total) if full else order[:SAMPLE].tolist())
    title = f"{name}, {total} images, {len(looked_at)} masks looked at"
    result = Examination(kind, title, notes=list(dataset.notes))
    findings = run(partial(_examine_pair, dataset, full), looked_at, title=kind)
    # Also of images that were decoded: one of another kind than the first may be readable.
    _report_problems(result, [finding.problem for finding in findings] + read_sizes(dataset))
    result.facts = [one.facts for one in findings if one.facts and one.facts.values]
    _report_values(result, dataset)
    if len(dataset.mean) <= _COLORS:
        pairs = [dataset.pairs[index] for index in looked_at]
        result.notes += image_notes(pairs, dataset.input_dtype)
    if not result.causes:  # otherwise it would count what labels do not mean
        _report_classes(result, dataset, findings, full=full)
    holes = [f"{dataset.name(index)}: {one.void} pixels"
             for index, one in zip(looked_at, findings, strict=True) if one.void]  # fmt: skip
    if holes:
        what = "images have pixels without a value (NaN, infinite or nodata), which are void"
        result.notes.append(with_examples(f"{len(holes)} {what}", holes))
    return result


def _examine_pair(dataset: BaseDataset, full: bool, index: int) -> Finding:
    """Look at one pair; with `full` the image is decoded too."""
    pair = dataset.pairs[index]
    facts, counts, void, problem = None, None, None, ""
    try:
        if pair.mask is not None:
            facts = look_at_mask(pair.mask, dataset.color_table or dataset.table)
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
            first += with_examples(f"\n    and {len(members) - 1} more like it", more)
        result.problems.append(first)


def _gist(problem: str) -> str:
    """Return what remains of a message's first line without its file and numbers."""
    line = problem.partition("\n")[0].partition(": ")[2]
    return "".join(letter for letter in line.partition(":")[0] if not letter.isdigit())


def _report_values(result: Examination, dataset: BaseDataset) -> None:
    if varying := [one for one in result.facts if one.alpha]:
        apart = any(TRANSPARENT in one.values for one in varying)
        meaning = (
            'below 128 it is "transparent" in label_map'
            if apart
            else "it is left out, since the colors alone tell the classes apart"
        )
        example = varying[0].path
        result.notes.append(f"alpha varies in {len(varying)} masks, such as {example}: {meaning}")
    if cause := _cause(result.facts, dataset):
        result.causes.append(cause)
        result.problems += [cause.problem] if cause.problem else []


def _cause(facts: Sequence[MaskFacts], dataset: BaseDataset) -> Cause | None:
    if not facts:
        return None
    named = named_colors(facts[0].path.parent, dataset.classes, void=dataset.ignore_index)
    return find_cause(facts, dataset.color_table or dataset.table, named)


def _share_cure(results: Sequence[Examination], datasets: Sequence[BaseDataset]) -> None:
    """Look for the cause in all masks, where that of some would be written for each loader."""
    for result, dataset in zip(results, datasets, strict=True):
        for old in result.causes:
            if cause := _cause([*results[0].facts, *results[1].facts], dataset):
                result.causes = [cause]
            elif old.problem:  # of masks that can be read: the others show what they mean
                result.causes = []
                result.problems.remove(old.problem)


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
        result.notes.append(_in_lines(f"classes that occur {where}: {', '.join(absent)}"))
    pixels = sum(totals)
    shares = [
        f"{name} {in_percent(count / pixels, 1)}%"
        for name, count in zip(dataset.classes, totals, strict=True)
        if count
    ]
    result.notes.append(_in_lines(f"labelled pixels: {', '.join(shares)}"))


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")


def _mixed_sizes(dataset: BaseDataset) -> list[str]:
    """Return what is wrong with batches of several samples, where their sizes differ."""
    with contextlib.suppress(DataError):  # of files that cannot be read there is a problem already
        first = dataset.sample_size(1, 0)
        for index in range(1, len(dataset)):
            size = dataset.sample_size(1, index)
            if size != first:
                return [_indented(str(mixed_sizes(dataset, {0: first, index: size})))]
    return []


def _other_pixels(train: BaseDataset, val: BaseDataset) -> list[str]:
    """Return what is wrong where the network would be given other images than it learns from."""
    read, found = ((len(data.mean), data.input_dtype) for data in (train, val))
    told = f"found images of {found[0]} channels of {found[1]}, expected {read[0]} of {read[1]}"
    fix = "as in train_loader\n    fix: convert them to the same kind"
    return [] if read == found else [f"{told} {fix}"]


def check(
    datasets: Mapping[str, BaseDataset | DataError], *, full: bool, batch_size: int = 1
) -> tuple[str, bool]:
    """Examine what a run will read.

    Args:
        datasets: By "train_loader" and "val_loader".
        full: Decode everything.
        batch_size: How many training samples a process puts together.

    Returns:
        The report, and whether the data can be used.
    """
    results = [examine(kind, dataset, full=full) for kind, dataset in datasets.items()]
    train, val = datasets.get("train_loader"), datasets.get("val_loader")
    if isinstance(train, BaseDataset) and batch_size > 1:
        results[0].problems += _mixed_sizes(train)
    if isinstance(train, BaseDataset) and isinstance(val, BaseDataset):
        if tuple(train.classes) == tuple(val.classes):
            _share_cure(results, (train, val))
        else:
            same = type(train) is type(val)
            fix = {"classes": train.classes} if same else {"type": type(train).__name__}
            results[-1].problems.append(
                f"found the classes {', '.join(val.classes)}, expected those of train_loader\n"
                f"    fix: in both: {json.dumps(fix)[1:-1]}"
            )
        results[-1].problems += _other_pixels(train, val)
        shared = overlap(train, val)
        if shared is not None:
            # Before a training it is said and allowed: overfitting on purpose is a good test.
            (results[-1].problems if full else results[-1].notes).append(shared)
    lines = [line for result in results for line in result.lines()]
    return "\n".join(lines), not any(result.problems for result in results)

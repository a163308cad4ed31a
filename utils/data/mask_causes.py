"""Why masks do not fit their classes, and the config line that mends it.

The usual causes: a 0/255 mask, a color mask, labels off by one, a JPEG-compressed or smoothed
mask, palettes that differ, ids of objects, a void value that is not the config's ignore_index.
Everything here works on counts of values and of color codes alone.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.data.color_labels import SHIFT, TRANSPARENT, ColorTable, color_name
from utils.data.labels import LabelTable
from utils.data.mask_facts import MaskFacts, Seen, look_at_mask

USUAL_VOID = (255, 254, -1, 65535)
_IGNORE_INDEX = range(-(2**15), 2**15)  # what the config's may be
_READ = 64  # masks that are read again by their colors
_NAMED = 16  # values or colors that are added to a label_map; more are ids of objects
_CLOSE = 48  # values and channels no further apart belong to one class
_COMPRESSED = 16  # compression moves pixels further than labels nearer than this lie apart
_NEAR = 0.6  # the least share of a compressed mask's pixels that lie close to a class
_FLAT = 0.5  # the least share of a mask's pixels whose value fills areas

_ARGS = 'the args of each loader ("type": "Folder")'

Table = LabelTable | ColorTable


class Cause(NamedTuple):
    """A cause and its cure.

    Attributes:
        what: The cause in one sentence.
        lines: The keys to add; empty when no config can mend it.
        where: The part of the config that the lines belong to.
        problem: What is wrong, where masks can be read but mean something else; or "".
    """

    what: str
    lines: Mapping[str, object]
    where: str = _ARGS
    problem: str = ""

    def cure(self) -> str:
        """Return the lines as they are written in a config."""
        return ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in
                         self.lines.items())  # fmt: skip


def find_cause(facts: Sequence[MaskFacts], table: Table, named: Mapping[int, int]) -> Cause | None:
    """Say why masks do not fit.

    Args:
        facts: What was found in the masks that were looked at.
        table: How the config has them read.
        named: Train ids of color codes, where a file beside the masks has them.

    Returns:
        The likeliest cause, or None when all values are known and none of the causes fits.
    """
    by_color = isinstance(table, ColorTable)
    colored = [one for one in facts if one.colored]
    seen = Seen.of(colored or facts, table.num_classes)
    other_kind = seen.colours != by_color
    unknown = [value for value in seen.counts if other_kind or not table.knows(value)]
    if any(one.jpeg for one in facts) and (unknown or not table.tolerance):
        return _compressed(seen, table)
    if other_kind:
        return None if by_color else _colors(seen, table, named)
    cause = (
        _binary(facts, seen, table)
        or _palettes(facts, table, named)
        or _off_by_one(seen, unknown, table)
    )
    return cause or (_unknown(seen, facts, unknown, table) if unknown else None)


def _unknown(seen: Seen, facts: Sequence[MaskFacts], unknown: Sequence[int], table: Table) -> Cause:
    """Say why a mask of the right kind has values or colors that nothing knows."""
    if seen.flat < _FLAT:
        return _photograph(seen, table)
    if table.num_classes == 2 and len(seen.firm) > _NAMED:
        return _objects(seen)
    if table.stated:
        return _lacking(seen, facts, unknown, table)
    return _values(seen, sorted(unknown), table)


def _binary(facts: Sequence[MaskFacts], seen: Seen, table: Table) -> Cause | None:
    """Whether 255 stands for the second of two classes and is not read so."""
    void = table.ignore_index
    if seen.colours or table.num_classes != 2 or {255} - seen.counts.keys():
        return None
    if seen.counts.keys() - {0, 255} or table.mapping.get(255, void) != void:
        return None
    if table.stated and 255 in table.mapping:
        return None
    problem = ""
    if 255 in table.mapping:  # else the reader says what is wrong
        path = next(one.path for one in facts if 255 in one.values)
        problem = f"{path}: 255 is void here: no pixel of the second class in {len(facts)} masks"
    what = "binary masks of 0 and 255 (if 255 is void, state that in a label_map)"
    return Cause(what, {"label_map": {"0": 0, "255": 1}}, problem=problem)


def _palettes(facts: Sequence[MaskFacts], table: Table, named: Mapping[int, int]) -> Cause | None:
    """Whether palettes give an index several colors; then the colors are the labels."""
    met: dict[int, tuple[int, Path]] = {}
    for one in facts if not table.stated else ():
        for index, color in one.palette.items():
            first, path = met.setdefault(index, (color, one.path))
            if first != color:
                count, void = table.num_classes, table.ignore_index
                by_color = ColorTable({}, num_classes=count, ignore_index=void)
                seen = Seen.of([look_at_mask(mask.path, by_color) for mask in facts[:_READ]], count)
                cause = _colors(seen, table, named)
                return cause._replace(
                    what=f"{cause.what}; or, if the indices are right, state them in a label_map",
                    problem=f"{one.path}: index {index} is {color_name(color)}, "
                    f"in {path} it is {color_name(first)}",
                )
    return None


def _lacking(seen: Seen, facts: Sequence[MaskFacts], unknown: Sequence[int], table: Table) -> Cause:
    """Name what a `label_map` lacks."""
    known = {key: "void" if target == table.ignore_index else target
             for key, target in table.mapping.items()}  # fmt: skip
    gray = {level * 0x010101: target for level, target in known.items() if 0 <= level < 256}
    shown = {index: color for one in facts for index, color in one.palette.items()}
    if not seen.colours and all(shown.get(value) in gray for value in unknown):
        what = "palettes show other values than their indices, which are the labels"
        return Cause(what, {"label_map": {color_name(key): gray[key] for key in gray}})
    shift = SHIFT if seen.colours else 0
    far = [value for value in unknown
           if value not in seen.soft and seen.nearest(value, known) > shift]  # fmt: skip
    if TRANSPARENT in far and set(range(table.num_classes)) - set(known.values()):
        return _colors(seen, table, {})  # a map without transparent pixels missed a class
    kind = "colours" if seen.colours else "values"
    what, lines = f"{kind} that were smoothed or compressed", {}
    if far:
        what = f"{kind} that label_map lacks (void here; put the right class behind each)"
        more = seen.named({value: 0 if value == TRANSPARENT else "void" for value in far})
        lines["label_map"] = seen.named(known) | (more if len(far) <= _NAMED else {"*": "void"})
    if near := [value for value in unknown if value not in far]:
        lines["label_tolerance"] = seen.tolerance(near, [*known, *far])
    return Cause(what, lines)


def _off_by_one(seen: Seen, unknown: Sequence[int], table: Table) -> Cause | None:
    count = table.num_classes
    if seen.colours or list(unknown) != [count] or min(seen.counts) < 0 or max(seen.counts) > count:
        return None
    shifted = {str(value): value - 1 for value in range(1, count + 1)}
    void = {"0": "void"} if 0 in seen.counts else {}
    note = " (0 is then void)" if void else ""
    return Cause(
        f"labels start at 1, train ids at 0: off by one{note}", {"label_map": void | shifted}
    )


def _values(seen: Seen, unknown: Sequence[int], table: Table) -> Cause:
    """Say why masks of values do not hold train ids."""
    count, void, values = table.num_classes, table.ignore_index, sorted(seen.firm)
    outside = [value for value in unknown if not 0 <= value < count]
    complete = set(range(count)) <= set(values)
    ids = {*values} - {*outside, void}
    if len(outside) == 1 and (complete or (outside[0] in USUAL_VOID and len(ids) > 1)):
        return _other_void(outside[0], count, void, both=void in values)
    labels = [value for value in values if value != void or len(values) <= count]
    if len(labels) > count:
        return _photograph(seen, table)
    lines: dict[str, object] = {
        "label_map": {str(value): place for place, value in enumerate(labels)}
        | ({str(void): "void"} if len(labels) < len(values) else {})
    }
    what = "values that are not train ids"
    if seen.soft:
        what = "soft edges: values between the labels, as a resize with smoothing makes them"
        lines["label_tolerance"] = seen.tolerance(seen.soft, values)
    return Cause(f"{what} (taken for the classes in rising order; check that)", lines)


def _other_void(found: int, count: int, ignore_index: int, *, both: bool) -> Cause:
    what = f"void is {found} in the masks, but ignore_index is {ignore_index}"
    if found in _IGNORE_INDEX and not both:
        return Cause(what, {"ignore_index": found}, where="the config itself")
    same: dict[str, object] = {str(value): value for value in range(count)}
    known = {str(ignore_index): "void"} if both else {}
    return Cause(what, {"label_map": same | {str(found): "void"} | known})


def _photograph(seen: Seen, table: Table) -> Cause:
    count = len(seen.counts)
    if seen.colours:
        what = "a photograph, or a mask that was smoothed or compressed"
        return Cause(f'{count} colours: {what}; does "masks" name the masks?', {})
    what = "other masks than these classes, ids of objects, or an image"
    return Cause(f"{count} different values for {table.num_classes} classes: {what}", {})


def _objects(seen: Seen) -> Cause:
    ground = 0 if 0 in seen.counts else seen.firm[0]
    kind = "colours" if seen.colours else "values"
    what = f"{len(seen.firm)} {kind} for 2 classes: one for each object, not for each class"
    return Cause(what, {"label_map": seen.named({ground: 0}) | {"*": 1}})


def _colors(seen: Seen, table: Table, named: Mapping[int, int]) -> Cause:
    """Say which class each color may be."""
    count = table.num_classes
    keys = thinned(seen.firm, seen) if seen.soft else seen.firm
    if count == 2 and len(keys) > _NAMED and seen.flat >= _FLAT:
        return _objects(seen)
    if seen.flat < _FLAT or len(keys) > max(64, 4 * count):
        return _photograph(seen, table)
    what = "color masks (colors are taken for the classes by area; put each behind its class)"
    if len(keys) > count:
        what += f": {len(keys)} colors for {count} classes, so the smallest are void here"
    targets: dict[int, object] = dict(
        zip(keys, [*range(count), *["void"] * len(keys)], strict=False)
    )
    if not named.keys().isdisjoint(keys):
        what = "color masks (classes have their colors from labelmap.txt)"
        ids = {code: id_ if 0 <= id_ < count else "void" for code, id_ in named.items()}
        targets = {**dict.fromkeys(keys, "void"), **ids}
    elif all(code == (code & 255) * 0x010101 for code in seen.counts):
        what = "label values saved as RGB"
        levels = sorted(code & 255 for code in keys)
        ids = {0: 0, 255: 1} if levels == [0, 255] and count == 2 else {n: n for n in range(count)}
        targets = {level * 0x010101: ids.get(level, "void") for level in levels}
    lines: dict[str, object] = {"label_map": seen.named(targets)}
    if seen.soft:
        lines["label_tolerance"] = seen.tolerance(seen.soft, keys)
    return Cause(what, lines)


def _compressed(seen: Seen, table: Table) -> Cause:
    what = "JPEG-compressed masks: values change near edges (better: export them as PNG)"
    known = list(table.mapping)
    same_kind = seen.colours == isinstance(table, ColorTable)
    if same_kind and min(seen.gaps(known), default=0) > _COMPRESSED:
        return Cause(what, {"label_tolerance": max(1, seen.tolerance(seen.counts, known))})
    keys = thinned(seen.counts, seen)[: table.num_classes]
    near = [value for value in seen.counts if keys and seen.nearest(value, keys) <= _CLOSE]
    share = sum(seen.counts[value] for value in near) / seen.counts.total()
    if len(keys) < 2 or share < _NEAR or seen.flat < _FLAT:
        return Cause(what, {})  # values lie too close to be told apart, or it is an image
    ordered = keys if seen.colours else sorted(keys)
    targets = seen.named({key: train_id for train_id, key in enumerate(ordered)})
    return Cause(what, {"label_map": targets, "label_tolerance": seen.tolerance(seen.counts, keys)})


def thinned(values: Iterable[int], seen: Seen) -> list[int]:
    """Return the most frequent values that lie well apart."""
    keys: list[int] = []
    for value in sorted(values, key=lambda value: -seen.counts[value]):
        if all(seen.distance(value, key) > _CLOSE for key in keys):
            keys.append(value)
    return keys

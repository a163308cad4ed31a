"""Why masks do not fit their classes, and the config line that mends it.

The usual causes: a 0/255 mask, a colour mask, labels off by one, a JPEG-compressed mask, a void
value that is not the config's ignore_index. Everything here works on counts of values alone.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from utils.data.mask_facts import MaskFacts

_USUAL_VOID = (255, 254, -1, 65535)
_IGNORE_INDEX = range(-(2**15), 2**15)  # what the config's may be
_NAMED = 16  # values or colours that are added to a label_map
_CLOSE = 48  # values and channels no further apart belong to one class
_FLAT = 0.6  # the least share of a mask's pixels that lie close to a class, in a mask of flat areas


class Cause(NamedTuple):
    """A cause and its cure.

    Attributes:
        what: The cause in one sentence.
        where: The part of the config that the lines belong to.
        lines: The keys to add; empty when no config can mend it.
    """

    what: str
    where: str
    lines: Mapping[str, object]

    def cure(self) -> str:
        """Return the lines as they are written in a config."""
        return ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in
                         self.lines.items())  # fmt: skip


_ARGS = 'the args of each loader ("type": "Folder")'


def find_cause(
    facts: Sequence[MaskFacts],
    *,
    num_classes: int,
    ignore_index: int,
    known: Mapping[int, int],
    by_colour: bool,
) -> Cause | None:
    """Say why masks do not fit.

    Args:
        facts: What was found in the masks that were looked at.
        num_classes: Classes of the data set.
        ignore_index: The config's.
        known: Raw value or colour code -> train id, as the config has it.
        by_colour: Whether `known` has colours.

    Returns:
        The likeliest cause, or None when all values are known and none of the causes fits.
    """
    coloured = [one for one in facts if one.coloured]
    lossy = [one for one in facts if one.jpeg]
    counts: Counter[int] = Counter()
    for one in coloured if by_colour else facts:
        nothing = one.void - known.keys()
        counts.update({value: n for value, n in one.values.items() if value not in nothing})
    if lossy:
        return _compressed(counts, num_classes, known, by_colour=bool(coloured))
    if coloured and not by_colour:
        return _colours(coloured, num_classes)
    values = sorted(counts)
    unknown = [value for value in values if value not in known]
    if not by_colour and _is_binary(values, known, num_classes, ignore_index):
        return Cause("binary masks of 0 and 255", _ARGS, {"label_map": {"0": 0, "255": 1}})
    if not unknown:
        return None
    if by_colour:
        return _near_colours(counts, known, ignore_index)
    mapped = ignore_index not in known.values() or any(
        value != train_id for value, train_id in known.items() if train_id != ignore_index
    )
    return _values(values, unknown, num_classes, ignore_index, known if mapped else None)


def _is_binary(
    values: Sequence[int], known: Mapping[int, int], num_classes: int, ignore_index: int
) -> bool:
    """Whether 255 stands for the second of two classes and is not read so."""
    if not values or not set(values) <= {0, 255} or 255 not in values or num_classes != 2:
        return False
    return known.get(255, ignore_index) == ignore_index


def _values(
    values: Sequence[int],
    unknown: Sequence[int],
    num_classes: int,
    ignore_index: int,
    label_map: Mapping[int, int] | None,
) -> Cause:
    if list(unknown) == [num_classes] and values[0] >= 0 and values[-1] == num_classes:
        shifted: dict[str, object] = {str(value): value - 1 for value in range(1, num_classes + 1)}
        void = {"0": "void"} if values[0] == 0 else {}
        note = " (0 is then void)" if void else ""
        return Cause(
            f"labels start at 1, train ids at 0: off by one{note}",
            _ARGS,
            {"label_map": void | shifted},
        )
    if label_map is not None and len(unknown) <= _NAMED:
        named = {str(value): target for value, target in _targets(label_map, ignore_index)}
        return Cause(
            "values that label_map lacks (void here; put the right class behind each)",
            _ARGS,
            {"label_map": named | {str(value): "void" for value in unknown}},
        )
    outside = [value for value in unknown if not 0 <= value < num_classes]
    complete = set(range(num_classes)) <= set(values)
    if len(outside) == 1 and (complete or (outside[0] in _USUAL_VOID and len(values) > 1)):
        return _other_void(outside[0], num_classes, ignore_index, both=ignore_index in values)
    labels = [value for value in values if value != ignore_index or len(values) <= num_classes]
    if len(labels) <= num_classes:
        ordered: dict[str, object] = {str(value): place for place, value in enumerate(labels)}
        void = {str(ignore_index): "void"} if len(labels) < len(values) else {}
        return Cause(
            "values that are not train ids (taken for the classes in rising order; check that)",
            _ARGS,
            {"label_map": ordered | void},
        )
    return Cause(
        f"{len(values)} different values for {num_classes} classes: other masks than these "
        "classes, or a picture",
        "",
        {},
    )


def _other_void(void: int, num_classes: int, ignore_index: int, *, both: bool) -> Cause:
    what = f"void is {void} in the masks, but ignore_index is {ignore_index}"
    if void in _IGNORE_INDEX and not both:
        return Cause(what, "the config itself", {"ignore_index": void})
    same: dict[str, object] = {str(value): value for value in range(num_classes)}
    known = {str(ignore_index): "void"} if both else {}
    return Cause(what, _ARGS, {"label_map": same | {str(void): "void"} | known})


def _colours(facts: Sequence[MaskFacts], num_classes: int) -> Cause:
    counts: Counter[int] = Counter()
    for one in facts:
        counts.update(one.values)
    if all(one.grey for one in facts):
        levels = sorted(value & 255 for value in counts)
        binary = levels == [0, 255] and num_classes == 2
        label_map: dict[str, object] = {
            _name(level * 0x010101): int(level > 0)
            if binary
            else (level if level < num_classes else "void")
            for level in levels
        }
        return Cause("label values saved as RGB", _ARGS, {"label_map": label_map})
    if len(counts) > max(64, 4 * num_classes):
        return Cause(
            f"{len(counts)} colours: a photograph, or a mask that was smoothed or compressed",
            _ARGS,
            _clustered(counts, num_classes, by_colour=True),
        )
    return Cause(
        "colour masks (colours are taken for the classes by area; put each behind its class)",
        _ARGS,
        {"label_map": _by_area(counts, num_classes)},
    )


def _by_area(counts: Counter[int], num_classes: int) -> dict[str, object]:
    ordered = [colour for colour, _ in counts.most_common()]
    return {
        _name(colour): place if place < num_classes else "void"
        for place, colour in enumerate(ordered)
    }


def _compressed(
    counts: Counter[int], num_classes: int, known: Mapping[int, int], *, by_colour: bool
) -> Cause:
    what = "JPEG-compressed masks: values change near edges (better: export them as PNG)"
    if known and len(known) >= 2 and by_colour == (max(known) > 255):
        apart = _apart(list(known), by_colour=by_colour)
        if min(known) >= 0 and apart > 16:
            return Cause(
                what,
                _ARGS,
                {"label_tolerance": _tolerance(counts, list(known), by_colour=by_colour)},
            )
    return Cause(what, _ARGS, _clustered(counts, num_classes, by_colour=by_colour))


def _targets(known: Mapping[int, int], ignore_index: int) -> list[tuple[int, int | str]]:
    return [(key, "void" if target == ignore_index else target) for key, target in known.items()]


def _near_colours(counts: Counter[int], known: Mapping[int, int], ignore_index: int) -> Cause:
    unknown = Counter({colour: n for colour, n in counts.items() if colour not in known})
    distance = _farthest(unknown, list(known), by_colour=True)
    if distance <= 64:
        return Cause(
            "colours that were smoothed or compressed", _ARGS, {"label_tolerance": distance}
        )
    missing: dict[str, object] = {
        _name(colour): "void" for colour, _ in unknown.most_common(_NAMED)
    }
    named = {_name(colour): target for colour, target in _targets(known, ignore_index)}
    return Cause(
        "colours that label_map lacks (void here; put the right class behind each)",
        _ARGS,
        {"label_map": named | missing},
    )


def _clustered(counts: Counter[int], num_classes: int, *, by_colour: bool) -> dict[str, object]:
    """Take the most frequent values that lie well apart for the classes."""
    keys: list[int] = []
    for value, _ in counts.most_common():
        if all(_distance(value, key, by_colour=by_colour) > _CLOSE for key in keys):
            keys.append(value)
        if len(keys) == num_classes:
            break
    near = sum(
        count
        for value, count in counts.items()
        if any(_distance(value, key, by_colour=by_colour) <= _CLOSE for key in keys)
    )
    if len(keys) < 2 or near < _FLAT * counts.total():
        return {}  # values lie too close together to be told apart, or it is a picture
    names = [_name(key) if by_colour else str(key) for key in (keys if by_colour else sorted(keys))]
    return {
        "label_map": {name: train_id for train_id, name in enumerate(names)},
        "label_tolerance": _tolerance(counts, keys, by_colour=by_colour),
    }


def _tolerance(counts: Counter[int], keys: Sequence[int], *, by_colour: bool) -> int:
    """How far a value may lie from a key; half the way to the next, as other masks have others."""
    farthest = _farthest(counts, keys, by_colour=by_colour)
    return max(farthest, _apart(keys, by_colour=by_colour) // 2)


def _farthest(counts: Counter[int], keys: Sequence[int], *, by_colour: bool) -> int:
    return max(
        (min(_distance(value, key, by_colour=by_colour) for key in keys) for value in counts),
        default=0,
    )


def _apart(keys: Sequence[int], *, by_colour: bool) -> int:
    pairs = [(a, b) for place, a in enumerate(keys) for b in keys[:place]]
    return min(_distance(a, b, by_colour=by_colour) for a, b in pairs)


def _distance(one: int, other: int, *, by_colour: bool) -> int:
    if not by_colour:
        return abs(one - other)
    return max(abs((one >> shift & 255) - (other >> shift & 255)) for shift in (16, 8, 0))


def _name(colour: int) -> str:
    return f"#{colour:06X}"

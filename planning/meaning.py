"""What the values of masks mean, where nobody has said it.

Each value or color is a class of its own; where another reading is as likely, nothing is proposed
and the data doctor refuses with its reasons.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dataloaders.layout import color_names
from utils.data.labels import LabelTable
from utils.data.mask_causes import USUAL_VOID, find_cause, thinned
from utils.data.mask_facts import MaskFacts, Seen

VOID = 255
_THIN = 16  # values without areas that may be labels of thin things; more are smoothed edges
_COLORS, _VALUES = 64, 254  # the most that are classes
_OBJECTS = 8  # fewer consecutive ids may be classes that lie in each other
_BINARY = (("0", "1"), ("0", "255"), ("#000000", "#010101"), ("#000000", "#FFFFFF"))
_UNKNOWN = ("class_0", "class_1")  # with these the doctor says what is wrong


class Meaning(NamedTuple):
    """Names of classes, what a loader's args say of labels, and what was done to the masks."""

    classes: tuple[str, ...] = _UNKNOWN
    args: Mapping[str, object] = {}
    cure: str = ""


def find_meaning(facts: Sequence[MaskFacts]) -> Meaning:
    """Say which values or colors of masks are which class.

    Args:
        facts: What each mask holds.
    """
    if not any(one.pixels for one in facts):
        return Meaning()
    seen = Seen.of([one for one in facts if one.colored] or facts, _THIN)
    smooth = seen.soft or any(one.jpeg for one in facts)
    values = thinned(seen.firm, seen) if smooth else seen.firm
    void: set[int] = set() if seen.colours else _void(values)
    labels = sorted(set(values) - void)
    names = color_names(facts[0].path.parent) if seen.colours else {}
    if names and names.keys() >= set(labels):
        labels = list(names)
    elif len(labels) > (_COLORS if seen.colours else _VALUES) or _are_objects(facts, void):
        return Meaning()
    if smooth:
        return _smoothed(facts, len(labels))
    if (labels, void) == ([0, 1], {VOID}) and not any(
        {1, VOID} <= one.values.keys() for one in facts
    ):  # a border of void would be around the objects
        cure = "masks of 0 and 1 beside masks of 0 and 255: both are the foreground"
        return Meaning(_named("01"), {"label_map": {"0": 0, "1": 1, str(VOID): 1}}, cure)
    label_map = seen.named({label: number for number, label in enumerate(labels)})
    classes = tuple(names.values()) if labels == list(names) else _named(list(label_map))
    if not seen.colours and labels == list(range(len(labels))) and void <= {VOID}:
        return Meaning(classes)
    cure = f"masks of {'colors' if seen.colours else 'values'} {', '.join(list(label_map)[:8])}"
    label_map |= seen.named(dict.fromkeys(sorted(void), "void"))
    return Meaning(classes, {"label_map": label_map}, f"{cure}: each is a class")


def _void(values: Sequence[int]) -> set[int]:
    """Values that usually mean void, beside ids that count up from 0 or 1."""
    ids = sorted(set(values) - set(USUAL_VOID))
    return set(values) - set(ids) if len(ids) > 1 and _count_up(ids) else set()


def _count_up(ids: Sequence[int]) -> bool:
    """Whether sorted numbers go up by one from 0 or 1."""
    return ids[0] in (0, 1) and ids[-1] - ids[0] == len(ids) - 1


def _are_objects(facts: Sequence[MaskFacts], void: set[int]) -> bool:
    """Whether masks count their objects from 0 or 1, up to another number.

    Of one in five a number may be missing: an object that others cover, or that was cut off.
    """
    ids = [sorted(labels) for one in facts if (labels := one.values.keys() - void)]
    most = {some[-1] for some in ids}
    return len(most) > 2 and max(most) >= _OBJECTS and sum(map(_count_up, ids)) >= 0.8 * len(ids)


def _named(keys: Sequence[str]) -> tuple[str, ...]:
    """Names of classes after what stands for them in masks."""
    if tuple(keys) in _BINARY:
        return ("background", "foreground")
    return tuple(f"color_{key[1:]}" if key.startswith("#") else f"class_{key}" for key in keys)


def _smoothed(facts: Sequence[MaskFacts], count: int) -> Meaning:
    """Take the doctor's cure of smoothed or compressed masks, where it keeps all classes."""
    table = LabelTable.identity(count, ignore_index=VOID, void=VOID)
    cause = find_cause(facts, table, {})
    label_map = cause and cause.lines.get("label_map")
    if not isinstance(label_map, Mapping) or list(label_map.values()) != list(range(count)):
        return Meaning()
    assert cause is not None
    return Meaning(_named(list(label_map)), cause.lines, f"{cause.what}: {cause.cure()}")

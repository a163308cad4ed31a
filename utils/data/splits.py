"""Which samples are held out of a training, as a function of names and seed."""

import re
from collections.abc import Hashable, Sequence

from utils.errors import ConfigError, DataError
from utils.seeding import split_order


def groups_of(names: Sequence[str], pattern: str) -> list[str]:
    """Return what a regular expression finds in each name: its first group, or all it matches.

    Raises:
        ConfigError: It is no regular expression.
        DataError: It matches nothing of some name.
    """
    try:
        found = [re.search(pattern, name) for name in names]
    except re.error as error:
        raise ConfigError(
            f'group: found "{pattern}", expected a regular expression: {error}'
        ) from None
    for name, match in zip(names, found, strict=True):
        if match is None:
            raise DataError(
                f'group: nothing in {name} matches "{pattern}"\n'
                "  fix: a regular expression that finds in each name what its group is called"
            )
    return [match[1 if match.re.groups else 0] or "" for match in found if match]


def share_of(groups: Sequence[Hashable], share: float, *, seed: int) -> list[int]:
    """Return the places of about a share of the samples; a group is in it or not, as a whole."""
    chosen: list[int] = []
    for members in _shuffled(groups, seed):
        if len(chosen) >= round(share * len(groups)):
            break
        chosen += members
    return sorted(chosen)


def fold_of(groups: Sequence[Hashable], index: int, count: int, *, seed: int) -> list[int]:
    """Return the places of fold `index` of `count`, which are about equally large.

    Each sample is in one fold, and each group too: the largest ones are dealt first, each to the
    fold that is the smallest so far.
    """
    folds: list[list[int]] = [[] for _ in range(count)]
    for members in sorted(_shuffled(groups, seed), key=len, reverse=True):
        min(folds, key=len).extend(members)
    return sorted(folds[index])


def _shuffled(groups: Sequence[Hashable], seed: int) -> list[list[int]]:
    members: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    each = list(members.values())
    return [each[number] for number in split_order(len(each), seed=seed)]

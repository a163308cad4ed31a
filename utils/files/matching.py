"""Which tensors of a file fit those that are expected, by name, shape and kind of number."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from utils.errors import CheckpointError

_SHOWN = 5
# Where our networks keep an encoder; other programs keep it under `encoder.` or at the top.
_PLACES = ("", "backbone.", "backbone.network.")


class Match(NamedTuple):
    """Tensors that fit, in the expected dtype; one line for each that does not; other names."""

    taken: dict[str, Tensor]
    misfits: list[str]
    missing: list[str]
    unexpected: list[str]


def match(found: Mapping[str, object], expected: Mapping[str, Tensor]) -> Match:
    """Compare tensors by name; floating-point ones of another precision are converted."""
    taken, misfits = {}, []
    for name, own in expected.items():
        other = found.get(name)
        if isinstance(other, Tensor) and _form(other) == _form(own):
            taken[name] = other.to(own.dtype)
        elif name in found:
            misfits.append(f"{name}: {_form(other)} in the file, {_form(own)} expected")
    missing = [name for name in expected if name not in found]
    return Match(taken, misfits, missing, [name for name in found if name not in expected])


def require(found: Mapping[str, object], expected: Mapping[str, Tensor], what: str) -> dict:
    """Return all that is expected, if that and nothing else is there.

    Raises:
        CheckpointError: `what`, and the first faults.
    """
    taken, misfits, missing, unexpected = match(found, expected)
    faults = [f"{name}: missing" for name in missing]
    faults += [f"{name}: unknown" for name in unexpected] + misfits
    if faults:
        more = f"\n  ... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise CheckpointError("\n  ".join([what, *faults[:_SHOWN]]) + more)
    return taken


def align(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of another program as the expected ones are called.

    Programs differ in what they put before all names: `module.`, `model.`, `encoder.`. Of all pairs
    of a prefix there and a place here the one under which most shapes agree is taken.
    """
    votes = Counter({("", ""): 0})
    for name, tensor in found.items():
        parts = name.split(".")
        for rest in (".".join(parts[start:]) for start in range(len(parts))):
            for place in _PLACES:
                if place + rest in expected and expected[place + rest].shape == tensor.shape:
                    votes[name.removesuffix(rest), place] += 1
    prefix, place = max(votes, key=lambda pair: (votes[pair], pair == ("", "")))
    return {
        place + name.removeprefix(prefix) if name.startswith(prefix) else name: tensor
        for name, tensor in found.items()
    }


def _form(value: object) -> str:
    """All that has to agree."""
    if not isinstance(value, Tensor):
        return "no tensor"
    kind = "" if value.is_floating_point() else f" {value.dtype}".replace("torch.", "")
    return ("x".join(map(str, value.shape)) or "scalar") + kind

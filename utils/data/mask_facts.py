"""What a mask file holds, before it is known whether that is right."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.color_labels import TRANSPARENT, ColorTable, code, color_name
from utils.data.labels import LabelTable
from utils.files.images import opened
from utils.files.matlab import read_matrix
from utils.files.raw_pixels import Decoded, holds_values, read_colors, read_values

_COLOR_MODES = ("RGB", "RGBA", "CMYK", "YCbCr", "LA")
_KEPT = 4096  # colors of a mask that are told apart; a photograph has more
_FIRM = 0.2  # the least share of a label's pixels inside areas; a smoothed edge has next to none
_SMALL = 1 << 14  # pixels of a mask, most of which lie near an edge


class MaskFacts(NamedTuple):
    """What was found in one mask file.

    Attributes:
        path: The file.
        pixels: How many it has that mean something by the file itself.
        values: Pixel counts of its label values, or of the codes of its colors.
        inside: The same of those pixels that equal their neighbors to the right and below.
        colored: Whether `values` are colors.
        jpeg: Whether the file is JPEG-compressed.
        palette: The color that a palette gives to each of the values.
        alpha: Whether it has an alpha channel that varies.
    """

    path: Path
    pixels: int
    values: Counter[int]
    inside: Counter[int]
    colored: bool = False
    jpeg: bool = False
    palette: Mapping[int, int] = {}
    alpha: bool = False


class Seen(NamedTuple):
    """Values or colors of several masks.

    Attributes:
        counts: Their pixels.
        firm: Those that fill areas, the largest first: labels.
        soft: The others, where they are many: what smoothing or compression made between labels.
        flat: The share of pixels whose value fills areas; 1 of small JPEG masks, which have none.
        colours: Whether they are colors.
    """

    counts: Counter[int]
    firm: list[int]
    soft: set[int]
    flat: float
    colours: bool

    @classmethod
    def of(cls, facts: Sequence[MaskFacts], num_classes: int) -> "Seen":
        """Add up what was found in masks of one kind."""
        counts, inside = Counter[int](), Counter[int]()
        for one in facts:
            counts.update(one.values)
            inside.update(one.inside)
        jpeg = any(one.jpeg for one in facts)
        soft = {value for value, count in counts.items() if inside[value] < _FIRM * count}
        pixels = sum(one.pixels for one in facts)
        small = jpeg and pixels < _SMALL * len(facts)
        flat = 1.0 if small else sum(counts[value] for value in counts.keys() - soft) / pixels
        if len(soft) <= max(2, num_classes) and not jpeg:  # a few are labels of thin things
            soft.clear()
        firm = [value for value, _ in counts.most_common() if value not in soft]
        return cls(counts, firm, soft, flat, any(one.colored for one in facts))

    def named(self, mapping: Mapping[int, object]) -> dict[str, object]:
        """Return a mapping as a label_map writes it."""
        return {color_name(key) if self.colours else str(key): target
                for key, target in mapping.items()}  # fmt: skip

    def distance(self, one: int, other: int) -> int:
        """How far two values lie apart, in the channel where they differ most."""
        if not self.colours:
            return abs(one - other)
        if TRANSPARENT in (one, other):
            return 0 if one == other else TRANSPARENT
        return max(abs((one >> shift & 255) - (other >> shift & 255)) for shift in (16, 8, 0))

    def nearest(self, value: int, keys: Iterable[int]) -> int:
        """How far a value lies from the nearest key."""
        return min(self.distance(value, key) for key in keys)

    def gaps(self, keys: Sequence[int]) -> list[int]:
        """How far each of several keys lies from the nearest other one; transparency from none."""
        colours = {*keys} - {TRANSPARENT}
        return [self.nearest(key, colours - {key}) for key in colours if len(colours) > 1]

    def tolerance(self, values: Iterable[int], keys: Sequence[int]) -> int:
        """How far values lie from keys; if some are soft, half the way between keys at least."""
        far = max(self.nearest(value, keys) for value in values)
        return min(255, max(far, max(self.gaps(keys), default=0) // 2 if self.soft else 0))


def look_at_mask(path: Path, table: LabelTable | ColorTable) -> MaskFacts:
    """Read a mask file and count what it holds.

    Args:
        path: The file; an image, .npy or .mat (variable S).
        table: Of a ColorTable, a palette's colors are counted instead of its indices.

    Raises:
        DataError: It cannot be read at all.
    """
    by_color = isinstance(table, ColorTable)
    if path.suffix.lower() == ".mat":
        return _of_values(path, Decoded(read_matrix(path, "S"), None), table)
    if not by_color and holds_values(path):
        return _of_values(path, read_values(path, lossy=True), table)
    with opened(path) as image:
        jpeg = image.format == "JPEG"
        mode, palette = image.mode, (image.getpalette() or []) if image.mode == "P" else []
    # A second look, by the very reader that training uses: it refuses what it cannot read.
    if mode in _COLOR_MODES or (by_color and mode != "F"):
        pixels = read_colors(path, lossy=True)
        codes = code(pixels, transparent=by_color and TRANSPARENT in table.mapping)
        alpha = pixels.shape[2] == 4 and np.ptp(pixels[..., 3]) > 0
        found = _counts(codes)
        return MaskFacts(path, codes.size, *found, colored=True, jpeg=jpeg, alpha=bool(alpha))
    facts = _of_values(path, read_values(path, lossy=True), table)
    shown = {value: int.from_bytes(palette[3 * value : 3 * value + 3]) for value in facts.values
             if 3 * value < len(palette)}  # fmt: skip
    return facts._replace(jpeg=jpeg, palette=shown)


def _of_values(path: Path, mask: Decoded, table: LabelTable | ColorTable) -> MaskFacts:
    """Count label values, without those that mean nothing by the file itself."""
    values, inside = _counts(mask.pixels)
    nothing = set() if mask.void is None else set(np.unique(mask.pixels[mask.void]).tolist())
    for value in nothing - table.mapping.keys():
        del values[value], inside[value]  # of a Counter nothing is missing
    return MaskFacts(path, values.total(), values, inside)


def _counts(codes: np.ndarray) -> tuple[Counter[int], Counter[int]]:
    """Count the values of (H, W), and those of pixels that lie inside an area of one value."""
    here = codes[:-1, :-1]
    inside = here[(here == codes[1:, :-1]) & (here == codes[:-1, 1:])]
    return _count(codes.ravel()), _count(inside)


def _count(codes: np.ndarray) -> Counter[int]:
    if codes.dtype == np.uint8:
        values, counts = np.arange(256), np.bincount(codes, minlength=256)
    else:
        values, counts = np.unique(codes, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:_KEPT]
    return +Counter(dict(zip(values[most].tolist(), counts[most].tolist(), strict=True)))

"""From values in a mask file to train ids; an unknown value is an error, not a guess."""

import json
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from utils.errors import ConfigError, DataError

_BYTE = 256
UNKNOWN = -(2**31)  # in place of a train id: the value is an error
_STAYS, _CHANGES, _NO_LABEL = range(3)  # what becomes of a raw value, the worst one highest


def mask_dtype(num_classes: int, ignore_index: int) -> type[np.uint8 | np.int16]:
    """Return the smallest dtype for classes and void: uint8 where both fit, else int16."""
    fits = 0 <= ignore_index < _BYTE and num_classes <= _BYTE
    return np.uint8 if fits else np.int16


def refuse_void_class(classes: Sequence[str], void: int, labels: Mapping) -> None:
    """Raise ConfigError when `void` is the number of a class; masks hold `labels` (-> train id)."""
    if 0 <= void < len(classes):
        without = {str(raw): "void" if to == void else to for raw, to in labels.items()}
        raise ConfigError(
            f'ignore_index: found {void}, the number of class "{classes[void]}": all of it would '
            f'be void\n  fix: "ignore_index": {255 if len(classes) < _BYTE else -1}\n'
            '  if it shall be void, also in the args of each loader ("type": "Folder"):\n'
            f'    "label_map": {json.dumps(without)}'
        )


def count_values(mask: np.ndarray, length: int = _BYTE) -> np.ndarray:
    """Count the values 0..length-1 of an integer array (H, W); int64 (length,)."""
    if mask.dtype == np.uint8 and mask.size < 2**24:  # a float32 histogram is exact up to here
        counts = cv2.calcHist([mask], [0], None, [_BYTE], [0, _BYTE]).ravel().astype(np.int64)
        return counts[:length] if length <= _BYTE else np.pad(counts, (0, length - _BYTE))
    flat = mask.ravel()
    return np.bincount(flat[(flat >= 0) & (flat < length)], minlength=length)


class LabelTable:
    """Maps raw label values to train ids.

    Attributes:
        mapping: raw value -> train id, or `ignore_index` for void.
        num_classes: Train ids are 0..num_classes-1.
        ignore_index: What void becomes.
        dtype: dtype of the masks that come out.
        tolerance: How far a raw value may lie from a known one and still count as it.
        rest: The train id of every other value, or UNKNOWN.
        stated: Whether a user said what values mean; else they are taken for train ids.
    """

    def __init__(
        self,
        mapping: Mapping[int, int],
        *,
        num_classes: int,
        ignore_index: int,
        tolerance: int = 0,
        rest: int = UNKNOWN,
        stated: bool = True,
    ) -> None:
        self.mapping = dict(mapping)
        self.tolerance, self.rest, self.stated = tolerance, rest, stated
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.dtype = mask_dtype(num_classes, ignore_index)
        self._wide = np.full(_BYTE, UNKNOWN, np.int64)
        for raw in range(_BYTE):
            self._wide[raw] = self._train_id(raw)
        known = self._wide != UNKNOWN
        self._table = np.where(known, self._wide, 0).astype(self.dtype)
        same = (self._wide == np.arange(_BYTE)) & (self.dtype is np.uint8)
        self._kind = np.select([~known, ~same], [_NO_LABEL, _CHANGES], _STAYS).astype(np.uint8)

    @classmethod
    def identity(cls, num_classes: int, *, ignore_index: int, void: int | None) -> "LabelTable":
        """Return the table of masks that hold train ids already; `void` is their void value."""
        mapping = {} if void is None else {void: ignore_index}
        return cls(
            mapping | {value: value for value in range(num_classes)},
            num_classes=num_classes,
            ignore_index=ignore_index,
            stated=False,
        )

    def apply(self, raw: np.ndarray, name: str, nodata: np.ndarray | None = None) -> np.ndarray:
        """Return train ids (H, W) of raw values (H, W); may return `raw` itself.

        Args:
            raw: Integers.
            name: The file, for messages.
            nodata: (H, W) bool: pixels that hold a raster's nodata value. They are void, unless the
                table says what that value means.

        Raises:
            DataError: A value that the table does not know; names the file, the values found,
                the values allowed, and a likely cause.
        """
        if nodata is not None and int(raw[nodata].min()) not in self.mapping:
            known = np.where(nodata, next(iter(self.mapping), 0), raw.astype(np.int64))
            return np.where(nodata, self.dtype(self.ignore_index), self.apply(known, name))
        if raw.dtype != np.uint8:
            if raw.size and (raw.min() < 0 or raw.max() >= _BYTE):
                return self._apply_wide(raw, name)
            raw = raw.astype(np.uint8)
        # A table and a maximum: a third of the cost of a histogram.
        kind = cv2.LUT(raw, self._kind).max()
        if kind == _NO_LABEL:
            raise self.unknown(dict(enumerate(count_values(raw).tolist())), name)
        return raw if kind == _STAYS else cv2.LUT(raw, self._table)

    def _train_id(self, raw: int) -> int:
        """Return the train id of the nearest known value within the tolerance."""
        if raw in self.mapping or not self.tolerance:
            return self.mapping.get(raw, self.rest)
        nearest = min(self.mapping, key=lambda known: abs(known - raw), default=UNKNOWN)
        return self.mapping[nearest] if abs(nearest - raw) <= self.tolerance else self.rest

    def knows(self, raw: int) -> bool:
        """Whether a raw value has a train id or is void."""
        return self._train_id(raw) != UNKNOWN

    def _apply_wide(self, raw: np.ndarray, name: str) -> np.ndarray:
        values, inverse, counts = np.unique(raw, return_inverse=True, return_counts=True)
        mapped = [self._train_id(int(value)) for value in values]
        if UNKNOWN in mapped:
            raise self.unknown(dict(zip(values.tolist(), counts.tolist(), strict=True)), name)
        return np.array(mapped, self.dtype)[inverse].reshape(raw.shape)

    def unknown(self, counts: Mapping[int, int], name: str) -> DataError:
        """Return what to raise for a mask with these raw values and pixel counts."""
        found = {value: count for value, count in counts.items() if count}
        wrong = {value: count for value, count in found.items() if not self.knows(value)}
        return DataError(
            f"{name}: label values outside the classes: {_listing(wrong)}\n"
            f"  values found: {_ranges(sorted(found))}\n"
            f"  values allowed: {_ranges(sorted(self.mapping))} "
            f"({self.num_classes} classes and void; ignore_index is {self.ignore_index})\n"
            f"  hint: {self._hint(sorted(found))}"
        )

    def _hint(self, found: list[int]) -> str:
        if set(found) <= {0, 255}:
            return 'a 0/255 mask: map it with "label_map": {"0": 0, "255": 1} of "type": "Folder"'
        if found[0] >= 1 and found[-1] == self.num_classes:
            return (
                "labels start at 1, train ids at 0: off by one; "
                'shift them with "label_map" of "type": "Folder"'
            )
        if len(found) > max(32, 2 * self.num_classes):
            return "so many values look like a photograph or a JPEG-compressed mask, not labels"
        return (
            "check that the mask belongs to this data set; "
            '"label_map" of "type": "Folder" maps values to classes or to "void"'
        )


def _listing(counts: Mapping[int, int]) -> str:
    shown = [f"{value} ({count} px)" for value, count in sorted(counts.items())[:8]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _ranges(values: list[int]) -> str:
    """Write sorted integers shortly: 0..10, 255."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    shown = [str(low) if low == high else f"{low}..{high}" for low, high in runs[:12]]
    return ", ".join(shown) + (" ..." if len(runs) > 12 else "")

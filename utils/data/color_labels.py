"""Labels given as text in a config: values, or colors of an RGB mask."""

import re
from collections.abc import Mapping

import cv2
import numpy as np

from utils.data.labels import UNKNOWN, mask_dtype
from utils.drawing.palette import Color
from utils.errors import ConfigError, DataError

TRANSPARENT = 1 << 24  # in place of a color's code 0xRRGGBB
_FAR = 1 << 16  # where transparent pixels lie among red values: far from every color
SHIFT = 8  # so far a color may move as a whole, by another color profile
_HALF = 128  # alpha below it is transparent
_SHOWN = 8
_OFFSET = 2**15  # ignore_index may be negative, down to an int16's least value plus one


def parse_color(text: str) -> Color:
    """Return (red, green, blue) of "#RRGGBB".

    Raises:
        ConfigError: Another form.
    """
    if not re.fullmatch("#[0-9A-Fa-f]{6}", text):
        raise ConfigError(f'found "{text}", expected a color as "#RRGGBB", such as "#3C1098"')
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def parse_label_map(
    label_map: Mapping[str, int | str], *, num_classes: int, ignore_index: int
) -> tuple[dict[int, int], dict[int, int], int]:
    """Divide a `label_map` into values and the codes of colors; one of the two is empty.

    Returns:
        Train ids of values, of color codes (TRANSPARENT among them), and of everything else.

    Raises:
        ConfigError: A key that is neither, both kinds at once, a train id without a class, or two
            for one value or color, which has several spellings ("#FF0000", "#ff0000").
    """
    values: dict[int, int] = {}
    colours: dict[int, int] = {}
    spelled: dict[tuple[bool, int], str] = {}
    rest = UNKNOWN
    for key, target in label_map.items():
        if isinstance(target, int) and not 0 <= target < num_classes:
            raise ConfigError(
                f'label_map: "{key}" is mapped to {target}, but there are {num_classes} classes\n'
                f'  expected: 0..{num_classes - 1} or "void"'
            )
        train_id = target if isinstance(target, int) else ignore_index
        if key == "*":
            rest = train_id
            continue
        if key == "transparent":
            table, number = colours, TRANSPARENT
        elif key.startswith("#"):
            table, number = colours, int.from_bytes(parse_color(key))
        elif re.fullmatch("-?[0-9]+", key):
            table, number = values, int(key)
        else:
            raise ConfigError(
                f'label_map: found the key "{key}"\n'
                '  expected: a label value such as "255", a color such as "#3C1098", '
                '"transparent", or "*" for everything else'
            )
        first = spelled.setdefault((table is values, number), key)
        if table.setdefault(number, train_id) != train_id:
            raise ConfigError(
                f'label_map: found "{first}": {label_map[first]} and "{key}": {target}, which are '
                f"one {'value' if table is values else 'color'}\n"
                "  expected: one class for it\n  fix: delete one of the two"
            )
    if values and colours:
        raise ConfigError("label_map: values and colors are mixed; masks hold one of the two")
    return values, colours, rest


def color_name(code: int) -> str:
    """Return how a config writes a code."""
    return "transparent" if code == TRANSPARENT else f"#{code:06X}"


def code(pixels: np.ndarray, *, transparent: bool = False) -> np.ndarray:
    """Return one int32 a pixel, 0xRRGGBB, of uint8 (H, W, 3) or (H, W, 4) with alpha.

    A transparent pixel is TRANSPARENT where `transparent` asks for it, and where its color is that
    of opaque pixels too: then alpha tells what colors do not. Otherwise alpha tells nothing.
    """
    four = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_RGB2BGRA)
    codes = (four.view("<i4")[..., 0]) & 0xFFFFFF
    if pixels.shape[2] == 4:
        clear = pixels[..., 3] < _HALF
        mixed = clear.any() and not clear.all()
        if transparent or (mixed and np.intersect1d(codes[clear], codes[~clear]).size):
            codes[clear] = TRANSPARENT
    return codes


class ColorTable:
    """Maps the colors of a mask to train ids.

    Attributes:
        mapping: Color code (see `code`) -> train id or ignore_index.
        num_classes: Train ids are 0..num_classes-1.
        ignore_index: What void becomes.
        tolerance: How far each channel may be off; the nearest known color counts.
        rest: The train id of every other color, or UNKNOWN.
    """

    stated = True  # as of a LabelTable

    def __init__(
        self,
        mapping: Mapping[int, int],
        *,
        num_classes: int,
        ignore_index: int,
        tolerance: int = 0,
        rest: int = UNKNOWN,
    ) -> None:
        self.mapping = dict(mapping)
        self.tolerance, self.rest = tolerance, rest
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.dtype = mask_dtype(num_classes, ignore_index)
        self._keys = _channels(np.array(list(mapping), np.int32))
        self._targets = np.array(list(mapping.values()), np.int64)
        # By code: the train id + _OFFSET; 0 where that color was not met yet. 32 MiB, once.
        self._met = np.zeros(TRANSPARENT + 1 if mapping else 0, np.uint16)

    def apply(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Return train ids (H, W) of uint8 colors (H, W, 3), or (H, W, 4) with alpha.

        Raises:
            DataError: A color that the table does not know; with the nearest that it does.
        """
        codes = code(pixels, transparent=TRANSPARENT in self.mapping)
        shifted = self._met[codes]
        if not shifted.all():
            new, counts = np.unique(codes[shifted == 0], return_counts=True)
            mapped = self.lookup(new)
            wrong = mapped == UNKNOWN
            if wrong.any():
                raise self._unknown(new[wrong], counts[wrong], name)
            self._met[new] = mapped + _OFFSET
            shifted = self._met[codes]
        return (shifted.astype(np.int32) - _OFFSET).astype(self.dtype)

    def knows(self, code: int) -> bool:
        """Whether a color has a train id or is void."""
        return bool(self.lookup(np.array([code], np.int32))[0] != UNKNOWN)

    def lookup(self, codes: np.ndarray) -> np.ndarray:
        """Return the train ids of color codes, or UNKNOWN; int64."""
        nearest, distance = self._nearest(codes)
        return np.where(distance <= self.tolerance, self._targets[nearest], self.rest)

    def _nearest(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        channels = _channels(codes)
        nearest = np.empty(len(codes), np.int64)
        distance = np.empty(len(codes), np.int64)
        for start in range(0, len(codes), 4096):  # a JPEG mask has many colors
            part = np.abs(channels[start : start + 4096, None] - self._keys).max(axis=2)
            nearest[start : start + 4096] = part.argmin(axis=1)
            distance[start : start + 4096] = part.min(axis=1)
        return nearest, distance

    def _unknown(self, codes: np.ndarray, counts: np.ndarray, name: str) -> DataError:
        order = np.argsort(-counts)[:_SHOWN]
        names = [color_name(int(codes[i])) for i in order]
        shown = ", ".join(f"{name} ({counts[i]} px)" for name, i in zip(names, order, strict=True))
        more = f" and {len(codes) - _SHOWN} more" if len(codes) > _SHOWN else ""
        known = ", ".join(color_name(known) for known in self.mapping)
        close = int(self._nearest(codes)[1].max())
        hint = (
            f'every one is within {close} of a known color: "label_tolerance": {close}, if the '
            "masks were compressed or resized with smoothing"
            if close <= SHIFT
            else f'add it to "label_map": "{names[0]}": a train id or "void"'
        )
        return DataError(
            f"{name}: colors that label_map does not know: {shown}{more}\n"
            f"  known: {known}\n  hint: {hint}"
        )


def _channels(codes: np.ndarray) -> np.ndarray:
    """Return the channels of codes (N,), int32 (N, 3)."""
    red = np.where(codes == TRANSPARENT, _FAR, codes >> 16)
    return np.stack([red, codes >> 8 & 255, codes & 255], axis=1)

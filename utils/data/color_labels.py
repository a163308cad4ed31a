"""Labels given as text in a config: values, or colours of an RGB mask."""

import re
from collections.abc import Mapping

import cv2
import numpy as np

from utils.data.labels import mask_dtype
from utils.drawing.palette import Colour
from utils.errors import ConfigError, DataError

_UNKNOWN = -(2**31)
_SHOWN = 8
_OFFSET = 2**15  # ignore_index may be negative, down to an int16's least value plus one


def parse_colour(text: str) -> Colour:
    """Return (red, green, blue) of "#RRGGBB".

    Raises:
        ConfigError: Another form.
    """
    if not re.fullmatch("#[0-9A-Fa-f]{6}", text):
        raise ConfigError(f'found "{text}", expected a colour as "#RRGGBB", such as "#3C1098"')
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def parse_label_map(
    label_map: Mapping[str, int | str], *, num_classes: int, ignore_index: int
) -> tuple[dict[int, int], dict[Colour, int]]:
    """Divide a `label_map` into values and colours; one of the two is empty.

    Raises:
        ConfigError: A key that is neither, both kinds at once, or a train id without a class.
    """
    values: dict[int, int] = {}
    colours: dict[Colour, int] = {}
    for key, target in label_map.items():
        if isinstance(target, int) and not 0 <= target < num_classes:
            raise ConfigError(
                f'label_map: "{key}" is mapped to {target}, but there are {num_classes} classes\n'
                f'  expected: 0..{num_classes - 1} or "void"'
            )
        train_id = target if isinstance(target, int) else ignore_index
        if key.startswith("#"):
            colours[parse_colour(key)] = train_id
        elif re.fullmatch("-?[0-9]+", key):
            values[int(key)] = train_id
        else:
            raise ConfigError(
                f'label_map: found the key "{key}"\n'
                '  expected: a label value such as "255", or a colour such as "#3C1098"'
            )
    if values and colours:
        raise ConfigError("label_map: values and colours are mixed; masks hold one of the two")
    return values, colours


def code(pixels: np.ndarray) -> np.ndarray:
    """Return one int32 a pixel, 0xRRGGBB, of uint8 (..., 3)."""
    four = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGRA)
    return (four.view("<i4")[..., 0]) & 0xFFFFFF


class ColourTable:
    """Maps the colours of a mask to train ids.

    Attributes:
        colours: Colour -> train id or ignore_index.
        tolerance: How far each channel may be off; the nearest known colour counts.
    """

    def __init__(
        self, colours: Mapping[Colour, int], *, tolerance: int, num_classes: int, ignore_index: int
    ) -> None:
        self.colours = dict(colours)
        self.tolerance = tolerance
        self.dtype = mask_dtype(num_classes, ignore_index)
        self._keys = np.array(list(colours), np.int32).reshape(-1, 3)
        self._targets = np.array(list(colours.values()), np.int64)
        # By code: the train id + _OFFSET; 0 where that colour was not met yet. 32 MiB, once.
        self._met = np.zeros(1 << 24 if colours else 0, np.uint16)

    def apply(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Return train ids (H, W) of uint8 colours (H, W, 3).

        Raises:
            DataError: A colour that the table does not know; with the nearest that it does.
        """
        codes = code(pixels)
        shifted = self._met[codes]
        if not shifted.all():
            new, counts = np.unique(codes[shifted == 0], return_counts=True)
            mapped = self.lookup(new)
            wrong = mapped == _UNKNOWN
            if wrong.any():
                raise self._unknown(new[wrong], counts[wrong], name)
            self._met[new] = mapped + _OFFSET
            shifted = self._met[codes]
        return (shifted.astype(np.int32) - _OFFSET).astype(self.dtype)

    def mapping(self) -> dict[int, int]:
        """Return the table by colour code 0xRRGGBB."""
        return {red << 16 | green << 8 | blue: target
                for (red, green, blue), target in self.colours.items()}  # fmt: skip

    def lookup(self, codes: np.ndarray) -> np.ndarray:
        """Return the train ids of colour codes, far below zero where unknown; int64."""
        nearest, distance = self._nearest(codes)
        return np.where(distance <= self.tolerance, self._targets[nearest], _UNKNOWN)

    def _nearest(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        channels = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
        nearest = np.empty(len(codes), np.int64)
        distance = np.empty(len(codes), np.int64)
        for start in range(0, len(codes), 4096):  # a JPEG mask has many colours
            part = np.abs(channels[start : start + 4096, None] - self._keys).max(axis=2)
            nearest[start : start + 4096] = part.argmin(axis=1)
            distance[start : start + 4096] = part.min(axis=1)
        return nearest, distance

    def _unknown(self, codes: np.ndarray, counts: np.ndarray, name: str) -> DataError:
        order = np.argsort(-counts)[:_SHOWN]
        shown = ", ".join(f"#{codes[i]:06X} ({counts[i]} px)" for i in order)
        more = f" and {len(codes) - _SHOWN} more" if len(codes) > _SHOWN else ""
        known = ", ".join(f"#{r:02X}{g:02X}{b:02X}" for r, g, b in self.colours)
        close = int(self._nearest(codes)[1].max())
        hint = (
            f'every one is within {close} of a known colour: "label_tolerance": {close}, if the '
            "masks were compressed or resized with smoothing"
            if close <= 64
            else f'add it to "label_map": "#{codes[order[0]]:06X}": a train id or "void"'
        )
        return DataError(
            f"{name}: colours that label_map does not know: {shown}{more}\n"
            f"  known: {known}\n  hint: {hint}"
        )

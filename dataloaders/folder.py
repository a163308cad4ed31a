"""Folder: anybody's own images and masks, described by the config alone.

    data_dir/images/**/x.jpg  data_dir/masks/**/x.png      paired by path without ending
    "images": "*/images/*.jpg", "masks": "*/masks/*.png"   paired by what the stars match
    "split": "train.csv"                                   a list: `image,mask` or one name a line

Masks hold label values or, with a `label_map` from colors, colors. Files of shapes (labelme, COCO,
YOLO) and masks of numbered objects are drawn into masks first: dataloaders/drawn_masks.py.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from base.base_dataset import BaseDataset
from dataloaders.annotations import read_annotations
from dataloaders.drawn_masks import BACKGROUND, draw_masks, drawn_labels
from dataloaders.places import labelled_pairs
from utils.data.color_labels import TRANSPARENT, ColorTable, parse_color, parse_label_map
from utils.data.labels import LabelTable, refuse_void_class
from utils.data.normalize import FULL_SCALE
from utils.drawing.palette import VOID_COLOR, Color, voc_palette
from utils.errors import ConfigError, DataError
from utils.files.raw_pixels import (
    Decoded,
    Header,
    PixelKind,
    fits,
    header,
    read_colors,
    read_values,
)
from utils.inference.inputs import RGB, Expected, read_input

_TRIED = 32  # images whose headers are tried for the kind of pixels
_RGB_MEAN, _RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


@dataclass(kw_only=True, eq=False, repr=False)
class Folder(BaseDataset):
    """The user's own data.

    Args:
        data_dir: The folder that all other paths are relative to.
        classes: The names of the classes; their order gives the train ids. Left out, of labelme,
            COCO and YOLO files: "background" and the labels in the files.
        images: Sub-folder of the images, or a pattern with stars.
        masks: Sub-folder of the masks, or a pattern with stars; of labelme and YOLO files too, or
            a COCO file (.json).
        split: Which part: a sub-folder of both, a list file (.txt or .csv) below data_dir, or what
            the first star of the patterns may match. Left out: everything.
        label_map: From values ("0", "255") or colors ("#3C1098", "transparent") in the masks to
            train ids or "void"; "*" is everything else. Left out: masks hold train ids, and the
            config's ignore_index for void. Of files of shapes, from labels. A .csv file below
            data_dir: lines of `id,class` or `image,id,class` for masks of numbered objects.
        label_tolerance: How far a value or color channel may lie from a key of label_map and still
            count as it; for masks that were JPEG-compressed or smoothed.
        mean: Mean of each channel: of uint8 and uint16 as a fraction of the full scale, else in the
            unit of the file; needed unless images are RGB. `tools/mean_std.py` computes it. All
            images are normalized by those of `train_loader`.
        std: Standard deviation over all pixels, likewise.
        colours: Display colors of the classes as "#RRGGBB"; left out, those of label_map or of
            the VOC rule.
    """

    data_dir: str
    classes: tuple[str, ...] = ()  # pyrefly: ignore[bad-override]
    images: str = "images"
    masks: str = "masks"
    split: str | tuple[str, ...] | None = None
    label_map: Mapping[str, int | Literal["void"]] | str | None = None
    label_tolerance: Annotated[int, Ge(0), Le(255)] = 0
    mean: tuple[float, ...] | None = None  # pyrefly: ignore[bad-override]
    std: tuple[Annotated[float, Gt(0)], ...] | None = None  # pyrefly: ignore[bad-override]
    colours: tuple[str, ...] | None = None

    palette: ClassVar[tuple[Color, ...]]

    def __post_init__(self) -> None:
        """Find the pairs and learn from the first image what all of them must be."""
        label_map: Mapping[str, int | Literal["void"]] = (
            {} if isinstance(self.label_map, str) else self.label_map or {}
        )
        if self.classes:  # the config's faults first
            self._check_classes(label_map)
        channels = 3 if self.mean is None else len(self.mean)
        root = Path(self.data_dir)
        pairs, notes = labelled_pairs(root, images=self.images, masks=self.masks, split=self.split)
        table = root / self.label_map if isinstance(self.label_map, str) else None
        found = read_annotations(pairs, self.classes, table)
        if found is not None:
            labels = [one for one in found.labels if one not in BACKGROUND]
            self.classes = self.classes or ("background", *labels)
            self._check_classes(label_map)
            notes += self._notes_of_void(label_map)
            pairs = draw_masks(pairs, found, self.classes, label_map, channels=channels)
            label_map = drawn_labels(len(self.classes))
        elif not self.classes:
            raise ConfigError(
                'Folder: "classes" is missing, and these masks name none\n'
                '  fix: "classes": ["background", ...] in the order of the label values'
            )
        self.label_map = label_map
        self.kind = self._pixel_kind(_first_header([pair.image for pair in pairs], channels).kind)
        self.input_dtype = self.kind.dtype  # pyrefly: ignore[read-only]
        self.reducible = self.kind == RGB  # pyrefly: ignore[read-only]
        self._values, self._colors, self._rest = parse_label_map(
            label_map, num_classes=len(self.classes), ignore_index=self.ignore_index
        )
        self.palette = self._palette()  # pyrefly: ignore[read-only]
        super().__post_init__()
        self.pairs, self.notes = pairs, notes
        self._by_color = ColorTable(
            self._colors,
            num_classes=len(self.classes),
            ignore_index=self.ignore_index,
            tolerance=self.label_tolerance,
            rest=self._rest,
        )

    def _check_classes(self, label_map: Mapping[str, int | str]) -> None:
        repeated = [name for name in self.classes if self.classes.count(name) > 1]
        if repeated:
            raise ConfigError(
                f'Folder: found "{repeated[0]}" twice in "classes"\n  expected: a name a class'
            )
        train_ids = {str(number): number for number in range(len(self.classes))}
        refuse_void_class(self.classes, self.ignore_index, label_map or train_ids)
        if len(self.classes) == 1:
            fix: dict[str, object] = {"classes": ["background", *self.classes]}
            if label_map:
                fix["label_map"] = {key: int(old != "void") for key, old in label_map.items()}
            more = 'name the other classes in "classes", too'
            told = more if self.classes[0] in BACKGROUND else json.dumps(fix)[1:-1]
            raise ConfigError(
                f'Folder: "classes" names "{self.classes[0]}" alone, which nothing is told from\n'
                f"  fix: {told}"
            )

    def _notes_of_void(self, label_map: Mapping[str, int | str]) -> tuple[str, ...]:
        if {*BACKGROUND} & {*self.classes, *label_map}:
            return ()
        fix = json.dumps({"classes": ["background", *self.classes]})[1:-1]
        void = "where nothing is drawn is void, which is not learned"
        return (f"{void}; if it is background: {fix}",)

    def label_table(self) -> LabelTable:
        """Return the table of `label_map`, or train ids as they are."""
        if not self.label_map or self._colors:
            return LabelTable.identity(
                len(self.classes), ignore_index=self.ignore_index, void=self.ignore_index
            )
        return LabelTable(
            self._values,
            num_classes=len(self.classes),
            ignore_index=self.ignore_index,
            tolerance=self.label_tolerance,
            rest=self._rest,
        )

    @property
    def color_table(self) -> ColorTable | None:
        """How colors become train ids; None when masks hold values."""
        return self._by_color if self._colors else None

    def size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of image `index` from its header, once its kind is checked."""
        return self._header(self.pairs[index].image).size

    def read_image(self, path: Path, *, scale: float = 1.0) -> Decoded:
        """Read an image of the data set's channels and dtype, void in the mean color."""
        if self.reducible and path.suffix.lower() in (".jpg", ".jpeg"):
            return super().read_image(path, scale=scale)
        try:
            return read_input(path, Expected(*self.kind, self.border))
        except DataError:
            self._header(path)  # says more of a file of another kind
            raise

    def read_labels(self, path: Path) -> np.ndarray:
        """Read a mask as train ids (H, W)."""
        lossy = self.label_tolerance > 0
        if self._colors:
            return self._by_color.apply(read_colors(path, lossy=lossy), str(path))
        values, nodata = read_values(path, lossy=lossy)
        return self.table.apply(values, str(path), nodata)

    def _header(self, path: Path) -> Header:
        found = header(path, self.kind.channels)
        channels, dtype = found.kind
        if self.reducible and path.suffix.lower() != ".npy":
            usable = found.kind == (1, "uint16") or (dtype == "uint8" and channels <= 4)
        else:
            usable = dtype == self.kind.dtype and fits(channels, self.kind.channels)
        if not usable:
            raise DataError(
                f"{path}: found {channels} channels of {dtype}, expected {self.kind.channels} "
                f'channels of {self.kind.dtype} as "mean" and the first image have\n'
                "  fix: convert it, or train on images of one kind"
            )
        return found

    def _pixel_kind(self, found: PixelKind) -> PixelKind:
        """Settle channels and dtype from the first image and `mean`."""
        if (self.mean is None) != (self.std is None) or (
            self.mean is not None and self.std is not None and len(self.mean) != len(self.std)
        ):
            raise ConfigError(
                'Folder: "mean" and "std" belong together, one value a channel in each\n'
                "  fix: give both; tools/mean_std.py prints them"
            )
        if self.mean is None:
            if found.channels not in (1, 3, 4) or found.dtype != "uint8":
                raise ConfigError(
                    f"Folder: images have {found.channels} channels of {found.dtype}: "
                    '"mean" and "std" are missing\n'
                    "  fix: tools/mean_std.py --config <this config> prints the two lines to add"
                )
            self.mean, self.std = _RGB_MEAN, _RGB_STD
        full, given = FULL_SCALE[found.dtype], {"mean": self.mean, "std": self.std or ()}
        divided = {key: [float(f"{one / full:.4g}") for one in values]
                   for key, values in given.items() if any(one > 1 for one in values)}  # fmt: skip
        if full > 1 and divided:
            raise ConfigError(
                f"Folder: found {' and '.join(divided)} above 1, expected fractions of the full "
                f"scale of {found.dtype}, {full:g}\n  fix: {json.dumps(divided)[1:-1]}"
            )
        return PixelKind(len(self.mean), found.dtype)

    def _palette(self) -> tuple[Color, ...]:
        if self.colours is not None:
            if len(self.colours) != len(self.classes):
                raise ConfigError(
                    f"Folder: {len(self.colours)} colors for {len(self.classes)} classes\n"
                    '  fix: one "#RRGGBB" a class in "colours", or leave it out'
                )
            return tuple(parse_color(text) for text in self.colours)
        chosen = list(voc_palette(len(self.classes)))
        for code, train_id in reversed(self._colors.items()):
            color = (code >> 16, code >> 8 & 255, code & 255)
            if train_id != self.ignore_index and code != TRANSPARENT and color != VOID_COLOR:
                chosen[train_id] = color
        return tuple(chosen)


def _first_header(paths: Sequence[Path], channels: int) -> Header:
    """Return the first header that can be read: one broken file is told by whoever reads it."""
    for path in paths[:_TRIED]:
        with contextlib.suppress(DataError):
            return header(path, channels)
    return header(paths[0], channels)

"""What a command line names to be scored: folders of images or predictions, and of their masks."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from base.base_dataset import BaseDataset
from dataloaders import DATASETS
from dataloaders.folder import Folder
from dataloaders.folder_files import by_key
from dataloaders.layout import listed, shortened
from utils.data.color_labels import ColorTable, parse_label_map
from utils.data.labels import LabelTable
from utils.drawing.palette import to_colors, voc_palette
from utils.errors import CheckpointError, ConfigError, DataError
from utils.files.images import opened, sizes_differ
from utils.files.raw_pixels import holds_values, read_colors, read_values

_LABELS = ("label_map", "label_tolerance")
_CODES = (
    "--classes with what the masks hold, such as background=0 road=255 void=100, or "
    "background=#000000 road=#804080; JPEG masks must be saved anew as PNG"
)


def labelled_folders(
    images: Path, masks: Path, name: str, args: Mapping[str, Any], about: Mapping[str, Any]
) -> BaseDataset:
    """Build the data set of two folders whose masks are coded as those of a training.

    Args:
        images: A folder, or a pattern with stars.
        masks: Likewise.
        name: The data set of the training.
        args: Its arguments.
        about: What a checkpoint says of the data: classes, palette, mean, std, ignore_index.

    Raises:
        ConfigError: A data set that the program does not know.
        DataError: No such folder, or images without masks.
    """
    for flag, folder in (("--images", images), ("--masks", masks)):
        _require(flag, folder)
    if name not in DATASETS:
        raise ConfigError(f"the data set {name} of the training is not there\n  fix: its --plugin")
    labels: dict[str, Any]
    if name == "Folder":
        labels = {key: args[key] for key in _LABELS if key in args}
        if isinstance(table := labels.get("label_map"), str):
            labels["label_map"] = str(Path(args["data_dir"], table).absolute())
    else:  # what its values mean depends on its arguments alone, not on its files
        blank = object.__new__(DATASETS[name])
        vars(blank).update(args, ignore_index=about["ignore_index"])
        known = blank.label_table().mapping.items()
        labels = {"label_map": {str(raw): _target(to, about["classes"]) for raw, to in known}}
    return Folder(
        data_dir=".",
        images=images.absolute().as_posix(),
        masks=masks.absolute().as_posix(),
        classes=tuple(about["classes"]),
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        colours=tuple(f"#{bytes(color).hex()}" for color in about["palette"]),
        ignore_index=about["ignore_index"],
        **labels,
    )


def _require(flag: str, folder: Path) -> None:
    if not folder.is_dir() and "*" not in str(folder):
        raise DataError(f"{flag} {folder}: no such folder")


def _target(train_id: int, classes: Sequence[str]) -> int | str:
    return train_id if 0 <= train_id < len(classes) else "void"


class Predictions:
    """Masks that some program predicted, beside the labels of the same names.

    Args:
        predictions: A folder, or a pattern with stars.
        masks: That of the labels. Each of them needs a prediction; other predictions are left out.
        classes: Of each class in order "name", "name=value" or "name=#RRGGBB"; "name=*" is every
            other value or color. Files of colors, palettes too, are read by the colors given, all
            others by values: a class without one has its number. The name "void" stands for what
            is not counted.

    Raises:
        ConfigError: Classes that contradict each other, or labels that are their own prediction.
        DataError: No such folder, or labels without a prediction.
    """

    def __init__(self, predictions: Path, masks: Path, classes: Sequence[str]) -> None:
        _require("--predictions", predictions)
        _require("--masks", masks)
        keys = [(name, key) for name, _, key in (text.partition("=") for text in classes)]
        self.classes = tuple(dict.fromkeys(name for name, _ in keys if name != "void"))
        label_map = _label_map(self.classes, keys)
        self.num_classes = len(self.classes)
        self.ignore_index = 255 if self.num_classes <= 255 else -1
        values, colors, rest = parse_label_map(
            label_map, num_classes=self.num_classes, ignore_index=self.ignore_index
        )
        sizes = {"num_classes": self.num_classes, "ignore_index": self.ignore_index}
        self._colors = ColorTable(colors, rest=rest, **sizes) if colors else None
        void = 255 if self.ignore_index == 255 else 65535
        plain = LabelTable.identity(self.num_classes, ignore_index=self.ignore_index, void=void)
        self._values = LabelTable(values, rest=rest, **sizes) if values else plain
        chosen = dict(enumerate(voc_palette(self.num_classes)))
        chosen |= {to: (code >> 16, code >> 8 & 255, code & 255) for code, to in colors.items()}
        self.palette = tuple(chosen[number] for number in range(self.num_classes))
        labels, found = by_key(masks), by_key(predictions)
        if not labels:
            raise DataError(
                f"--masks {masks}: found no mask there\n  fix: the folder of the labels"
            )
        if missing := [path for key, path in labels.items() if key not in found]:
            raise DataError(
                f"--predictions {predictions}: none for {len(missing)} of {len(labels)} masks:\n"
                f"{listed(missing)}\n  found: {shortened([one.name for one in found.values()])}\n"
                "  expected: a prediction with the name of each mask\n"
                "  fix: where names differ, patterns such as --predictions 'out/*_pred.png' "
                "--masks 'test/*_mask.png'"
            )
        self.pairs = [(path, found[key]) for key, path in sorted(labels.items())]
        _refuse_itself(self.pairs)
        self.left_out = len(found) - len(labels)

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self.pairs)

    def name(self, index: int) -> str:
        """Return the path of a prediction."""
        return str(self.pairs[index][1])

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Read a prediction and its labels.

        Returns:
            (H, W, 4): the colors of the predicted classes, and their numbers; (H, W) labels.

        Raises:
            DataError: A file that cannot be read, a value that is no class, or two sizes.
        """
        labels, prediction = self.pairs[index]
        try:
            mask, found = self._read(labels), self._read(prediction)
        except DataError as error:
            told, *cures = re.split(r"\n  (?:hint|fix): ", str(error))
            if not any("label_" in cure for cure in cures):  # the keys of a config
                raise
            told = told.replace("label_map does", "--classes does")
            raise DataError(f"{told}\n  fix: {_CODES}") from error
        if mask.shape != found.shape:
            raise sizes_differ(labels, prediction, mask.shape, found.shape)
        drawn = to_colors(found, self.palette, ignore_index=self.ignore_index)
        return np.concatenate([drawn.astype(found.dtype), found[..., None]], axis=2), mask

    def _read(self, path: Path) -> np.ndarray:
        if self._colors is not None and not holds_values(path):
            with opened(path) as image:
                colored = image.mode not in ("1", "L") and not image.mode.startswith("I")
            if colored:
                return self._colors.apply(read_colors(path, lossy=False), str(path))
        values, nodata = read_values(path, lossy=False)
        return self._values.apply(values, str(path), nodata)


def _label_map(classes: Sequence[str], keys: Sequence[tuple[str, str]]) -> dict[str, int | str]:
    """What each key means; beside values, a class without one has its number."""
    numbers: dict[str, int | str] = dict(zip(classes, range(len(classes)), strict=True))
    given = {name for name, key in keys if key}
    if given and not any(key.startswith("#") for _, key in keys):
        unkeyed = [(name, str(numbers[name])) for name in classes if name not in given]
        keys = [*(pair for pair in keys if pair[1]), *unkeyed]
    label_map: dict[str, int | str] = {}
    for name, key in keys:
        target = numbers.get(name, "void")
        if key and label_map.setdefault(key, target) != target:
            both = " and ".join(f"{one}={key}" for one, other in keys if other == key)
            raise ConfigError(
                f"--classes: found {both}, expected one class for {key}\n  fix: delete one of them"
            )
    return label_map


def _refuse_itself(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Labels scored by themselves are perfect, which says nothing."""
    for labels, prediction in pairs:
        if labels.resolve() == prediction.resolve():
            raise ConfigError(
                f"--predictions: found {prediction}, which is the file that --masks names too\n"
                "  expected: other files than the labels\n"
                "  fix: --predictions with the folder that the program wrote its masks to; where "
                "both lie in one folder, patterns such as --predictions 'test/*_pred.png' "
                "--masks 'test/*_mask.png'"
            )


def check_data(data: BaseDataset, checkpoint: Mapping[str, Any]) -> None:
    """Refuse data of other classes, channels or dtype than the model's, or without masks.

    Raises:
        CheckpointError: They are not what the model was trained for.
        DataError: No image has a mask.
    """
    known, found = list(checkpoint["classes"]), list(data.classes)
    if known != found:
        raise CheckpointError(
            f"the model knows {len(known)} classes ({_some(known)}), the data have {len(found)} "
            f"({_some(found)})\n  fix: --config with the data that the model was trained for"
        )
    read = (len(checkpoint["mean"]), checkpoint.get("input_dtype", "uint8"))
    if read != (len(data.mean), data.input_dtype):
        raise CheckpointError(
            f"the model reads {read[0]} channels of {read[1]}, the data have {len(data.mean)} of "
            f"{data.input_dtype}\n  fix: --config with the data that the model was trained for"
        )
    if data.pairs and all(pair.mask is None for pair in data.pairs):
        raise DataError(
            f"{data.name(0)} and the {len(data) - 1} other images have no masks\n"
            "  fix: --split with a part whose labels are published"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

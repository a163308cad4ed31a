"""COCO-Stuff, things and stuff in COCO's photos; Caesar et al., CVPR 2018.

CocoStuff164k (the `stuffthingmaps` archive; pixel value = label - 1, 255 is void):

    data_dir/images/{train2017,val2017}/*.jpg
    data_dir/annotations/{train2017,val2017}/*.png

CocoStuff10k (variable S of a MATLAB file, read by scipy; pixel value = label, 0 is void):

    data_dir/images/*.jpg  data_dir/annotations/*.mat  data_dir/imageLists/{train,test,all}.txt

Train ids: the 171 labels that occur, without gaps. The ancestor of this project counted all 182,
eleven of which can never be right.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from base.base_dataset import BaseDataset
from base.samples import Pair
from dataloaders.coco_classes import NAMES, UNUSED_LABELS
from dataloaders.layout import (
    files_by_stem,
    listed,
    match,
    read_lines,
    require_folder,
    require_some,
)
from utils.data.labels import LabelTable
from utils.drawing.palette import voc_palette
from utils.errors import ConfigError, DataError
from utils.files.matlab import read_matrix

_LABELS = tuple(label for label in range(1, 183) if label not in UNUSED_LABELS)
_SPLITS = {
    "CocoStuff164k": ("train2017", "val2017"),
    "CocoStuff10k": ("train", "test", "all"),
}


@dataclass(kw_only=True, eq=False, repr=False)
class COCO(BaseDataset):
    """COCO-Stuff with the 171 labels that occur.

    Colors: those of the VOC rule for 1..171, all distinct; the release has none.

    Args:
        data_dir: The folder that holds `images` and `annotations`.
        split: train2017 or val2017; of CocoStuff10k train, test or all.
        partition: Which release.
    """

    data_dir: str
    split: Literal["train2017", "val2017", "train", "test", "all"]
    partition: Literal["CocoStuff164k", "CocoStuff10k"] = "CocoStuff164k"

    classes: ClassVar[tuple[str, ...]] = NAMES
    palette: ClassVar[tuple[tuple[int, int, int], ...]] = voc_palette(172)[1:]
    mean: ClassVar[tuple[float, ...]] = (0.4393, 0.4131, 0.3748)
    std: ClassVar[tuple[float, ...]] = (0.2427, 0.2365, 0.2343)

    def __post_init__(self) -> None:
        """Find the pairs of the split."""
        super().__post_init__()
        if self.split not in _SPLITS[self.partition]:
            raise ConfigError(
                f'COCO: found "split": "{self.split}", but {self.partition} has '
                f"{', '.join(_SPLITS[self.partition])}\n"
                '  fix: correct "split" or "partition"'
            )
        self.pairs = self._pairs_164k() if self.partition == "CocoStuff164k" else self._pairs_10k()

    def label_table(self) -> LabelTable:
        """Return the labels that occur as 0..170, in order."""
        if self.partition == "CocoStuff10k":
            mapping = {label: train_id for train_id, label in enumerate(_LABELS)}
            void = 0
        else:
            mapping = {label - 1: train_id for train_id, label in enumerate(_LABELS)}
            void = 255
        return LabelTable(
            mapping | {void: self.ignore_index},
            num_classes=len(self.classes),
            ignore_index=self.ignore_index,
        )

    def read_labels(self, path: Path) -> np.ndarray:
        """Read a mask as train ids; CocoStuff10k keeps it in a MATLAB file."""
        if path.suffix == ".mat":
            return self.table.apply(read_matrix(path, "S"), str(path))
        return super().read_labels(path)

    def _pairs_164k(self) -> tuple[Pair, ...]:
        layout = f"data_dir/images/{self.split}/*.jpg and data_dir/annotations/{self.split}/*.png"
        root = Path(self.data_dir)
        images = require_folder(root / "images" / self.split, layout=layout)
        masks = require_folder(root / "annotations" / self.split, layout=layout)
        found = files_by_stem(images, ".jpg"), files_by_stem(masks, ".png")
        pairs, self.notes = match(*found, where=masks)
        return require_some(pairs, where=images, layout=layout)

    def _pairs_10k(self) -> tuple[Pair, ...]:
        layout = (
            f"data_dir/imageLists/{self.split}.txt, data_dir/images/*.jpg and "
            "data_dir/annotations/*.mat"
        )
        root = Path(self.data_dir)
        images = files_by_stem(require_folder(root / "images", layout=layout), ".jpg")
        masks = files_by_stem(require_folder(root / "annotations", layout=layout), ".mat")
        source = root / "imageLists" / f"{self.split}.txt"
        names = read_lines(source, layout=layout)
        absent = [name for name in names if name not in images]
        if absent:
            raise DataError(
                f"{source}: lists {len(absent)} images that are not there:\n{listed(absent)}"
            )
        wanted = {name: images[name] for name in names}
        return require_some(match(wanted, masks, where=root)[0], where=source, layout=layout)

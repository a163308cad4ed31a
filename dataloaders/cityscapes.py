"""Cityscapes: street scenes of 50 cities, 2048x1024; Cordts et al., CVPR 2016.

The official layout, all archives extracted into one folder:

    data_dir/leftImg8bit/<split>/<city>/*_leftImg8bit.png
    data_dir/gtFine/<split>/<city>/*_gtFine_labelIds.png       or gtCoarse, *_gtCoarse_labelIds.png

or each archive in a folder of its own name: leftImg8bit_trainvaltest/leftImg8bit/...,
leftImg8bit_trainextra/leftImg8bit/..., gtFine_trainvaltest/gtFine/..., gtCoarse/gtCoarse/...
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from base.base_dataset import BaseDataset
from base.samples import Pair
from dataloaders.layout import first_folder, match, require_some
from utils.data.labels import LabelTable
from utils.errors import ConfigError

# Label id -> train id of the official table; the other ids are not evaluated.
TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9,
    23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
_LICENSE_PLATE = -1  # stored as 255 in 8 bits
_IMAGE = "_leftImg8bit.png"


@dataclass(kw_only=True, eq=False, repr=False)
class CityScapes(BaseDataset):
    """Cityscapes with the 19 evaluated classes.

    Args:
        data_dir: The folder that the archives were extracted into.
        split: "train_extra" has coarse masks only; the masks of "test" are not published.
        mode: Fine or coarse masks.
    """

    data_dir: str
    split: Literal["train", "val", "test", "train_extra"]
    mode: Literal["fine", "coarse"] = "fine"

    classes: ClassVar[tuple[str, ...]] = (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
        "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
        "motorcycle", "bicycle",
    )  # fmt: skip
    palette: ClassVar[tuple[tuple[int, int, int], ...]] = (
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
        (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
        (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100),
        (0, 80, 100), (0, 0, 230), (119, 11, 32),
    )  # fmt: skip
    mean: ClassVar[tuple[float, ...]] = (0.2869, 0.3251, 0.2839)
    std: ClassVar[tuple[float, ...]] = (0.1761, 0.1810, 0.1777)

    def __post_init__(self) -> None:
        """Find the pairs of the split, city by city."""
        super().__post_init__()
        if (self.mode, self.split) in (("fine", "train_extra"), ("coarse", "test")):
            raise ConfigError(
                f'CityScapes: the split "{self.split}" has no {self.mode} masks\n'
                '  fix: "mode": "coarse" has train, train_extra and val; "fine" train, val and test'
            )
        kind = "gtFine" if self.mode == "fine" else "gtCoarse"
        ending = f"_{kind}_labelIds.png"
        layout = (
            f"data_dir/leftImg8bit/{self.split}/<city>/*{_IMAGE} and "
            f"data_dir/{kind}/{self.split}/<city>/*{ending}"
        )
        root = Path(self.data_dir)
        extra = "trainextra" if self.split == "train_extra" else "trainvaltest"
        places = [root / "leftImg8bit", root / f"leftImg8bit_{extra}" / "leftImg8bit"]
        images = first_folder([place / self.split for place in places], layout=layout)
        found = _by_frame(images, _IMAGE)
        if self.split == "test":
            pairs = [Pair(found[key], None) for key in sorted(found)]
        else:
            archive = "gtFine_trainvaltest" if self.mode == "fine" else "gtCoarse"
            places = [root / kind, root / archive / kind]
            masks = first_folder([place / self.split for place in places], layout=layout)
            pairs, self.notes = match(found, _by_frame(masks, ending), where=masks)
        self.pairs = require_some(pairs, where=images, layout=layout)

    def label_table(self) -> LabelTable:
        """Return the official table from label ids to train ids."""
        void = dict.fromkeys((_LICENSE_PLATE, 255, *range(34)), self.ignore_index)
        return LabelTable(
            void | TRAIN_IDS, num_classes=len(self.classes), ignore_index=self.ignore_index
        )


def _by_frame(folder: Path, ending: str) -> dict[str, Path]:
    """Return files by city/city_sequence_frame."""
    return {
        f"{path.parent.name}/{path.name.removesuffix(ending)}": path
        for path in folder.glob(f"*/[!.]*{ending}")
    }

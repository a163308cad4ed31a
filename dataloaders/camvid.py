"""CamVid: driving scenes, 480x360, 11 classes; Brostow et al., Pattern Recognition Letters 2009.

The layout and the 11 classes are those of the SegNet tutorial:

    data_dir/train/*.png  data_dir/trainannot/*.png  (val, valannot, test, testannot)
    data_dir/train.txt    optional: which images of the split; only the file names count, whatever
                          folder stands before them
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from base.base_dataset import BaseDataset
from dataloaders.layout import match, read_lines, require_folder, require_some
from utils.data.labels import LabelTable
from utils.errors import DataError

_VOID = 11
_LAYOUT = "data_dir/{split}/*.png and data_dir/{split}annot/*.png, same names in both"


@dataclass(kw_only=True, eq=False, repr=False)
class CamVid(BaseDataset):
    """CamVid with 11 classes; raw value 11 is void.

    Args:
        data_dir: The folder that holds `train`, `trainannot` and so on.
        split: Which part.
    """

    data_dir: str
    split: Literal["train", "val", "test"]

    classes: ClassVar[tuple[str, ...]] = (
        "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car",
        "Pedestrian", "Bicyclist",
    )  # fmt: skip
    palette: ClassVar[tuple[tuple[int, int, int], ...]] = (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222),
        (128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    )  # fmt: skip
    mean: ClassVar[tuple[float, ...]] = (0.4119, 0.4251, 0.4327)
    std: ClassVar[tuple[float, ...]] = (0.3071, 0.3116, 0.3072)

    def __post_init__(self) -> None:
        """Find the pairs of the split."""
        super().__post_init__()
        root = Path(self.data_dir)
        layout = _LAYOUT.format(split=self.split)
        images = require_folder(root / self.split, layout=layout)
        masks = require_folder(root / f"{self.split}annot", layout=layout)
        found = {path.name: path for path in images.glob("[!.]*.png")}
        wanted = _listed_names(root / f"{self.split}.txt")
        if wanted is not None:
            absent = sorted(wanted - found.keys())
            if absent:
                raise DataError(
                    f"{root / self.split}.txt: lists {len(absent)} images that {images} lacks: "
                    f"{', '.join(absent[:20])}\n  fix: restore the images or correct the list"
                )
            found = {name: found[name] for name in wanted}
        partners = {path.name: path for path in masks.glob("[!.]*.png")}
        pairs, left = match(found, partners, where=root)
        self.notes = left if wanted is None else ()
        self.pairs = require_some(pairs, where=images, layout=layout)

    def label_table(self) -> LabelTable:
        """Return 0..10 as they are and 11 as void."""
        return LabelTable.identity(len(self.classes), ignore_index=self.ignore_index, void=_VOID)


def _listed_names(path: Path) -> set[str] | None:
    """Return the image names of a list of `image mask` lines, None without the list."""
    if not path.is_file():
        return None
    return {Path(line.split()[0]).name for line in read_lines(path, layout="a text file")}

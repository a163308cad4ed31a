"""ADE20K, the scene-parsing benchmark of 150 classes; Zhou et al., CVPR 2017.

    data_dir/images/{training,validation}/*.jpg
    data_dir/annotations/{training,validation}/*.png       0 is void, 1..150 are the classes

`data_dir` is ADEChallengeData2016, or the folder that holds it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from base.base_dataset import BaseDataset
from dataloaders.ade20k_classes import NAMES, PALETTE
from dataloaders.layout import files_by_stem, first_folder, match, require_folder, require_some
from utils.data.labels import LabelTable


@dataclass(kw_only=True, eq=False, repr=False)
class ADE20K(BaseDataset):
    """ADE20K with 150 classes.

    Args:
        data_dir: ADEChallengeData2016 or the folder that holds it.
        split: "train" and "val" mean "training" and "validation".
    """

    data_dir: str
    split: Literal["training", "validation", "train", "val"]

    classes: ClassVar[tuple[str, ...]] = NAMES
    palette: ClassVar[tuple[tuple[int, int, int], ...]] = PALETTE
    mean: ClassVar[tuple[float, ...]] = (0.4890, 0.4655, 0.4294)
    std: ClassVar[tuple[float, ...]] = (0.2286, 0.2295, 0.2405)

    def __post_init__(self) -> None:
        """Find the pairs of the split."""
        super().__post_init__()
        split = {"train": "training", "val": "validation"}.get(self.split, self.split)
        layout = f"data_dir/images/{split}/*.jpg and data_dir/annotations/{split}/*.png"
        data_dir = Path(self.data_dir)
        places = [data_dir, data_dir / "ADEChallengeData2016"]
        images = first_folder([place / "images" / split for place in places], layout=layout)
        root = images.parent.parent
        masks = require_folder(root / "annotations" / split, layout=layout)
        found = files_by_stem(images, ".jpg"), files_by_stem(masks, ".png")
        pairs, self.notes = match(*found, where=masks)
        self.pairs = require_some(pairs, where=images, layout=layout)

    def label_table(self) -> LabelTable:
        """Return 0 as void and 1..150 as the classes."""
        classes = {value + 1: value for value in range(len(self.classes))}
        return LabelTable(
            {0: self.ignore_index} | classes,
            num_classes=len(self.classes),
            ignore_index=self.ignore_index,
        )

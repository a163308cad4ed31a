"""PASCAL VOC 2012; Everingham et al., IJCV 2015; with the extra masks of SBD, ICCV 2011.

    data_dir/VOCdevkit/VOC2012/JPEGImages/*.jpg
                               SegmentationClass/*.png
                               SegmentationClassAug/*.png       for the `_aug` splits
                               ImageSets/Segmentation/<split>.txt

A list's line is an image id, or the paths of image and mask below VOC2012. `tools/sbd.py` makes the
`_aug` masks and lists from the original SBD release.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from base.base_dataset import BaseDataset
from base.samples import Pair
from dataloaders.layout import first_folder, listed, read_lines, require_some
from utils.drawing.palette import voc_palette
from utils.errors import DataError

_LAYOUT = (
    "data_dir/VOCdevkit/VOC2012 with JPEGImages/*.jpg, {masks}/*.png and "
    "ImageSets/Segmentation/{split}.txt"
)
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip


@dataclass(kw_only=True, eq=False, repr=False)
class VOC(BaseDataset):
    """PASCAL VOC 2012: 20 classes and background; raw value 255 is void.

    Args:
        data_dir: The folder that holds VOCdevkit/VOC2012 (or VOC2012 itself).
        split: Which list of ImageSets/Segmentation; `_aug` with the masks of SBD. The test splits
            have no published masks: all of it is void.
    """

    data_dir: str
    split: Literal[
        "train", "val", "trainval", "test", "train_aug", "val_aug", "trainval_aug", "test_aug"
    ]

    classes: ClassVar[tuple[str, ...]] = CLASSES
    palette: ClassVar[tuple[tuple[int, int, int], ...]] = voc_palette(21)
    mean: ClassVar[tuple[float, ...]] = (0.4573, 0.4334, 0.4006)
    std: ClassVar[tuple[float, ...]] = (0.2397, 0.2353, 0.2398)

    def __post_init__(self) -> None:
        """Find the pairs of the split's list."""
        super().__post_init__()
        masks = "SegmentationClassAug" if self.split.endswith("_aug") else "SegmentationClass"
        layout = _LAYOUT.format(split=self.split, masks=masks)
        data_dir = Path(self.data_dir)
        candidates = [data_dir / "VOCdevkit" / "VOC2012", data_dir / "VOC2012"]
        if (data_dir / "JPEGImages").is_dir():
            candidates.append(data_dir)
        root = first_folder(candidates, layout=layout)
        path = root / "ImageSets" / "Segmentation" / f"{self.split}.txt"
        pairs = [self._pair(root, line, masks, path) for line in read_lines(path, layout=layout)]
        _check_presence(pairs, path)
        self.pairs = require_some(pairs, where=path, layout=layout)

    def _pair(self, root: Path, line: str, masks: str, source: Path) -> Pair:
        fields = line.split()
        unlabelled = self.split.startswith("test")
        if len(fields) == 1:
            name = Path(fields[0]).stem if "/" in fields[0] else fields[0].removesuffix(".jpg")
            mask = None if unlabelled else root / masks / f"{name}.png"
            return Pair(root / "JPEGImages" / f"{name}.jpg", mask)
        if len(fields) == 2:
            image, mask = (root / field.lstrip("/") for field in fields)
            return Pair(image, None if unlabelled and not mask.is_file() else mask)
        raise DataError(
            f"{source}: found the line {line!r}\n"
            "  expected: an image id, or the paths of an image and its mask"
        )


def _check_presence(pairs: list[Pair], source: Path) -> None:
    folders = {path.parent for pair in pairs for path in pair if path is not None}
    there = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
    for what, position in (("images", 0), ("masks", 1)):
        wanted = [pair[position] for pair in pairs]
        missing = [path for path in wanted if path is not None and path not in there]
        if missing:
            raise DataError(
                f"{source}: lists {len(missing)} {what} that are not there:\n{listed(missing)}\n"
                + (
                    "  fix: tools/sbd.py makes SegmentationClassAug from the SBD release"
                    if "Aug" in str(missing[0])
                    else "  fix: extract the VOC 2012 archive again, or correct the list"
                )
            )

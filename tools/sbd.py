"""Make VOC's augmented masks and lists from the original SBD release.

    python tools/sbd.py --sbd benchmark_RELEASE --data-dir VOCtrainval_11-May-2012

`--sbd` holds `dataset/cls/*.mat` (Hariharan et al., "Semantic Contours from Inverse Detectors",
ICCV 2011), `--data-dir` VOCdevkit/VOC2012. Written are SegmentationClassAug/*.png and the lists
train_aug, val_aug and trainval_aug. VOC's own masks win where both exist, and nothing of VOC's val
split is trained on: train_aug is all of SBD and VOC train without VOC val, 10,582 images.
Needs `pip install -r requirements-matlab.txt`.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.drawing.palette import to_palette_image, voc_palette
from utils.errors import DataError, guard
from utils.files.images import opened
from utils.files.matlab import read_matrix
from utils.files.written import Written

_LISTS = "data_dir/VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val}.txt of VOC 2012"


def main(arguments: Sequence[str]) -> int:
    """Run the command; see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sbd", required=True, help="the extracted SBD release")
    parser.add_argument("--data-dir", required=True, help="the folder of VOCdevkit")
    parser.add_argument("--overwrite", action="store_true", help="replace other programs' files")
    args = parser.parse_args(arguments)
    from dataloaders.layout import first_folder, read_lines

    sbd = Path(args.sbd)
    places = [sbd / "dataset" / "cls", sbd / "benchmark_RELEASE" / "dataset" / "cls", sbd / "cls"]
    masks = first_folder(places, layout="benchmark_RELEASE/dataset/cls/*.mat of the SBD release")
    data_dir = Path(args.data_dir)
    voc = first_folder(
        [data_dir / "VOCdevkit" / "VOC2012", data_dir / "VOC2012", data_dir], layout=_LISTS
    )
    train, val = (
        read_lines(voc / "ImageSets" / "Segmentation" / f"{split}.txt", layout=_LISTS)
        for split in ("train", "val")
    )
    extra = sorted(path.stem for path in masks.glob("[!.]*.mat"))
    if not extra:
        raise DataError(f"{masks}: no *.mat file, expected the class masks of SBD")
    lists = {
        "train_aug": sorted({*extra, *train} - set(val)),
        "val_aug": sorted(val),
        "trainval_aug": sorted({*extra, *train, *val}),
    }
    files = {split: voc / "ImageSets" / "Segmentation" / f"{split}.txt" for split in lists}
    targets = {
        name: voc / "SegmentationClassAug" / f"{name}.png"
        for name in sorted({*extra, *train, *val})
    }
    written = Written(voc)
    written.refuse_others([*files.values(), *targets.values()], overwrite=args.overwrite)
    _write_masks(voc, masks, targets, own={*train, *val}, written=written)
    for split, names in lists.items():
        text = "".join(
            f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png\n" for name in names
        )
        written.write(
            files[split], lambda place, text=text: place.write_text(text, encoding="utf-8")
        )
    print(
        f"{len(targets)} masks in {voc / 'SegmentationClassAug'}; lists: "
        + ", ".join(f"{split} {len(names)}" for split, names in lists.items())
    )
    return 0


def _write_masks(
    voc: Path, masks: Path, targets: Mapping[str, Path], *, own: set[str], written: Written
) -> None:
    from dataloaders.layout import require_folder

    (voc / "SegmentationClassAug").mkdir(exist_ok=True)
    source = require_folder(voc / "SegmentationClass", layout="VOC2012/SegmentationClass/*.png")
    palette = voc_palette(256)
    for name, path in targets.items():
        if name in own:
            with opened(source / f"{name}.png") as opened_image:
                ids = np.array(opened_image)
        else:
            ids = read_matrix(masks / f"{name}.mat", "GTcls", "Segmentation")
        image = to_palette_image(ids, palette[:21])
        written.write(path, partial(image.save, format="PNG"))


if __name__ == "__main__":
    raise SystemExit(guard(main, sys.argv[1:]))

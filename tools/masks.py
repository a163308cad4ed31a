"""Write masks as PNG, one class id a pixel, from whatever Folder reads.

    python tools/masks.py --data my_data --masks labels --output my_data/masks      # labelme, YOLO
    python tools/masks.py --data my_data --masks annotations.json --output my_data/masks     # COCO
    python tools/masks.py --config config.json --output my_data/masks    # what train_loader says

Prints the classes, for the config. Void is 255, over 255 classes 65535. A mask has the path of its
image below `images`, with the ending .png.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.errors import ConfigError, DataError, guard

if TYPE_CHECKING:
    from base.base_dataset import BaseDataset


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="the folder that --images and --masks are in")
    add("--images", default="images", help="folder of the images (default: images)")
    add("--masks", default="masks", help="folder of labelme or YOLO files, or a COCO file")
    add("--classes", nargs="+", default=[], help="in order (default: background, then the labels)")
    add("-c", "--config", help="instead: the train_loader of this config")
    add("-o", "--output", type=Path, required=True, help="folder of the PNG files")
    add("--overwrite", action="store_true", help="replace files that this program did not write")
    options = parser.parse_args(arguments)
    if (options.data is None) == (options.config is None):
        raise ConfigError("found both or none of --data and --config, expected one of them")
    from dataloaders.building import SPLITTING, build_whole
    from utils.config.config import load_config

    kind, ignore_index = "Folder", 255
    args = {"data_dir": options.data, "images": options.images, "masks": options.masks}
    args["batch_size"] = 1
    if options.classes:
        args["classes"] = tuple(options.classes)
    if options.config:
        config = load_config(options.config)
        kind, ignore_index = config.train_loader.type, config.ignore_index
        args = {key: one for key, one in config.train_loader.args.items() if key not in SPLITTING}
    data = build_whole("train_loader", kind, args, ignore_index=ignore_index, seed=0)
    root = Path(str(args.get("data_dir", ""))) / str(args.get("images", ""))
    _write(data, root, options.output, overwrite=options.overwrite)
    return 0


def _write(data: "BaseDataset", root: Path, output: Path, *, overwrite: bool) -> None:
    import json

    import numpy as np

    from utils.files.written import Written
    from utils.inference.results import mask_dtype, write_mask

    if not data.pairs or any(pair.mask is None for pair in data.pairs):
        raise DataError("the data have no mask files\n  fix: a data set or split with masks")
    dtype = mask_dtype(data.num_classes)
    if not all(pair.image.is_relative_to(root) for pair in data.pairs):  # patterns, other layouts
        root = Path(os.path.commonpath([pair.image.parent for pair in data.pairs]))
    targets = [output / pair.image.relative_to(root).with_suffix(".png") for pair in data.pairs]
    written = Written(output)
    written.refuse_others(targets, overwrite=overwrite)
    with written.opened(targets):
        for pair, target in zip(data.pairs, targets, strict=True):
            assert pair.mask is not None
            mask = data.read_labels(pair.mask)
            ids = np.where(mask == data.ignore_index, np.iinfo(dtype).max, mask).astype(dtype)
            target.parent.mkdir(parents=True, exist_ok=True)
            written.write(target, partial(write_mask, ids, data.palette))
    print(f'{len(data)} masks in {output}; for the config: "classes": {json.dumps(data.classes)}')


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

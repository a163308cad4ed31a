"""Every recipe of configs/ trains a step and validates: data of its own layout, smaller images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train
from dataloaders.coco_classes import UNUSED_LABELS
from utils.config.config import load_config

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "configs").glob("*.json"))
IMAGES = 2  # one batch
COCO_VALUES = [value for value in range(182) if value + 1 not in UNUSED_LABELS]
# Where each data set keeps the images and masks of a split, and the values of its masks.
LAYOUTS = {
    "ADE20K": ("images/{split}/{name}.jpg", "annotations/{split}/{name}.png", range(151)),
    "COCO": ("images/{split}/{name}.jpg", "annotations/{split}/{name}.png", COCO_VALUES),
    "CamVid": ("{split}/{name}.png", "{split}annot/{name}.png", range(12)),
    "CityScapes": (
        "leftImg8bit/{split}/ulm/ulm_{name}_leftImg8bit.png",
        "gtFine/{split}/ulm/ulm_{name}_gtFine_labelIds.png",
        range(34),
    ),
    "Folder": ("{split}/images/{name}.jpg", "{split}/masks/{name}.png", None),
    "VOC": (
        "VOCdevkit/VOC2012/JPEGImages/{split}_{name}.jpg",
        "VOCdevkit/VOC2012/SegmentationClass{aug}/{split}_{name}.png",
        range(21),
    ),
}


def write_data(root, loader):
    """Write `IMAGES` random pairs of each split that a loader reads."""
    image_path, mask_path, values = LAYOUTS[loader.type]
    splits = loader.args["split"]
    random = np.random.default_rng(0)
    for split in [splits] if isinstance(splits, str) else splits:
        names = [f"{number:06d}" for number in range(IMAGES)]
        for name in names:
            found = {"split": split, "name": name, "aug": "Aug" * split.endswith("_aug")}
            image, mask = root / image_path.format(**found), root / mask_path.format(**found)
            for path in (image, mask):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (72, 96, 3), np.uint8)).save(image)
            if values is None:
                colors = [tuple(bytes.fromhex(key[1:])) for key in loader.args["label_map"]]
                labels = np.array(colors, np.uint8)[random.integers(0, len(colors), (72, 96))]
            else:
                labels = random.choice(values, (72, 96)).astype(np.uint8)
            Image.fromarray(labels).save(mask)
        if loader.type == "VOC":
            lists = root / "VOCdevkit/VOC2012/ImageSets/Segmentation"
            lists.mkdir(parents=True, exist_ok=True)
            (lists / f"{split}.txt").write_text("".join(f"{split}_{name}\n" for name in names))


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_takes_a_step(path, tmp_path, monkeypatch):
    config = load_config(path)
    for loader in (config.train_loader, config.val_loader):
        write_data(tmp_path / "data", loader)
    smaller = {
        "train_loader": {"base_size": 96, "crop_size": 64, "batch_size": IMAGES, "cache": None},
        "val_loader": {"batch_size": 1},
    }
    changes = [
        f"{loader}.args.{key}={json.dumps(value)}"
        for loader, arguments in smaller.items()
        for key, value in (arguments | {"data_dir": "data", "num_workers": 0}).items()
    ]
    changes += ["trainer.epochs=1", "trainer.val_per_epochs=1", "arch.args.pretrained=false"]
    if "warmup_steps" in config.lr_scheduler.args:
        changes.append("lr_scheduler.args.warmup_steps=0")  # the run is shorter than the warm-up
    monkeypatch.chdir(tmp_path)
    assert train.main(["--config", str(path), "--device", "cpu", "--set", *changes]) == 0
    (lines,) = tmp_path.glob("saved/*/*/metrics.jsonl")
    validated = [line for line in lines.read_text().splitlines() if '"val_loss"' in line]
    assert len(validated) == 1

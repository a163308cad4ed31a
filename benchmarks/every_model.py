"""Every model learns: each network for as many images, on CamVid at half size.

    python benchmarks/every_model.py CAMVID OUT --weights tf_efficientnet_lite0.pth --images 1800

CAMVID is the folder with train, trainannot, val and valannot; OUT gets a copy of 240x180. Networks
that take any encoder get the one of the weights; the others, on VGG, ResNet or DenseNet, start from
random ones. One config for all but the network: what each could reach is not asked. A finished run
in OUT is kept and not repeated. Prints the table.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.pages.run_files import read_run

ROOT = Path(__file__).resolve().parents[1]
ENCODER = "tf_efficientnet_lite0"
NETWORKS: dict[str, dict[str, Any]] = {
    "FCN8": {"pretrained": False},
    "UNet": {"base_channels": 32},
    "UNetResnet": {"backbone": ENCODER},
    "SegNet": {"pretrained": False},
    "SegResNet": {"pretrained": False},
    "ENet": {},
    "GCN": {"pretrained": False},
    "DeepLab": {"backbone": ENCODER},
    "DeepLab_DUC_HDC": {"backbone": "resnet50", "pretrained": False},
    "UperNet": {"backbone": ENCODER, "use_aux": False},
    "PSPNet": {"backbone": ENCODER, "use_aux": False},
    "PSPDenseNet": {"backbone": "densenet121", "pretrained": False, "use_aux": False},
    "SegFormer": {"backbone": ENCODER},
    "Linear": {"backbone": ENCODER},
}


def main() -> None:
    """Train what is missing and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="CAMVID")
    parser.add_argument("output", type=Path, metavar="OUT")
    parser.add_argument("--weights", type=Path, required=True, help=f"of {ENCODER}")
    parser.add_argument("--images", type=int, default=1800, help="that each sees")
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    options = parser.parse_args()
    half = options.output / "half"
    make_half(options.data, half)
    folders = []
    for name in options.only:
        folder = options.output / name
        config = options.output / f"{name}.json"
        made = config_of(name, half.absolute(), options.weights.absolute(), options.images)
        made["trainer"]["save_dir"] = str(folder.absolute())
        config.write_text(json.dumps(made, indent=1))
        if not finished(folder):
            run("train.py", "--config", str(config.absolute()))
        folders += finished(folder)
    run("tools/results.py", *folders)


def finished(folder: Path) -> list[str]:
    """Runs that were validated, which is done at their end."""
    runs = [path.parent.absolute() for path in folder.glob("*/*/metrics.jsonl")]
    return [str(path) for path in runs if read_run(path).validations]


def make_half(data: Path, half: Path) -> None:
    """Write a copy of half the height and width, unless that was done."""
    for split in ("train", "val"):
        for folder, way in ((split, cv2.INTER_AREA), (f"{split}annot", cv2.INTER_NEAREST)):
            (half / folder).mkdir(parents=True, exist_ok=True)
            for path in sorted((data / folder).glob("[!.]*.png")):
                if not (half / folder / path.name).exists():
                    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
                    assert pixels is not None, path
                    small = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=way)
                    cv2.imwrite(str(half / folder / path.name), small)


def config_of(name: str, data: Path, weights: Path, images: int) -> dict[str, Any]:
    """A config, the same for all networks but for `arch`."""
    args = {**NETWORKS[name]}
    if args.get("backbone") == ENCODER:
        args["pretrained"] = str(weights)
    common = {"data_dir": str(data), "batch_size": 8, "num_workers": 0, "cache": "ram"}
    train = {"split": "train", "shuffle": True, "augment": True, "base_size": 240,
             "crop_size": 176, "flip": True}  # fmt: skip
    epochs = max(1, round(images / 360))  # 45 batches of 8 an epoch
    return {
        "name": name,
        "n_gpu": 0,
        "arch": {"type": name, "args": args},
        "train_loader": {"type": "CamVid", "args": common | train},
        "val_loader": {"type": "CamVid", "args": common | {"split": "val", "val": True}},
        "optimizer": {"type": "AdamW", "args": {"lr": 1e-3, "weight_decay": 0.01}},
        "loss": "CrossEntropyLoss2d",
        "ignore_index": 255,
        "lr_scheduler": {"type": "OneCycle", "args": {}},
        "trainer": {
            "epochs": epochs,
            "save_period": epochs,
            "monitor": "max Mean_IoU",
            "tensorboard": False,
            "val": True,
            "val_per_epochs": epochs,
        },
    }


def run(command: str, *arguments: str) -> None:
    """Run a command of ours."""
    subprocess.run([sys.executable, command, *arguments], cwd=ROOT, check=True)  # noqa: S603


if __name__ == "__main__":
    main()

"""Train as segmentation-models-pytorch's documented example does, on the data of a config of ours.

    pip install -r requirements-peers.txt
    python benchmarks/smp_example.py CONFIG --images 15120 --set arch.args.pretrained=FILE ...

CONFIG is one like configs/camvid_deeplab_lite0.json; --set also says where the data are.

After examples/camvid_segmentation_multiclass.ipynb of its repository: crops of 320 in batches of
32, its augmentations, Dice over the classes and void, Adam at 2e-4 with a cosine of 50 steps,
float32. The network is its DeepLabV3+ with the encoder and the weights that the config names; the
example has FPN on a ResNeXt. One thing is mended, as it would cost points: the example subtracts
statistics of values to 1 from values to 255. The channel of void is dropped before scoring.

Progress goes to stderr. The last line is one JSON object with the score of whole validation images
by this program, in per cent.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from base.base_dataset import BaseDataset
from dataloaders.building import build_dataset
from utils.config.config import Config, load_config
from utils.data.normalize import Normalize
from utils.files.tensor_files import read, weights_in
from utils.hardware.precision import full_fp32
from utils.metrics.confusion import ConfusionMatrix

CROP, BATCH, COSINE, STRIDE = 320, 32, 50, 16


class Augmented(Dataset[tuple[np.ndarray, np.ndarray]]):
    """Images (C, H, W) in uint8 and masks (H, W), where void is the class after the last."""

    def __init__(self, data: BaseDataset) -> None:
        import albumentations as A  # late, as below: --help answers without it

        self.void = data.num_classes
        self.pairs = [data.load(index) for index in range(len(data))]
        self.ignore_index = data.ignore_index
        self.augmentation = A.Compose([
            A.HorizontalFlip(p=0.5),
            A.ShiftScaleRotate(
                scale_limit=0.5, rotate_limit=0, shift_limit=0.1, p=1, border_mode=0,
                fill_mask=self.void,
            ),
            A.PadIfNeeded(CROP, CROP, border_mode=0, fill_mask=self.void),
            A.RandomCrop(CROP, CROP),
            A.GaussNoise(p=0.2),
            A.Perspective(p=0.5, fill_mask=self.void),
            A.OneOf([A.CLAHE(p=1), A.RandomBrightnessContrast(p=1), A.RandomGamma(p=1)], p=0.9),
            A.OneOf([A.Sharpen(p=1), A.Blur(3, p=1), A.MotionBlur(3, p=1)], p=0.9),
            A.OneOf([A.RandomBrightnessContrast(p=1), A.HueSaturationValue(p=1)], p=0.9),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = self.pairs[index]
        known = np.where(mask == self.ignore_index, self.void, mask).astype(np.uint8)
        changed = self.augmentation(image=image, mask=known)
        return np.ascontiguousarray(changed["image"].transpose(2, 0, 1)), changed["mask"]


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="data, encoder and weights are taken from it")
    parser.add_argument("--images", type=int, required=True, help="to be seen in training")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that augment")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    config = load_config(options.config, options.set)
    train, val = (data_of(config, kind) for kind in ("train_loader", "val_loader"))
    device = torch.device(options.device)
    network = build(config, num_classes=train.num_classes + 1).to(device)
    normalize = Normalize(train.mean, train.std).to(device)
    loader = DataLoader(Augmented(train), BATCH, shuffle=True, num_workers=options.workers)
    seconds = fit(network, normalize, loader, images=options.images)
    with full_fp32():
        score = mean_iou(network, normalize, val)
    print(json.dumps({"images": options.images, "seconds": round(seconds), "Mean_IoU": score}))


def data_of(config: Config, kind: str) -> BaseDataset:
    """The data set of a loader; only its pairs and the meaning of masks are used."""
    loader = getattr(config, kind)
    assert loader is not None, f"no {kind}"
    return build_dataset(kind, (loader.type, loader.args), ignore_index=config.ignore_index, seed=0)


def build(config: Config, *, num_classes: int) -> nn.Module:
    """DeepLabV3+ on the config's encoder, with the weights of its `pretrained`."""
    import segmentation_models_pytorch as smp

    args = config.arch.args
    network = smp.create_model(
        "DeepLabV3Plus",
        encoder_name=f"tu-{args['backbone']}",
        encoder_weights=None,
        in_channels=3,
        classes=num_classes,
    )
    file = Path(str(args["pretrained"]))
    missing, _ = network.encoder.model.load_state_dict(weights_in(read(file), file), strict=False)
    assert not missing, missing
    return network


def fit(network: nn.Module, normalize: Normalize, loader: DataLoader[Any], *, images: int) -> float:
    """Train until so many images were seen; returns the seconds."""
    import segmentation_models_pytorch as smp

    device = next(network.parameters()).device
    loss_of = smp.losses.DiceLoss(smp.losses.MULTICLASS_MODE, from_logits=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=COSINE, eta_min=1e-5)
    network.train()
    seen, start = 0, time.perf_counter()
    while seen < images:
        for batch, masks in loader:
            loss = loss_of(network(normalize(batch.to(device))), masks.to(device).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            seen += len(batch)
            if seen >= images:
                break
        pace = seen / (time.perf_counter() - start)
        print(f"{seen} images, loss {loss:.4f}, {pace:.2f} a second", file=sys.stderr, flush=True)
    return time.perf_counter() - start


@torch.inference_mode()
def mean_iou(network: nn.Module, normalize: Normalize, data: BaseDataset) -> float:
    """Mean_IoU of whole images, in per cent, as this program scores it."""
    device = next(network.parameters()).device
    counts = ConfusionMatrix(
        data.num_classes, data.ignore_index, classes=data.classes, device=device
    )
    network.eval()
    for index in range(len(data)):
        image, mask = data.load(index)
        height, width = mask.shape
        pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
        images = normalize(pixels.to(device))
        padded = F.pad(images, (0, -width % STRIDE, 0, -height % STRIDE))
        logits = network(padded)[:, : data.num_classes, :height, :width]
        counts.update(logits, torch.from_numpy(mask)[None].to(device))
    score = counts.compute()["Mean_IoU"]
    assert isinstance(score, float)
    return round(100 * score, 2)


if __name__ == "__main__":
    main()

"""How fast samples are made ready, against the usual pipeline, which is committed beside this file.

    python benchmarks/loading.py              # about two minutes; makes its own data

Ours and the usual one take turns in one run, on one thread, everything switched on, conversion to
float and normalization included; medians over samples. Then worker processes against one, and the
memory of a loader over three epochs. The last line is one JSON object.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from base.base_data_loader import BaseDataLoader
from base.base_dataset import BaseDataset
from benchmarks.plain_pipeline import plain_sample
from dataloaders.cityscapes import CityScapes
from dataloaders.voc import VOC
from utils.data.normalize import Normalize
from utils.drawing.palette import to_palette_image, voc_palette

EVERYTHING = {"augment": True, "flip": True, "rotate": True, "blur": True}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=60, help="timed samples of each kind")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        jpeg = make_voc(Path(place) / "voc", 32)
        city = make_cityscapes(Path(place) / "city", 8)
        print(f"{'ms a sample':32}{'ours':>9}{'usual':>9}{'decoding':>9}{'ratio':>8}")
        small = {"base_size": 400, "crop_size": 380, **EVERYTHING}
        voc = VOC(data_dir=str(jpeg), split="train", **small)
        compare("jpeg", "500x375 JPEG", voc, args.samples * 3, figures)
        large = {"base_size": 1024, "crop_size": 769, **EVERYTHING}
        plain = CityScapes(data_dir=str(city), split="train", **large)
        compare("png", "2048x1024 PNG", plain, args.samples, figures)
        cached = CityScapes(
            data_dir=str(city), split="train", cache="disk", cache_dir=f"{place}/cache", **large
        )
        compare("png_cached", "2048x1024 PNG, cached on disk", cached, args.samples, figures)
        workers(jpeg, small, figures)
    print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


def compare(
    key: str, title: str, dataset: BaseDataset, samples: int, figures: dict[str, float]
) -> None:
    """Time ours, the usual pipeline and decoding alone in turns; add their ratios."""
    dataset.open_cache()
    normalize = Normalize(dataset.mean, dataset.std)
    assert dataset.base_size is not None
    assert dataset.crop_size is not None
    base_size, crop_size = dataset.base_size, dataset.crop_size
    mapping = dataset.table.mapping if isinstance(dataset, CityScapes) else {}
    # Ascending, so that no train id is taken for a label that is still to be mapped.
    table = {raw: mapping[raw] for raw in sorted(mapping) if 0 <= raw < 255}
    rng = random.Random(0)  # noqa: S311 (augmentation)

    def ours(index: int) -> None:
        image, mask, _ = dataset[(0, index)]
        images = torch.from_numpy(image[None]).permute(0, 3, 1, 2)
        normalize(images)
        torch.from_numpy(mask).long()

    def usual(index: int) -> None:
        pair = dataset.pairs[index]
        sizes = {"base_size": base_size, "crop_size": crop_size}
        plain_sample(str(pair.image), str(pair.mask), rng=rng, label_map=table, **sizes)

    def decoding(index: int) -> None:
        pair = dataset.pairs[index]
        for path in (pair.image, pair.mask):
            assert path is not None
            with Image.open(path) as opened:
                opened.load()

    times = take_turns([ours, usual, decoding], samples, len(dataset))
    medians = [statistics.median(part) * 1e3 for part in times]
    figures[f"ratio_{key}"] = medians[1] / medians[0]
    figures[f"ratio_{key}_to_decoding"] = medians[2] / medians[0]
    figures[f"ms_{key}"] = medians[0]
    shown = "".join(f"{value:9.2f}" for value in medians)
    print(f"{title:32}{shown}{figures[f'ratio_{key}']:8.2f}", flush=True)


def take_turns(parts: list[Callable[[int], None]], samples: int, length: int) -> list[list[float]]:
    """Time each part once a round; the first round over all samples warms caches up."""
    times: list[list[float]] = [[] for _ in parts]
    for round_number in range(length + samples):
        for part, kept in zip(parts, times, strict=True):
            start = time.perf_counter()
            part(round_number % length)
            if round_number >= length:
                kept.append(time.perf_counter() - start)
    return times


def workers(root: Path, options: dict, figures: dict[str, float]) -> None:
    """Compare two worker processes with one, in turns; watch the memory of three epochs."""
    loaders = []
    for count in (1, 2):
        dataset = VOC(data_dir=str(root), split="trainval", **options)
        loader = BaseDataLoader(dataset, batch_size=16, shuffle=True, num_workers=count)
        loaders.append(loader)
    rates: list[list[float]] = [[], []]
    memory = []
    for epoch in range(4):  # the first one starts the workers
        for loader, kept in zip(loaders, rates, strict=True):
            loader.set_position(epoch)
            start = time.perf_counter()
            images = sum(len(batch.indices) for batch in loader)
            kept.append(images / (time.perf_counter() - start))
        memory.append(resident(loaders[1]))
    one, two = (statistics.median(part[1:]) for part in rates)
    for loader in loaders:
        loader.close()
    figures |= {
        "ratio_two_workers": two / one,
        "images_per_second_one_worker": one,
        "images_per_second_two_workers": two,
        "ratio_memory_flat": memory[1] / memory[3],
        "mib_after_epoch_1": memory[1] / 2**20,
        "mib_after_epoch_3": memory[3] / 2**20,
    }
    print(f"one worker {one:.0f} images/s, two {two:.0f}: {two / one:.2f}")
    print(f"private memory of two workers after each epoch, MiB: {[m >> 20 for m in memory]}")


def resident(loader: BaseDataLoader) -> int:
    """Return the private bytes of a loader's worker processes (Linux)."""
    total = 0
    for process in loader.processes:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Private_"):
                total += int(line.split()[1]) * 1024
    return total


def noise_image(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return noise of several scales, which compresses about as photographs do."""
    image = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((6, 1.0), (24, 0.6), (96, 0.25)):
        grid = rng.random((cells, cells, 3), np.float32)
        image += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    image += rng.normal(0, 0.02, image.shape)
    return (image / image.max() * 255).clip(0, 255).astype(np.uint8)


def labels(height: int, width: int, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Return regions of classes 0..classes-1 with curved borders."""
    field = cv2.resize(
        rng.random((7, 9), np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    return (field.clip(0, 0.999) * classes).astype(np.uint8)


def make_voc(root: Path, count: int) -> Path:
    """Write `count` pairs of 500x375 in VOC's layout; "trainval" repeats them."""
    rng = np.random.default_rng(0)
    home = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (home / folder).mkdir(parents=True)
    names = [f"{number:06d}" for number in range(count)]
    for name in names:
        Image.fromarray(noise_image(375, 500, rng)).save(
            home / f"JPEGImages/{name}.jpg", quality=92
        )
        mask = to_palette_image(labels(375, 500, 21, rng), voc_palette(21))
        mask.save(home / f"SegmentationClass/{name}.png")
    for split, repeats in (("train", 1), ("trainval", 24)):
        text = "\n".join(names * repeats)
        (home / f"ImageSets/Segmentation/{split}.txt").write_text(text, encoding="utf-8")
    return root


def make_cityscapes(root: Path, count: int) -> Path:
    """Write `count` pairs of 2048x1024 in the layout of Cityscapes."""
    rng = np.random.default_rng(0)
    for kind in ("leftImg8bit", "gtFine"):
        (root / kind / "train" / "city").mkdir(parents=True)
    for number in range(count):
        stem = f"city/city_{number:06d}_000019"
        Image.fromarray(noise_image(1024, 2048, rng)).save(
            root / "leftImg8bit" / "train" / f"{stem}_leftImg8bit.png"
        )
        Image.fromarray(labels(1024, 2048, 34, rng)).save(
            root / "gtFine" / "train" / f"{stem}_gtFine_labelIds.png"
        )
    return root


if __name__ == "__main__":
    main()

"""What tools/plan.py makes of a folder, against README's own-data example at equal images seen.

    python benchmarks/plan.py OUT --camvid DIR --aerial DIR      # hours: 10 minutes, three seeds
    python benchmarks/plan.py OUT --minutes 2 --seeds 1          # a first look at generated data

Makes three sets of its own: blobs in 16-bit gray, fields of five bands, cracks of half a per cent.
Each is planned once; then the plan and the example are trained in turns, on the same split of each
seed. A finished run is kept in OUT and not repeated. The table has the best Mean_IoU of each run in
per cent, over whole held-out images; the last line is one JSON object of mean differences.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.results import images_seen
from utils.config.json_text import read_json5
from utils.pages.run_files import read_run

ROOT = Path(__file__).resolve().parents[1]
SPLITS = ("val_split", "val_fold", "group")


def main() -> None:
    """Train what is missing and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, metavar="OUT")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--camvid", type=Path, help="the folder with train, trainannot, ...")
    parser.add_argument("--aerial", type=Path, help="the folder with Tile 1, ...")
    parser.add_argument("--only", nargs="+", default=[], help="of the sets")
    options = parser.parse_args()
    sets = {name: options.output / "data" / name for name in MAKERS}
    for name, root in sets.items():
        make(name, root)
    sets |= {name: one for name in ("camvid", "aerial") if (one := getattr(options, name))}
    rows = {}
    for name in options.only or sets:
        folder = options.output / name
        folder.mkdir(parents=True, exist_ok=True)
        configs = planned(sets[name], folder, options.minutes, options.device)
        scores: dict[str, list[float]] = {who: [] for who in configs}
        for seed in range(options.seeds):
            for who, config in configs.items():
                scores[who].append(score(config, folder / f"{who}-{seed}", seed, options.device))
        rows[name] = scores
    print_table(rows)


def planned(data: Path, folder: Path, minutes: float, device: str) -> dict[str, Path]:
    """Plan, unless that was done, and write the example beside it; the configs of both."""
    plan, example = folder / "plan.json", folder / "example.json"
    if not plan.exists():
        made = folder / "mine.json"
        command = ["tools/plan.py", str(data.absolute()), "--minutes", str(minutes),
                   "--device", device, "-o", str(made.absolute()), "--overwrite"]  # fmt: skip
        run(command, folder / "plan.log")
        plan.write_text(json.dumps(read_json5(made), indent=1))
        found = json.loads(made.with_suffix(".plan.json").read_text())["fingerprint"]
        example.write_text(json.dumps(example_of(read_json5(plan), found), indent=1))
    return {"plan": plan, "example": example}


def example_of(plan: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """README's example: config.json with other loaders; the data and their split are the plan's."""
    config = read_json5(ROOT / "config.json")
    settings = {"batch_size": 8, "crop_size": 256, "augment": True, "flip": True}
    args = plan["train_loader"]["args"]
    kept = {key: args[key] for key in (*found["loaders"]["train_loader"], *SPLITS) if key in args}
    config["train_loader"] = {"type": "Folder", "args": {**kept, **settings}}
    del config["val_loader"], config["$schema"]
    if "val_loader" in plan:
        config["val_loader"] = plan["val_loader"]
    config["trainer"] |= {key: plan["trainer"][key] for key in ("epochs", "val_per_epochs")}
    return {**config, "name": "example", "n_gpu": plan["n_gpu"]}


def run(command: list[str], log: Path) -> None:
    """Run a command of ours; what it says goes to a file."""
    with log.open("w") as file:
        whole = [sys.executable, *command]
        subprocess.run(whole, cwd=ROOT, stdout=file, stderr=file, check=True)  # noqa: S603


def score(config: Path, folder: Path, seed: int, device: str) -> float:
    """Train a config, unless that was done; its best Mean_IoU in per cent."""
    done = folder / "score.json"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        place = json.dumps(str(folder.absolute()))
        settings = [f"seed={seed}", f"trainer.save_dir={place}", "trainer.tensorboard=false"]
        command = ["train.py", "-c", str(config.absolute()), "-d", device, "--set", *settings]
        run(command, folder / "train.log")
        trained = read_run(max(folder.glob("*/*/metrics.jsonl")).parent)
        best = max(row["Mean_IoU"] for row in trained.validations)
        done.write_text(json.dumps({"Mean_IoU": 100 * best, "images": images_seen(trained)}))
    return json.loads(done.read_text())["Mean_IoU"]


def print_table(rows: dict[str, dict[str, list[float]]]) -> None:
    """Print every seed, the means, and their difference."""
    print("| data | planned: each seed | example: each seed | planned | example | difference |")
    print("|---|---|---|---|---|---|")
    differences = {}
    for name, scores in rows.items():
        means = {who: sum(some) / len(some) for who, some in scores.items()}
        differences[name] = round(means["plan"] - means["example"], 2)
        seeds = [", ".join(f"{one:.1f}" for one in some) for some in scores.values()]
        cells = [name, *seeds, *(f"{mean:.1f}" for mean in means.values())]
        print(f"| {' | '.join(cells)} | {differences[name]:+.1f} |")
    print(json.dumps(differences))


def make(name: str, root: Path) -> None:
    """Write a generated set, unless that was done: `images` and `masks` below root."""
    if (root / "made").exists():
        return
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    count = 80
    for number in range(count):
        rng = np.random.default_rng((number, len(name)))
        image, mask = MAKERS[name](rng)
        if image.ndim == 3 and image.shape[2] > 4:
            np.save(root / "images" / f"{number:03}.npy", image)
        else:
            Image.fromarray(image).save(root / "images" / f"{number:03}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number:03}.png")
    (root / "made").touch()


def noise(rng: np.random.Generator, side: int, cell: int) -> np.ndarray:
    """Smooth noise about 0, float32 (side, side), with spots of about `cell` pixels."""
    small = rng.normal(size=(side // cell + 2,) * 2).astype(np.float32)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)


def blobs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cells of two kinds, told apart by their texture, in 16-bit gray of uneven light."""
    side = 288
    image = 6000 + 1500 * noise(rng, side, 96) + 500 * rng.normal(size=(side, side))
    mask = np.zeros((side, side), np.uint8)
    v, u = np.mgrid[:side, :side]
    for _ in range(int(rng.integers(8, 22))):
        (x, y), (a, b) = rng.uniform(0, side, 2), rng.uniform(8, 22, 2)
        turn, kind = rng.uniform(0, np.pi), int(rng.integers(1, 3))
        p, q = (
            (u - x) * np.cos(turn) + (v - y) * np.sin(turn),
            (v - y) * np.cos(turn) - (u - x) * np.sin(turn),
        )
        inside = (p / a) ** 2 + (q / b) ** 2 < 1
        grain = np.sin(p * 1.3) * np.sin(q * 1.3) if kind == 2 else noise(rng, side, 8)
        image[inside] += (1800 + 1200 * grain + 300 * rng.normal())[inside]
        mask[inside] = kind
    return image.clip(0, 65535).astype(np.uint16), mask


def fields(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Fields of four crops by five bands, whose spectra overlap, with void between them."""
    side, count = 256, 14
    centers = rng.uniform(0, side, (count, 2))
    v, u = np.mgrid[:side, :side]
    u, v = u + 6 * noise(rng, side, 32), v + 6 * noise(rng, side, 32)
    far = np.hypot(u[..., None] - centers[:, 0], v[..., None] - centers[:, 1])
    crops = rng.integers(0, 4, count)
    nearest = far.argmin(axis=2)
    two = np.sort(far, axis=2)[..., :2]
    mask = np.where(two[..., 1] - two[..., 0] < 3, 255, crops[nearest]).astype(np.uint8)
    spectra = np.array([(0.1, 0.2, 0.15, 0.5, 0.4), (0.12, 0.22, 0.18, 0.42, 0.45),
                        (0.2, 0.25, 0.3, 0.35, 0.5), (0.15, 0.2, 0.22, 0.45, 0.36)])  # fmt: skip
    own = spectra[crops] * (1 + 0.08 * rng.normal(size=(count, 5)))
    light = (1 + 0.15 * noise(rng, side, 128))[..., None]
    rows = 1 + 0.1 * np.sin(u * (0.5 + 0.3 * crops[nearest]))[..., None]
    image = own[nearest] * light * rows + 0.06 * rng.normal(size=(side, side, 5))
    return image.astype(np.float32), mask


def cracks(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Concrete with a thin crack, half a per cent of the pixels, with joints; 0/255."""
    side = 320
    gray = (
        140
        + 18 * noise(rng, side, 60)
        + 10 * noise(rng, side, 6)
        + 6 * rng.normal(size=(side, side))
    )
    for _ in range(2):  # straight joints
        x, y, x_end, y_end = map(int, rng.integers(0, side, 4))
        gray -= 45 * cv2.line(np.zeros((side, side), np.float32), (x, y), (x_end, y_end), 1.0, 2)
    mask = np.zeros((side, side), np.uint8)
    place, heading = rng.uniform(40, side - 40, 2), rng.uniform(0, 2 * np.pi)
    while (mask > 0).mean() < 0.005:
        heading += rng.normal(0, 0.5)
        step = place + 6 * np.array((np.cos(heading), np.sin(heading)))
        if not (step >= 0).all() or not (step < side).all():
            place, heading = rng.uniform(40, side - 40, 2), rng.uniform(0, 2 * np.pi)
            continue
        x, y, x_end, y_end = map(int, (*place, *step))
        cv2.line(mask, (x, y), (x_end, y_end), 255, int(rng.integers(1, 4)))
        place = step
    gray -= rng.uniform(25, 60) * cv2.GaussianBlur((mask > 0).astype(np.float32), (3, 3), 0)
    tint = 1 + 0.05 * rng.normal(size=3)
    return (gray[..., None] * tint).clip(0, 255).astype(np.uint8), mask


MAKERS = {"blobs": blobs, "fields": fields, "cracks": cracks}

if __name__ == "__main__":
    main()

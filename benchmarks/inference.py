"""Prediction against the usual float32 loop (plain_inference.py), alternated in one run.

    python benchmarks/inference.py                       trains two networks for a minute first
    python benchmarks/inference.py --model best.pth      your own network in every row
    python benchmarks/inference.py --full                more networks

The last line is one JSON object. `ratio_*` above 1: ours is faster. `agreement_*`: share of pixels
with the loop's class; it says something of a network that has learned something, so the share of
pixels that are right stands beside it in the table. `overhead_end_to_end`: a folder from files to
files over the forward passes alone.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(
    0, str(ROOT)
)  # `python benchmarks/...` puts benchmarks/ on the path, not its parent

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks import plain_inference as plain  # noqa: E402
from dataloaders.shapes import Shapes, draw  # noqa: E402
from models import MODELS, model_from_checkpoint  # noqa: E402
from utils.data.normalize import Normalize  # noqa: E402
from utils.files.outputs import find_images  # noqa: E402
from utils.hardware.precision import autocast, resolve_precision  # noqa: E402
from utils.inference.predictor import Settings  # noqa: E402
from utils.inference.segmenter import Segmenter, as_images  # noqa: E402
from utils.losses.table import CrossEntropyLoss2d  # noqa: E402
from utils.run import checkpoint  # noqa: E402

SIZE = (375, 500)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CPU = torch.device("cpu")
ROWS = ("multiscale", "sliding", "folder")


class Row(NamedTuple):
    """One line of the table."""

    name: str
    plain: float  # median seconds
    ours: float
    agreement: float
    right: float | None  # share of pixels with the true class; None: another network's classes
    own: float | None = None  # seconds of the forward passes alone


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a checkpoint for every row")
    parser.add_argument("--rounds", type=int, default=1, help="default: 1; 3 for steadier figures")
    parser.add_argument("--only", choices=ROWS, nargs="+", default=ROWS, help="these rows alone")
    parser.add_argument("--photos", type=int, default=100, help="in the folder; default: 100")
    parser.add_argument("--full", action="store_true", help="more networks")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ", end="")
    print(f"precision auto = {resolve_precision('auto', CPU)}")
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows(options, Path(folder))
    _report(rows)


def _rows(options: argparse.Namespace, folder: Path) -> list[Row]:
    rounds, only = options.rounds, options.only
    content = None if options.model is None else checkpoint.load(options.model)
    own = None if content is None else {**content, "name": content["arch"]}
    rows = []
    if "multiscale" in only or "sliding" in only:
        heavy = own or _trained("PSPNet", {"backbone": "resnet50"}, steps=30, rate=1e-3)
        # The loop's own windows and plain mean: a difference is then one of arithmetic.
        windows = Settings(mode="sliding", flip=True, tile=264, blend="constant")
        if "multiscale" in only:
            rows.append(_image_row(heavy, "multiscale", Settings(), rounds))
        if "sliding" in only:
            rows.append(_image_row(heavy, "sliding", windows, 2 * rounds))
    if "folder" in only:
        light = own or _trained("ENet", {}, steps=350, rate=5e-3)
        rows.append(_folder_row(light, folder, options.photos, 2 * rounds))
    for arch in ("ENet", "UNet", "DeepLab", "UperNet") if options.full else ():
        other = _trained(arch, {}, steps=100, rate=1e-3)
        rows.append(_image_row(other, f"multiscale_{arch}", Settings(), rounds))
    return rows


def _photo(
    height: int, width: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) and its labels, drawn small and enlarged: a photo's objects are large."""
    small, labels, _ = draw(-(-height // 2), -(-width // 2), generator)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return image, cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)


def _trained(arch: str, args: Mapping[str, str], *, steps: int, rate: float) -> dict[str, Any]:
    """A short run on the embedded data: an untrained network's classes are decided by rounding."""
    name = " ".join([arch, *args.values()])
    torch.manual_seed(0)
    model = MODELS[arch](num_classes=len(Shapes.classes), **args, pretrained=False)
    model = model.to(memory_format=torch.channels_last)
    normalize, loss = Normalize(MEAN, STD), CrossEntropyLoss2d(ignore_index=255)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = np.random.default_rng(0)
    started = time.perf_counter()
    for _ in range(steps):
        drawn = [_photo(96, 96, generator) for _ in range(6)]
        images = torch.cat([as_images(image) for image, _ in drawn])
        masks = torch.stack([torch.from_numpy(mask) for _, mask in drawn]).long()
        with autocast(CPU, resolve_precision("auto", CPU)):
            output = model(normalize(images).contiguous(memory_format=torch.channels_last))
        logits = output[0] if isinstance(output, tuple) else output
        value = loss(logits.float(), masks)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    print(
        f"{name}: {steps} steps in {time.perf_counter() - started:.0f} s, loss {value.item():.2f}"
    )
    return {
        "name": name,
        "arch": arch,
        "config": {"arch": {"type": arch, "args": {**args, "pretrained": False}}},
        "state_dict": model.state_dict(),
        "classes": list(Shapes.classes),
        "palette": [list(color) for color in Shapes.palette],
        "mean": list(MEAN),
        "std": list(STD),
        "input_dtype": "uint8",
    }


def _segmenter(content: Mapping[str, Any], settings: Settings) -> Segmenter:
    return Segmenter(
        model_from_checkpoint(content),
        content,
        settings=settings,
        device=CPU,
        precision="auto",
        say=lambda line: print(line, file=sys.stderr),
    )


def _plain_model(content: Mapping[str, Any]) -> nn.Module:
    plain.MEAN = torch.tensor(content["mean"])[:, None, None]
    plain.STD = torch.tensor(content["std"])[:, None, None]
    return model_from_checkpoint(content)


def _image_row(content: Mapping[str, Any], name: str, settings: Settings, rounds: int) -> Row:
    """One image in memory, from pixels to mask."""
    photo, truth = _photo(*SIZE, np.random.default_rng(1))
    model, segmenter = _plain_model(content), _segmenter(content, settings)
    mean, std = plain.MEAN, plain.STD

    @torch.no_grad()
    def loop() -> np.ndarray:
        pixels = torch.from_numpy(photo).permute(2, 0, 1).float()
        image = ((pixels / 255 - mean) / std)[None]
        if settings.mode == "sliding":
            logits = plain.sliding(model, image, (settings.tile, settings.tile), flip=settings.flip)
        else:
            logits = plain.multiscale(model, image, flip=settings.flip)
        return logits.argmax(1)[0].byte().numpy()

    times, answers = alternate(
        {"plain": loop, "ours": lambda: segmenter.segment(photo).mask}, rounds
    )
    agreement = float((answers["plain"] == answers["ours"]).mean())
    title = f"{name}: {content['name']}, {SIZE[1]}x{SIZE[0]}"
    right = _right(content, answers["ours"], truth)
    return Row(title, times["plain"], times["ours"], agreement, right)


def _right(content: Mapping[str, Any], masks: np.ndarray, truth: np.ndarray) -> float | None:
    same_classes = list(content["classes"]) == list(Shapes.classes)
    return float((masks == truth).mean()) if same_classes else None


def _folder_row(content: Mapping[str, Any], folder: Path, count: int, rounds: int) -> Row:
    """A folder of photos, from JPEG files to palette PNG files."""
    photos = folder / "photos"
    photos.mkdir()
    generator = np.random.default_rng(2)
    drawn = [_photo(*SIZE, generator) for _ in range(count)]
    images = [image for image, _ in drawn]
    for number, image in enumerate(images):
        Image.fromarray(image).save(photos / f"{number:03d}.jpg", quality=92)
    model, segmenter = _plain_model(content), _segmenter(content, Settings(mode="whole"))
    palette = [value for color in content["palette"] for value in color]

    def loop() -> None:
        plain.segment_folder(model, photos, folder / "plain", palette, _whole)

    def ours() -> None:
        output = folder / "ours"
        jobs, _ = find_images([photos], extensions=["jpg"], recursive=False, output=output)
        assert all(error is None for _, error in segmenter.run(jobs))

    def own() -> None:
        with torch.inference_mode():
            for image in images:
                segmenter.predictor.model(as_images(image))

    times, _ = alternate({"plain": loop, "ours": ours, "own": own}, rounds)
    plain_masks, masks = (_masks(folder / kind, count) for kind in ("plain", "ours"))
    agreement = float((plain_masks == masks).mean())
    right = _right(content, masks, np.stack([truth for _, truth in drawn]))
    title = f"folder: {content['name']}, {count} photos of {SIZE[1]}x{SIZE[0]}"
    return Row(title, times["plain"], times["ours"], agreement, right, times["own"])


def _masks(folder: Path, count: int) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / f"{one:03d}.png")) for one in range(count)])


def _whole(model: plain.Model, image: Tensor) -> Tensor:
    return model(image)


def alternate(
    work: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Run all in turn, so that what disturbs one disturbs the others; medians and last answers."""
    times: dict[str, list[float]] = {name: [] for name in work}
    answers = {}
    for number in range(rounds):
        order: Sequence[str] = list(work) if number % 2 == 0 else list(work)[::-1]
        for name in order:
            started = time.perf_counter()
            answers[name] = work[name]()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}, answers


def _report(rows: Sequence[Row]) -> None:
    figures = {}
    print(f"\n{'':44}  {'plain':>8}  {'ours':>8}  {'ratio':>6}  {'agree':>8}  {'right':>6}")
    for row in rows:
        ratio = row.plain / row.ours
        times = f"{row.plain:7.2f}s  {row.ours:7.2f}s  {ratio:5.2f}x"
        right = "" if row.right is None else f"{row.right:6.1%}"
        print(f"{row.name:44}  {times}  {row.agreement:8.3%}  {right}")
        key = row.name.split(":")[0]
        figures[f"ratio_{key}"] = round(ratio, 3)
        figures[f"agreement_{key}"] = round(row.agreement, 5)
        if row.own is not None:
            figures["overhead_end_to_end"] = round(row.ours / row.own, 3)
            print(f"{'':44}  files to files: {row.ours / row.own:.2f}x the model's own time")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""The rows that gpu.py prints: how each of them is measured.

Each is a function that returns figures by name; gpu.py orders, times and prints them.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from assembly import assemble
from base.base_data_loader import Batch
from benchmarks import step
from measuring import MeasuredTrainer
from models import MODELS
from trainer import Trainer
from utils.config.config import parse_config
from utils.drawing.palette import voc_palette
from utils.evaluation.report_images import draw
from utils.evaluation.scoring import Evaluator
from utils.hardware.devices import kernel_search
from utils.hardware.memory import peak_memory, ran_out
from utils.hardware.precision import full_fp32, resolve_precision
from utils.hardware.prefetch import on_device
from utils.hardware.workers import usable_cores
from utils.inference.predictor import Mode, Settings
from utils.inference.segmenter import Segmenter


class Net(NamedTuple):
    """A network of ours, its images, and smp's counterpart."""

    name: str
    encoder: str | None = None
    size: tuple[int, int] = (512, 512)
    batch: int = 16
    smp: str | None = None

    @property
    def title(self) -> str:
        """The name of its row, and of its figures."""
        return f"{self.name}_{self.size[1]}x{self.size[0]}_b{self.batch}".lower()

    @property
    def arch(self) -> step.Arch:
        """What a config says of it."""
        if self.encoder is None:
            return self.name, {}
        return self.name, {"backbone": self.encoder, "pretrained": False}


@dataclass(frozen=True)
class Run:
    """Where and how to measure, and the figures so far."""

    device: torch.device
    quick: bool
    folder: str
    figures: dict[str, float | str]

    def clock(self) -> float:
        """Seconds, when the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def note(self, key: str, value: float) -> float:
        """Keep a figure for the last line."""
        self.figures[key] = round(value, 3)
        return value

    def say(self, key: str, value: float, text: str) -> None:
        """Keep a figure and print it."""
        print(f"{text}: {self.note(key, value):.3g}", flush=True)


def trainer_of(net: Net, run: Run, **trainer: object) -> tuple[Trainer, Batch]:
    """The trainer and a batch that lies on its device."""
    height, width = net.size
    data = {"height": height, "width": width, "length": net.batch, "batch_size": net.batch}
    built = step.build_trainer(net.arch, run.folder, device=run.device, data=data, **trainer)
    (batch,) = on_device(built.parts.train_loader, run.device)
    return built, batch


def peak_rate(run: Run) -> float:
    """Operations a second of a matrix product in the format of "auto"."""
    side = 8192 if run.device.type == "cuda" else 512
    bf16 = resolve_precision("auto", run.device) == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    one = torch.randn(side, side, device=run.device, dtype=dtype)
    times = []
    for _ in range(10):
        started = run.clock()
        one @ one
        times.append(run.clock() - started)
    return 2 * side**3 / min(times)


@kernel_search(one_size=True)
def train(net: Net, run: Run, peak: float) -> None:
    """Print a row of the table of training."""
    trainer, batch = trainer_of(net, run)
    with FlopCounterMode(display=False) as counter:
        trainer.train_iteration([batch])
    if run.device.type == "cuda":  # without what cuDNN tried in the first iteration
        torch.cuda.reset_peak_memory_stats(run.device)
    trainer.train_iteration([batch])
    memory = run.note(f"{net.title}_peak_gb", peak_memory(run.device) / 1e9)
    steps = step.contestants(net.arch, trainer, batch)
    if net.smp and importlib.util.find_spec("segmentation_models_pytorch"):
        import segmentation_models_pytorch as smp

        build = partial(getattr(smp, net.smp), net.encoder, encoder_weights=None)
        images = trainer.normalize(batch.images)
        theirs = step.loops(partial(build, classes=step.CLASSES), images, batch.masks.long())
        steps |= {f"smp {name}": one for name, one in theirs.items()}
    steps = {name: one for name, one in steps.items() if fits(one)}
    times = step.take_turns(steps, 1 if run.quick else 10, run.clock)
    speeds = {name: net.batch / statistics.median(times[name]) for name in steps}
    for name, speed in speeds.items():
        run.note(f"{net.title}_{name.replace(' ', '_')}", speed)
    flops = counter.get_total_flops() / net.batch
    share = run.note(f"{net.title}_share", speeds.get("ours", 0.0) * flops / peak)
    names = ("ours", "bare", "plain", "smp bare", "smp plain")
    cells = [f"{speeds[name]:.1f}" if name in speeds else "" for name in names]
    print(f"| {net.title} | {' | '.join(cells)} | {share:.0%} | {memory:.1f} |", flush=True)


def fits(one: Callable[[], None]) -> bool:
    """Whether a step runs within the device's memory."""
    try:
        one()
    except RuntimeError as error:
        if not ran_out(error):
            raise
        return False
    return True


def infer(net: Net, run: Run, mode: Mode) -> None:
    """Print how fast an image in memory is segmented."""
    side = 96 if run.quick else 1024
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    segmenter = segmenter_of(net, run, Settings(mode=mode, tile=net.size[0]))
    times = []
    for _ in range(2 if run.quick else 12):
        started = run.clock()
        segmenter.segment(image)
        times.append(run.clock() - started)
    speed = 1 / statistics.median(times[1:])
    text = f"{net.name}, inference {mode}, {side} x {side}, images/s"
    run.say(f"inference_{mode}", speed, text)


def segmenter_of(net: Net, run: Run, settings: Settings, precision: str = "auto") -> Segmenter:
    """Ours for inference, with random weights."""
    facts: Mapping[str, Any] = {
        "classes": step.Noise.classes,
        "palette": step.Noise.palette,
        "mean": step.Noise.mean,
        "std": step.Noise.std,
    }
    name, args = net.arch
    return Segmenter(
        MODELS[name](step.CLASSES, **args),
        facts,
        settings=settings,
        device=run.device,
        precision=precision,
        say=print,
    )


class Sizes(step.Noise):
    """Images of as many sizes as there are images, about those of VOC."""

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an image and its mask."""
        size = (self.height - 3 * index % 160, self.width - 7 * index % 200)
        return step.Noise(height=size[0], width=size[1]).load(index)


def evaluate(net: Net, run: Run) -> None:
    """Print how fast images of native sizes are scored, in float32 as evaluate.py does it."""
    count = 3 if run.quick else 100
    data = Sizes(height=375, width=500, length=count)
    segmenter = segmenter_of(net, run, Settings(mode="whole"), "fp32")
    draws = partial(draw, palette=voc_palette(step.CLASSES), ignore_index=step.VOID)
    evaluator = Evaluator(data, lambda image: segmenter.segment(image).mask, draw=draws)
    started = run.clock()
    with full_fp32():
        evaluator.run()
    speed = count / (run.clock() - started)
    run.say("evaluation", speed, f"{net.name}, evaluation of {count} native sizes, images/s")


def load(net: Net, run: Run) -> None:
    """Print the share of a training's time that waits for files, augmented by workers."""
    workers = 1 if run.quick else usable_cores()
    root = Path(run.folder) / "data"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(4 * net.batch):
        image, mask = step.Noise(height=375, width=500).load(index)
        smooth = cv2.resize(cv2.resize(image, (50, 38)), (500, 375))  # noise is no photo
        cv2.imwrite(str(root / "images" / f"{index}.jpg"), smooth)
        cv2.imwrite(str(root / "masks" / f"{index}.png"), mask)
    switches = dict.fromkeys(("augment", "flip", "rotate", "shuffle"), True)
    crop = {"base_size": net.size[0], "crop_size": net.size[0]}
    source = {"data_dir": str(root), "classes": list(step.Noise.classes)}
    batches = {"batch_size": net.batch, "num_workers": workers}
    config = {
        "name": "files",
        "arch": dict(zip(("type", "args"), net.arch, strict=True)),
        "train_loader": {"type": "Folder", "args": {**source, **crop, **batches, **switches}},
        "trainer": {"val": False, "save_dir": run.folder},
    }
    trainer = assemble(parse_config(config), None, device=run.device, kind=MeasuredTrainer)
    seconds, images = trainer.measure(2 if run.quick else 40)
    whole = sum(seconds.values())
    run.say("files", images / whole, f"{net.name}, from files by {workers} workers, images/s")
    run.say("files_waiting", seconds["data"] / whole, "  share of the time that waits for data")


@kernel_search(one_size=True)
def compiled(net: Net, run: Run) -> None:
    """Print what torch.compile makes of ours, and how long it takes."""
    torch.compiler.reset()
    trainer, batch = trainer_of(net, run, compile=True)
    started = run.clock()
    trainer.train_iteration([batch])
    seconds = run.note(f"{net.title}_compiling_s", run.clock() - started)
    times = step.take_turns({"ours": partial(trainer.train_iteration, [batch])}, 10, run.clock)
    speed = net.batch / statistics.median(times["ours"])
    text = f"{net.title}, compiled in {seconds:.0f} s, images/s"
    run.say(f"{net.title}_compiled", speed, text)


if __name__ == "__main__":  # gpu.py runs them
    print(__doc__)

"""A training step: the trainer against a plain loop in fp32, and against a bare one in its format.

    python benchmarks/step.py                       # four networks; a few minutes
    python benchmarks/step.py --models ENet --rounds 40
    python benchmarks/step.py --frozen              # also: what freeze_backbone saves on PSPNet
    OMP_NUM_THREADS=1 python benchmarks/step.py --cpu-time      # on a machine that others use too

`plain`: the same network in fp32 and torch's default layout, torch's cross-entropy, no metrics.
`bare`: the same in the trainer's precision, layout and optimizer. `ours`: the trainer's step with
everything that it does (uint8 images normalized on the device, confusion counts, gradient norm,
guard against values that are not finite). The three take turns, in a new order each round; figures
are medians of the rounds' own quotients. The last line is one JSON object: `ratio_*` above 1 = ours
is faster than plain, `overhead_*` is ours / bare - 1.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assembly import assemble
from base.base_data_loader import Batch
from base.base_dataset import BaseDataset
from dataloaders import DATASETS
from models import MODELS
from trainer import Trainer
from utils.config.config import parse_config
from utils.drawing.palette import voc_palette
from utils.hardware.precision import autocast, resolve_precision

SIZE, BATCH, CLASSES, VOID = 256, 2, 21, 255
WARM_UP = 2
ARGS: Mapping[str, Mapping[str, object]] = {
    "PSPNet": {"backbone": "resnet50", "pretrained": False},
    "UNet": {},
    "ENet": {},
    "DeepLab": {"backbone": "tf_efficientnet_lite0", "separable": True, "pretrained": False},
}
CPU = torch.device("cpu")
Arch = tuple[str, Mapping[str, Any]]
Clock = Callable[[], float]


@dataclass(kw_only=True, eq=False, repr=False)
class Noise(BaseDataset):
    """Random images with the classes of VOC; a tenth of the pixels is void."""

    height: int = SIZE
    width: int = SIZE
    length: int = BATCH

    classes: ClassVar[tuple[str, ...]] = tuple(map(str, range(CLASSES)))
    palette: ClassVar[tuple[tuple[int, int, int], ...]] = tuple(voc_palette(CLASSES))
    mean: ClassVar[tuple[float, ...]] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...]] = (0.229, 0.224, 0.225)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.length

    def name(self, index: int) -> str:
        """Return an image's name."""
        return f"noise-{index}"

    def size(self, index: int) -> tuple[int, int]:  # noqa: ARG002 (one for all)
        """Return (height, width)."""
        return self.height, self.width

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a random image and mask."""
        rng = np.random.default_rng(index)
        height, width = self.height, self.width
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        mask = rng.integers(0, CLASSES, (-(-height // 16), -(-width // 16)), np.uint8)
        mask = mask.repeat(16, 0).repeat(16, 1)[:height, :width]
        mask[: height // 10] = VOID
        return image, mask


def build_trainer(
    arch: Arch,
    folder: str,
    *,
    device: torch.device = CPU,
    data: Mapping[str, object] = MappingProxyType({}),
    **trainer: object,
) -> Trainer:
    """The trainer of train.py, with everything else at its default.

    Args:
        arch: A network's name and arguments.
        folder: For what it writes.
        device: Where it trains.
        data: Arguments of `Noise` and its loader.
        trainer: Keys of the config's `trainer`.
    """
    config = {
        "name": "step",
        "arch": {"type": arch[0], "args": dict(arch[1])},
        "train_loader": {
            "type": "Noise",
            "args": {"batch_size": BATCH, "num_workers": 0, **data},
        },
        "trainer": {"val": False, "save_dir": folder, "epochs": 1000, **trainer},
    }
    built = assemble(parse_config(config), None, device=device)
    built.parts.network.train()
    return built


def plain_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    masks: Tensor,
    precision: str,
) -> None:
    """What everybody writes: forward, loss, backward, update."""
    optimizer.zero_grad(set_to_none=True)
    with autocast(images.device, precision):
        output = model(images)
        outputs = output if isinstance(output, tuple) else (output,)
        loss = F.cross_entropy(outputs[0], masks, ignore_index=VOID)
        for auxiliary in outputs[1:]:
            loss = loss + 0.4 * F.cross_entropy(auxiliary, masks, ignore_index=VOID)
    loss.backward()
    optimizer.step()


def loops(
    build: Callable[[], nn.Module], images: Tensor, masks: Tensor
) -> dict[str, Callable[[], None]]:
    """A step of a network in a plain loop, and in a bare one in this device's best format."""
    steps: dict[str, Callable[[], None]] = {}
    for contestant, precision, layout, fused in (
        ("plain", "fp32", torch.contiguous_format, False),
        ("bare", resolve_precision("auto", images.device), torch.channels_last, True),
    ):
        model = build().train().to(images.device).to(memory_format=layout)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=fused
        )
        own = images.contiguous(memory_format=layout)
        steps[contestant] = lambda model=model, optimizer=optimizer, own=own, precision=precision: (
            plain_step(model, optimizer, own, masks, precision)
        )
    return steps


def contestants(arch: Arch, trainer: Trainer, batch: Batch) -> dict[str, Callable[[], None]]:
    """One step each, by name; the batch is on the trainer's device."""
    images, masks = trainer.normalize(batch.images), batch.masks.long()
    steps = loops(lambda: MODELS[arch[0]](CLASSES, **arch[1]), images, masks)
    return {"ours": lambda: trainer.train_iteration([batch]), **steps}


def take_turns(
    steps: Mapping[str, Callable[[], None]], rounds: int, clock: Clock
) -> dict[str, list[float]]:
    """Seconds of each contestant's step in each round, after some that warm up."""
    order, times = list(steps), {name: [] for name in steps}
    shuffled = random.Random(0)  # noqa: S311 (an order, no secret)
    for number in range(-WARM_UP, rounds):
        shuffled.shuffle(order)
        for name in order:
            started = clock()
            steps[name]()
            if number >= 0:
                times[name].append(clock() - started)
    return times


def quotient(times: Mapping[str, list[float]], one: str, other: str) -> float:
    """The median over the rounds of one's time by the other's."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def measure(name: str, rounds: int, folder: str, clock: Clock) -> dict[str, float]:
    """Print a model's line of the table; return its figures."""
    arch = name, ARGS[name]
    trainer = build_trainer(arch, folder)
    (batch,) = trainer.parts.train_loader
    times = take_turns(contestants(arch, trainer, batch), rounds, clock)
    ratio, overhead = quotient(times, "plain", "ours"), quotient(times, "ours", "bare") - 1
    milliseconds = [f"{1000 * statistics.median(times[key]):9.0f}" for key in times]
    print(f"{name:<8}{''.join(milliseconds)}{ratio:9.2f}{overhead:10.1%}", flush=True)
    return {f"ratio_{name.lower()}": ratio, f"overhead_{name.lower()}": overhead}


def measure_frozen(rounds: int, folder: str, clock: Clock) -> dict[str, float]:
    """Print what freezing PSPNet's backbone saves."""
    steps = {}
    for frozen in (False, True):
        args = {**ARGS["PSPNet"], "freeze_backbone": frozen}
        trainer = build_trainer(("PSPNet", args), folder)
        (batch,) = trainer.parts.train_loader
        steps[str(frozen)] = lambda trainer=trainer, batch=batch: trainer.train_iteration([batch])
    ratio = quotient(take_turns(steps, rounds, clock), "False", "True")
    print(f"PSPNet with a frozen backbone: {ratio:.2f} x as fast as without")
    return {"ratio_frozen_backbone": ratio}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=list(ARGS), default=list(ARGS))
    parser.add_argument("--rounds", type=int, default=10, help="ENet gets five times as many")
    parser.add_argument("--frozen", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="of this process, not the wall's")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    DATASETS["Noise"] = Noise
    precision = resolve_precision("auto", CPU)
    print(f"{SIZE}x{SIZE}, batch {BATCH}, {torch.get_num_threads()} threads, ours in {precision}")
    print(f"{'':<8}{'ours ms':>9}{'plain ms':>9}{'bare ms':>9}{'ratio':>9}{'overhead':>10}")
    figures: dict[str, float | str] = {"precision": precision}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            rounds = args.rounds * (5 if name == "ENet" else 1)
            figures |= measure(name, rounds, folder, clock)
        if args.frozen:
            figures |= measure_frozen(args.rounds, folder, clock)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

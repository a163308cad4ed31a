"""What the networks cost: two beside segmentation_models.pytorch's, and all of them.

    python benchmarks/models.py                      # the two: minutes on two cores
    python benchmarks/models.py --all                # all others too, each at its defaults
    python benchmarks/models.py --device cuda --size 512 --batch 8

Both sides have the same ResNet-50 from timm's and torchvision's layout, random weights, float32
and the default memory layout, and take turns within each round; times are medians. As decoders
differ in size, time is compared per multiply-add. Our DeepLab is built with factored convolutions,
as theirs is, and our UperNet without its auxiliary head, which theirs has not. Memory is the peak
of a training step above the empty process (on CUDA: of the allocator), each in its own process.
The last line is one JSON object; `ratio_*` above 1 = ours is better.

Needs: pip install segmentation-models-pytorch
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import MODELS

CLASSES = 19
PAIRED = ("DeepLab", "UperNet")


class Run(NamedTuple):
    """How to measure."""

    device: str
    size: int
    batch: int
    rounds: int


class Contestant:
    """A network with what one step of its training needs."""

    def __init__(self, model: nn.Module, run: Run) -> None:
        self.device = run.device
        self.model = model.to(run.device)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        generator = torch.Generator().manual_seed(0)
        shape = (run.batch, 3, run.size, run.size)
        self.images = torch.randn(shape, generator=generator).to(run.device)
        masks = torch.randint(0, CLASSES, (run.batch, *shape[2:]), generator=generator)
        self.masks = masks.to(run.device)
        self.multiply_adds = run.batch * _multiply_adds(self.model, self.images[:1])
        self.forward_times: list[float] = []
        self.step_times: list[float] = []

    def forward(self) -> None:
        """Predict one batch."""
        self.model.eval()
        with torch.no_grad():
            self.model(self.images)

    def step(self) -> None:
        """Train on one batch."""
        self.model.train()
        self.optimizer.zero_grad()
        output = self.model(self.images)
        outputs: tuple[Tensor, ...] = output if isinstance(output, tuple) else (output,)
        torch.stack([F.cross_entropy(logits, self.masks) for logits in outputs]).sum().backward()
        self.optimizer.step()

    def measure(self) -> None:
        """Time one forward pass and one step."""
        self.forward_times.append(self._seconds(self.forward))
        self.step_times.append(self._seconds(self.step))

    def _seconds(self, work: Callable[[], None]) -> float:
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _multiply_adds(model: nn.Module, image: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(image)
    return counter.get_total_flops() // 2


def build(name: str) -> nn.Module:
    """Build `ours:NAME`, `smp:NAME`, or a network of ours at its defaults by its plain name."""
    torch.manual_seed(0)
    side, _, network = name.rpartition(":")
    if side == "smp":
        import segmentation_models_pytorch as smp

        kind = {"DeepLab": smp.DeepLabV3Plus, "UperNet": smp.UPerNet}[network]
        return kind("resnet50", encoder_weights=None, classes=CLASSES)
    if side == "ours":
        option = {"DeepLab": "separable", "UperNet": "use_aux"}[network]
        arguments = {"backbone": "resnet50", option: network == "DeepLab", "pretrained": False}
        return MODELS[network](CLASSES, **arguments)
    return MODELS[network](CLASSES, pretrained=False)


def compare(network: str, run: Run) -> dict[str, float]:
    """Time ours and theirs in turn, print a row for each, return the ratios."""
    sides = {side: Contestant(build(f"{side}:{network}"), run) for side in ("ours", "smp")}
    for contestant in sides.values():  # warm up
        contestant.step()
    for _ in range(run.rounds):
        for contestant in sides.values():
            contestant.measure()
    memory = {side: peak_memory(f"{side}:{network}", run) for side in sides}
    for side, contestant in sides.items():
        print(row(f"{side} {network}", contestant, memory[side]), flush=True)
    ours, theirs = sides["ours"], sides["smp"]
    adds = theirs.multiply_adds / ours.multiply_adds  # seconds per multiply-add, theirs by ours
    key = network.lower()
    return {
        f"ratio_{key}_forward": _ratio(theirs.forward_times, ours.forward_times) / adds,
        f"ratio_{key}_step": _ratio(theirs.step_times, ours.step_times) / adds,
        f"ratio_{key}_memory": memory["smp"] / memory["ours"],
    }


def _ratio(theirs: list[float], ours: list[float]) -> float:
    return statistics.median(theirs) / statistics.median(ours)


def row(name: str, contestant: Contestant, memory: float) -> str:
    """Return one row of the table."""
    forward, step = map(statistics.median, (contestant.forward_times, contestant.step_times))
    adds = contestant.multiply_adds / 1e9
    return (
        f"| {name:20} | {adds:7.1f} | {1e3 * forward:8.0f} | {adds / forward:7.1f} | "
        f"{1e3 * step:8.0f} | {memory:7.0f} |"
    )


def peak_memory(name: str, run: Run) -> float:
    """Return the peak of two training steps in MB, measured in a process of its own."""
    command = [sys.executable, __file__, "--memory", name, "--device", run.device]
    command += ["--size", str(run.size), "--batch", str(run.batch)]
    # glibc then gives back what is freed, so that the process is as large as its live tensors.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
    done = subprocess.run(  # noqa: S603
        command, check=True, capture_output=True, text=True, env=environment
    )
    return float(done.stdout.splitlines()[-1])


def _own_peak(name: str, run: Run) -> float:
    with torch.device("meta"):
        build(name)  # imports all that building needs
    base = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    contestant = Contestant(build(name), run)
    for _ in range(2):
        contestant.step()
    if run.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    # Not ru_maxrss: a process that was started inherits the peak of the one that started it.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return (int(peak) * 1024 - base) / 1e6


def main() -> None:
    """Run the comparison and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", type=int, default=256, help="of the images, default: 256")
    parser.add_argument("--batch", type=int, default=2, help="default: 2")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison, default: 5")
    parser.add_argument("--all", action="store_true", help="all others too")
    parser.add_argument("--memory", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    run = Run(options.device, options.size, options.batch, options.rounds)
    if options.memory:
        print(_own_peak(options.memory, run))
        return
    print(
        f"{run.batch} images of {run.size} x {run.size}, {CLASSES} classes, {run.device}, "
        f"{torch.get_num_threads()} threads, float32"
    )
    print("| network              |   G MAC | fwd, ms  | G MAC/s | step, ms | peak, MB |")
    print("|---|---|---|---|---|---|")
    figures: dict[str, float] = {}
    for network in PAIRED:
        figures |= compare(network, run)
    for network in [n for n in MODELS if n not in PAIRED] if options.all else ():
        contestant = Contestant(build(network), run)
        for _ in range(2):  # the first one warms up
            contestant.measure()
        contestant.forward_times = contestant.forward_times[1:]
        contestant.step_times = contestant.step_times[1:]
        print(row(network, contestant, peak_memory(network, run)), flush=True)
        figures[f"step_ms_{network}"] = 1e3 * contestant.step_times[0]
    print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


if __name__ == "__main__":
    main()

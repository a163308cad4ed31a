"""What the losses cost: Lovasz against one sort a class, the others against torch's own.

    python benchmarks/losses.py                    # about a minute on one core
    python benchmarks/losses.py --device cuda

Contestants alternate within each round; times are medians of forward plus backward. Memory is
the peak above the inputs: of the process on a CPU (each contestant in a process of its own), of
the allocator on CUDA. The last line is one JSON object; `ratio_*` above 1 = ours is better,
`cost_*` is a multiple of `torch.nn.functional.cross_entropy`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.losses.table import LOSSES

BATCH, CLASSES, SIZE, VOID = 4, 21, 256, 255
Loss = Callable[[Tensor, Tensor], Tensor]


def loop_over_classes(logits: Tensor, target: Tensor) -> Tensor:
    """Lovasz-softmax as algorithm 1 of its paper says it: a class after the other.

    Void pixels are taken out and absent classes passed over, as implementations of this kind
    do; both make the host wait for the device.
    """
    probabilities = logits.softmax(1).transpose(0, 1).flatten(1)
    labels = target.flatten()
    valid = labels != VOID
    probabilities, labels = probabilities[:, valid], labels[valid]
    losses = []
    for number in range(len(probabilities)):
        truth = (labels == number).float()
        if truth.sum() == 0:
            continue
        errors = (truth - probabilities[number]).abs()
        errors_sorted, order = errors.sort(descending=True)
        truth = truth[order]
        intersection = truth.sum() - truth.cumsum(0)
        union = truth.sum() + (1 - truth).cumsum(0)
        jaccard = 1 - intersection / union
        jaccard[1:] = jaccard[1:] - jaccard[:-1]
        losses.append(torch.dot(errors_sorted, jaccard))
    return torch.stack(losses).mean()


def contestants() -> dict[str, Loss]:
    """Every loss by name; `torch` is the yardstick of all but Lovasz."""
    ours = {name: factory() for name, factory in LOSSES.items() if name != "Sum"}
    entropy = LOSSES["CrossEntropyLoss2d"]
    return {
        "torch": partial(F.cross_entropy, ignore_index=VOID),
        "loop": loop_over_classes,
        **ours,
        "label_smoothing": entropy(label_smoothing=0.1),
        "ohem": entropy(ohem_threshold=0.7),
    }


def inputs(present: int, device: str) -> tuple[Tensor, Tensor]:
    """Logits and a target of which `present` classes and a strip of void occur."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(BATCH, CLASSES, SIZE, SIZE, generator=random) * 2
    target = torch.randint(0, present, (BATCH, SIZE, SIZE), generator=random)
    target[:, : SIZE // 16] = VOID
    return logits.to(device).requires_grad_(), target.to(device)


def run_once(loss: Loss, logits: Tensor, target: Tensor) -> float:
    """Seconds of one forward and backward."""
    logits.grad = None
    begin = time.perf_counter()
    loss(logits, target).backward()
    if logits.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def medians(losses: Mapping[str, Loss], present: int, device: str, rounds: int) -> dict[str, float]:
    """Median seconds of each loss; all take their turn in every round."""
    logits, target = inputs(present, device)
    times: dict[str, list[float]] = {name: [] for name in losses}
    for number in range(rounds + 1):
        for name, loss in losses.items():
            seconds = run_once(loss, logits, target)
            if number:  # the first round warms up
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(name: str, device: str) -> float:
    """MiB above the inputs and their gradient, in a process of its own."""
    command = [sys.executable, __file__, "--peak-of", name, "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return float(done.stdout)


def print_peak(name: str, device: str) -> None:
    """The child's part of `peak_memory`."""
    torch.set_num_threads(1)
    loss, (logits, target) = contestants()[name], inputs(CLASSES, device)
    # The yardstick first and small: libraries and thread stacks are not the loss's memory.
    run_once(loss, logits[:, :, :8, :8].detach().requires_grad_(), target[:, :8, :8] % CLASSES)
    logits.grad = torch.zeros_like(logits)
    if logits.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run_once(loss, logits, target)
        print((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak counts from here
    before = kibibytes("VmRSS")
    run_once(loss, logits, target)
    print((kibibytes("VmHWM") - before) / 2**10)


def kibibytes(field: str) -> int:
    """A line of what Linux says about this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    """Run all comparisons and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        print_peak(arguments.peak_of, arguments.device)
        return
    torch.set_num_threads(1)
    losses = contestants()
    pair = {name: losses[name] for name in ("loop", "LovaszSoftmax")}
    many = medians(pair, CLASSES, arguments.device, arguments.rounds)
    few = medians(pair, 4, arguments.device, arguments.rounds)
    rest = {name: loss for name, loss in losses.items() if name != "loop"}
    times = medians(rest, CLASSES, arguments.device, arguments.rounds)
    memory = {name: peak_memory(name, arguments.device) for name in losses}
    print(
        f"{BATCH}x{CLASSES}x{SIZE}x{SIZE}, {arguments.device}, one thread, "
        f"torch {torch.__version__}"
    )
    print(f"{'loss':20} {'ms':>8} {'x torch':>8} {'MiB':>8}")
    for name, seconds in times.items():
        cost = seconds / times["torch"]
        print(f"{name:20} {1e3 * seconds:8.1f} {cost:8.2f} {memory[name]:8.0f}")
    for label, pairs in (("21 classes", many), ("4 classes", few)):
        line = f"Lovasz, {label} present: ours {1e3 * pairs['LovaszSoftmax']:.0f} ms"
        print(f"{line}, a sort a class {1e3 * pairs['loop']:.0f} ms")
    print(f"Lovasz, memory: ours {memory['LovaszSoftmax']:.0f} MiB, loop {memory['loop']:.0f} MiB")
    figures = {
        "ratio_lovasz_21_present": many["loop"] / many["LovaszSoftmax"],
        "ratio_lovasz_4_present": few["loop"] / few["LovaszSoftmax"],
        "ratio_lovasz_memory": memory["loop"] / memory["LovaszSoftmax"],
        **{f"cost_{name}": times[name] / times["torch"] for name in times if name != "torch"},
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()

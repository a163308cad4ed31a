"""Number formats on a CPU: a training step in bf16 against one in fp32, encoder by encoder.

    python benchmarks/precision.py                          # minutes on two cores
    python benchmarks/precision.py --encoders vgg16_bn vit_small_patch16_224 --rounds 20

Both are the trainer's own step, in channels-last memory; they take turns, in a new order each
round, and figures are medians of the rounds' own quotients. `auto` is what `trainer.precision`
"auto" chooses for the encoder on this machine. The last line is one JSON object: `ratio_*` is how
many times as fast as fp32 "auto" is.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import step
from dataloaders import DATASETS
from utils.hardware.host_memory import keep_freed_memory

# A network for each kind of encoder.
ENCODERS: Mapping[str, str] = {
    "resnet50": "PSPNet",
    "vgg16_bn": "SegNet",
    "mobilenetv2_100": "UNetResnet",
    "mobilenetv3_large_100": "UNetResnet",
    "mobilenetv4_conv_small": "UNetResnet",
    "efficientnet_b0": "UNetResnet",
    "tf_efficientnet_lite0": "DeepLab",
    "convnext_tiny": "UperNet",
    "densenet121": "PSPDenseNet",
    "vit_small_patch16_224": "Linear",
}


def measure(encoder: str, rounds: int, clock: step.Clock, folder: str) -> float:
    """Print an encoder's line of the table; return how many times as fast as fp32 "auto" is."""
    network = ENCODERS[encoder]
    options = {"separable": True} if network == "DeepLab" else {}
    arch = network, {"backbone": encoder, "pretrained": False, **options}
    steps = {}
    for precision in ("fp32", "bf16"):
        trainer = step.build_trainer(arch, folder, precision=precision)
        (batch,) = trainer.parts.train_loader
        steps[precision] = lambda trainer=trainer, batch=batch: trainer.train_iteration([batch])
    times = step.take_turns(steps, rounds, clock)
    auto = step.build_trainer(arch, folder).options.precision
    ratio = step.quotient(times, "fp32", auto)
    milliseconds = [f"{1000 * statistics.median(times[name]):.0f}" for name in ("fp32", "bf16")]
    row = [f"{network}, {encoder}", *milliseconds, auto, f"{ratio:.2f}"]
    print(f"| {' | '.join(row)} |", flush=True)
    return ratio


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoders", nargs="+", choices=list(ENCODERS), default=list(ENCODERS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu-time", action="store_true", help="of this process, not the wall's")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    DATASETS["Noise"] = step.Noise
    keep_freed_memory()  # as train.py does
    print(f"{step.BATCH} images of {step.SIZE} x {step.SIZE}, {torch.get_num_threads()} threads")
    print(f"| network | fp32, ms | bf16, ms | auto | times as fast as fp32 |\n|{'---|' * 5}")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for encoder in args.encoders:
            figures[f"ratio_{encoder}"] = measure(encoder, args.rounds, clock, folder)
    print(json.dumps({name: round(ratio, 3) for name, ratio in figures.items()}))


if __name__ == "__main__":
    main()

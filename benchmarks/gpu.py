"""What one GPU makes of the networks: training, inference, evaluation.

    python benchmarks/gpu.py                          # up to 8 minutes
    python benchmarks/gpu.py --minutes 3              # what fits into three, the rest is named
    python benchmarks/gpu.py --device cpu --quick     # small networks and images: that it runs

Training: batches that lie on the device already, images a second. `ours` is the trainer's step with
everything that it does, `bare` a loop in the same precision and layout, `plain` one in fp32 and
torch's default layout; smp's network of the same paper in both loops where
segmentation_models_pytorch is installed (theirs and ours differ in size). They take turns; figures
are medians. `share` is what ours makes of the peak: of the rate of a large matrix product, measured
first. The most important rows come first, each as soon as it is known. The last line is one JSON
object with all figures.
"""

import argparse
import gc
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import gpu_rows as rows
from benchmarks.gpu_rows import Net, Run
from benchmarks.step import Noise
from dataloaders import DATASETS
from utils.hardware.host_memory import keep_freed_memory
from utils.hardware.memory import ran_out

COMPILING = 90  # seconds that a compilation may take: none starts with less left

NETS = (
    Net("PSPNet", "resnet50", smp="PSPNet"),
    Net("ENet", size=(360, 480), batch=10),
    Net("DeepLab", "resnet50", smp="DeepLabV3Plus"),
    Net("UperNet", "resnet50", smp="UPerNet"),
    Net("UNetResnet", "resnet34", smp="Unet"),
    Net("UNet"),
    Net("ENet"),
)


SMALL = (Net("PSPNet", "test_resnet", (64, 64), 2), Net("ENet", None, (48, 64), 2))


def plan(run: Run, peak: float) -> Iterator[tuple[str, float, Callable[[], None]]]:
    """Name, least time in seconds and work of each row, the most important first."""
    nets = SMALL if run.quick else NETS
    for net in nets:
        yield net.title, 0, partial(rows.train, net, run, peak)
    for mode in ("whole", "multiscale", "sliding"):
        yield f"inference {mode}", 0, partial(rows.infer, nets[0], run, mode)
    yield "training from files", 0, partial(rows.load, nets[0], run)
    yield "evaluation", 0, partial(rows.evaluate, nets[0], run)
    for net in () if run.quick else nets:
        yield f"{net.title} compiled", COMPILING, partial(rows.compiled, net, run)


def measure(run: Run, ends: float) -> None:
    """Print all rows for which time and memory suffice."""
    peak = rows.peak_rate(run)
    run.say("peak_tflops", peak / 1e12, "matrix product, TFLOP/s")
    print("| images/s | ours | bare | plain | smp bare | smp plain | share | peak, GB |")
    print(f"|{'---|' * 8}", flush=True)
    for name, least, row in plan(run, peak):
        if time.monotonic() + least > ends:
            print(f"{name}: not run for want of time", flush=True)
            continue
        try:
            row()
        except RuntimeError as error:
            if not ran_out(error):
                raise
            print(f"{name}: out of memory", flush=True)
        if run.device.type == "cuda":  # the next row's peak is its own
            gc.collect()
            torch.cuda.empty_cache()


def about(device: torch.device) -> dict[str, float | str]:
    """The device, its driver, torch."""
    name, driver, smi = device.type, "", shutil.which("nvidia-smi")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    if device.type == "cuda" and smi is not None:
        command = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return {"device": name, "driver": driver.strip(), "torch": torch.__version__}


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=8, help="default: 8")
    parser.add_argument("--quick", action="store_true", help="small networks and images")
    options = parser.parse_args(arguments)
    device, ends = torch.device(options.device), time.monotonic() + 60 * options.minutes
    DATASETS["Noise"] = Noise
    if device.type == "cpu":
        keep_freed_memory()
    figures = about(device)
    print(", ".join(f"{name} {value}" for name, value in figures.items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        measure(Run(device, options.quick, folder, figures), ends)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

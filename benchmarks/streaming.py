"""An image larger than memory: peak memory, and the same bytes after kill -9.

    python benchmarks/streaming.py                    6,000 x 6,000, some minutes
    python benchmarks/streaming.py --side 20000       20,000 x 20,000

A synthetic RGB TIFF is segmented by ENet (12 classes) through inference.py: once undisturbed, once
killed with signal 9 whenever a third more is done. The last line is one JSON object.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(
    0, str(ROOT)
)  # `python benchmarks/...` puts benchmarks/ on the path, not its parent

import numpy as np  # noqa: E402
import tifffile  # noqa: E402
import torch  # noqa: E402

from models import MODELS  # noqa: E402
from utils.drawing.palette import voc_palette  # noqa: E402
from utils.inference.segmenter import STREAMED_PIXELS  # noqa: E402
from utils.run import checkpoint  # noqa: E402

_TILE = 512
_CLASSES = 12


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=6000, help="pixels; default: 6000")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    if options.side**2 <= STREAMED_PIXELS:
        least = math.isqrt(STREAMED_PIXELS) + 1
        parser.error(f"--side: found {options.side}, smaller than {least} is not streamed")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = _measure(Path(folder), options.side)
    print(json.dumps(figures))
    return 0 if figures["same_bytes"] else 1


def _measure(folder: Path, side: int) -> dict[str, float | bool]:
    image, model = folder / "map.tif", folder / "best_model.pth"
    tiles = _tiles(side)
    tifffile.imwrite(
        image,
        tiles,
        shape=(side, side, 3),
        dtype="uint8",
        photometric="rgb",
        tile=(_TILE, _TILE),
        compression="zlib",
        metadata=None,
    )
    _save_model(model)
    started = time.perf_counter()
    peak = _undisturbed(model, image, folder / "whole")
    seconds = time.perf_counter() - started
    kills = _killed(model, image, folder / "killed", side)
    same = (folder / "whole/map.tif").read_bytes() == (folder / "killed/map.tif").read_bytes()
    print(
        f"{side} x {side}: {seconds:.0f} s, peak memory {peak:.2f} GB, killed {kills} times: ",
        end="",
    )
    print("the same bytes" if same else "OTHER BYTES")
    return {
        "side": side,
        "seconds": round(seconds, 1),
        "peak_gigabytes": round(peak, 3),
        "kills": kills,
        "same_bytes": same,
    }


def _tiles(side: int) -> Iterator[np.ndarray]:
    """Waves with grain, tile by tile: the image itself is never in memory."""
    grain = np.random.default_rng(0).integers(0, 64, (_TILE, _TILE, 3), dtype=np.uint8)
    for top in range(0, side, _TILE):
        for left in range(0, side, _TILE):
            down = np.arange(top, top + _TILE)[:, None] / 97
            right = np.arange(left, left + _TILE)[None] / 131
            wave = (95 + 90 * np.sin(down) * np.cos(right)).astype(np.uint8)
            yield grain + np.stack([wave, 185 - wave, wave // 2 + 40], axis=2)


def _save_model(path: Path) -> None:
    torch.manual_seed(0)
    config = {
        "arch": {"type": "ENet", "args": {}},
        "train_loader": {"type": "Shapes", "args": {"crop_size": 512}},
        "trainer": {},
    }
    content = {
        "arch": "ENet",
        "epoch": 1,
        "state_dict": MODELS["ENet"](num_classes=_CLASSES).state_dict(),
        "config": config,
        "classes": [f"class {number}" for number in range(_CLASSES)],
        "palette": voc_palette(_CLASSES),
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "ignore_index": 255,
        "input_dtype": "uint8",
    }
    checkpoint.save([path], content)


def _start(model: Path, image: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, ROOT / "inference.py", "--model", model, "--images", image]
    return subprocess.Popen([*command, "--output", output, "--mode", "sliding"])  # noqa: S603 (our own command)


def _undisturbed(model: Path, image: Path, output: Path) -> float:
    """Gigabytes (1e9) of memory at the peak of a run, page cache not counted."""
    process = _start(model, image, output)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024 / 1e9


def _killed(model: Path, image: Path, output: Path, side: int) -> int:
    """Kill a run whenever a third of the rows is done since the last time; how often it was."""
    partial = output / ".map.tif.partial"
    kills, target = 0, side * side // 3
    while True:
        with _start(model, image, output) as process:
            while process.poll() is None:
                time.sleep(0.05)
                if partial.exists() and partial.stat().st_size >= target:
                    process.kill()
                    break
        if process.returncode == 0:
            return kills
        assert process.returncode == -9, process.returncode
        kills += 1
        target = partial.stat().st_size + side * side // 3


if __name__ == "__main__":
    sys.exit(main())

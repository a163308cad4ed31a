"""How long the data doctor looks at 2,000 pairs of 500x375: all of them, and before a training.

    python benchmarks/doctor.py               # under a minute; makes its own data

The last line is one JSON object of seconds.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.loading import labels, noise_image
from dataloaders.doctor import check
from dataloaders.folder import Folder

PAIRS, DIFFERENT, CLASSES = 2000, 16, 21


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make(root)
        data = Folder(data_dir=place, classes=tuple(map(str, range(CLASSES))))
        for key, full in (("seconds_full", True), ("seconds_before_training", False)):
            start = time.perf_counter()
            report, usable = check({"train_loader": data}, full=full)
            figures[key] = round(time.perf_counter() - start, 2)
            assert usable, report
            print(f"{report.splitlines()[0]}: {figures[key]} s")
    print(json.dumps(figures))


def make(root: Path) -> None:
    """Write the pairs; a few images are encoded and written many times."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(DIFFERENT):
        files = []
        for pixels, kind in (
            (noise_image(375, 500, rng), "JPEG"),
            (labels(375, 500, CLASSES, rng), "PNG"),
        ):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, format=kind, quality=90)
            files.append(buffer.getvalue())
        encoded.append(files)
    for folder, suffix, part in (("images", "jpg", 0), ("masks", "png", 1)):
        (root / folder).mkdir()
        for number in range(PAIRS):
            content = encoded[number % DIFFERENT][part]
            (root / folder / f"{number:04d}.{suffix}").write_bytes(content)


if __name__ == "__main__":
    main()

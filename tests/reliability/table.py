"""Count how often a run is interrupted, a file damaged or a disk full, and what was lost.

    python tests/reliability/table.py                     # the numbers of docs/reliability.md
    python tests/reliability/table.py --share 0.1         # a tenth of them
    python tests/reliability/table.py --only signals configs

Prints a table; each fault stands below it. Needs Linux, and nothing but this repository.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for place in (ROOT / "tests" / "reliability", ROOT / "tests", ROOT):
    sys.path.insert(0, str(place))

os.environ.setdefault("OMP_NUM_THREADS", "1")

import files  # noqa: E402
import interruptions  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)

KINDS = {
    "kills at random times": (interruptions.kills_at_random, 60),
    "kills at each call of a save": (interruptions.kills_at_save_calls, 60),
    "kills in start-up, validation, resuming": (interruptions.kills_elsewhere, 21),
    "power losses": (interruptions.power_losses, 32),
    "signals": (interruptions.signals, 42),
    "storage that fails": (interruptions.storage, 20),
    "workers that fail": (interruptions.workers, 14),
    "two processes": (interruptions.two_processes, 20),
    "reproductions": (interruptions.reproductions, 20),
    "damaged checkpoints": (files.damaged_checkpoints, 300),
    "forged checkpoints": (files.forged_checkpoints, 183),
    "malicious files": (files.malicious, 72),
    "broken configs": (files.configs, 1000),
    "damaged images and masks": (files.images, 300),
    "files in the way of results": (files.users_files, 20),
}


def trials(kind: str, count: int) -> list[str]:
    """Run trials of a kind; what went wrong with each, or ""."""
    folder = Path(tempfile.mkdtemp(prefix="reliability-"))
    work, _ = KINDS[kind]
    try:
        return list(work(folder, count))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit code is 1 when a trial failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the numbers of trials")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="kinds with these")
    options = parser.parse_args(arguments)
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    print(f"{datetime.now().astimezone():%Y-%m-%d}, commit {commit}, torch {torch.__version__}, ")
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, ", end="")
    print(f"{os.cpu_count()} cores\n\n| kind | trials | as promised | seconds |\n|---|---|---|---|")
    faults = []
    for kind, (_, number) in KINDS.items():
        if not any(word in kind for word in options.only):
            continue
        began = time.monotonic()
        try:
            found = trials(kind, max(1, round(number * options.share)))
        except Exception:  # noqa: BLE001  the other kinds go on
            found = [traceback.format_exc()]
        good = found.count("")
        print(f"| {kind} | {len(found)} | {good} | {time.monotonic() - began:.0f} |", flush=True)
        faults += [f"{kind}: {fault}" for fault in found if fault]
    print("\n".join(["", *faults]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

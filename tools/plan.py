"""Plan a training: look at a folder of images and masks, and write a config with its reasons.

    python tools/plan.py my_data -o mine.json
    python tools/plan.py my_data --minutes 600 --device cuda -o mine.json
    python tools/plan.py my_data --images "scans/*.tif" --masks "scans/*_mask.tif" -o mine.json
    python tools/plan.py my_data --measurements mine.plan.json -o again.json

What was found and measured goes to `mine.plan.json` beside the config; with it as --measurements
the same folder and minutes give the same config. docs/plan.md has the rules.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.errors import ConfigError, guard
from utils.files.written import Written


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = _parse(arguments)
    facts_file = options.output.with_suffix(".plan.json")
    written = Written(options.output.parent)
    written.refuse_others([options.output, facts_file], overwrite=options.overwrite)
    from dataloaders.layout import shortened
    from dataloaders.places import Place, find_places
    from planning import configs, rules, steps
    from planning.fingerprint import take_fingerprint
    from utils.config.config import load_config
    from utils.run.next_steps import command_line

    known = steps.read_measured(options.measurements) if options.measurements else None
    given = options.images and ({"train": Place(options.images, options.masks)}, [])
    places, others = given or find_places(Path(options.data))
    data, report = take_fingerprint(options.data, places)
    name = re.sub(r"[^A-Za-z0-9-]+", "_", f"plan {Path(options.data).resolve().name}")[:60]
    notes = [f"applied: {data.cure}"] if data.cure else []
    notes += [f"left alone: {shortened(others)}"] if others else []
    print(report, *notes, sep="\n  ")
    machine, measured, left_out = known or steps.measure_candidates(data, options.device, name)
    print("".join(f"  {note}\n" for note in left_out), end="")
    chosen, arch = rules.model(measured, options.minutes)
    choices = configs.choose(data, machine, arch, name, peak_bytes=chosen.peak_bytes)
    batch_size = choices["train_loader.args.batch_size"].value
    choices |= rules.schedule(data, chosen, options.minutes, batch_size)
    facts = {"minutes": options.minutes, "machine": machine._asdict(), "fingerprint": asdict(data),
             "measured": [one._asdict() for one in measured]}  # fmt: skip
    head = f"Planned by tools/plan.py from {options.data} for {options.minutes:g} minutes."
    texts = {
        options.output: configs.text(choices, head),
        facts_file: json.dumps(facts, indent=1) + "\n",
    }
    with written.opened(texts):
        for path, text in texts.items():
            written.write(path, lambda part, text=text: part.write_text(text, encoding="utf-8"))
    load_config(options.output)
    print(configs.summary(data, choices, chosen))
    print(f"next     {command_line('train', '-c', str(options.output))}")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", metavar="DIR", help="the folder of images and masks")
    add("--minutes", type=float, default=60, help="how long it may train (default: 60)")
    add("-d", "--device", choices=("cpu", "cuda"), help="where (default: a GPU where there is one)")
    add("--images", help="sub-folder or pattern of the images, where names do not tell")
    add("--masks", help="likewise of the masks")
    add("--measurements", type=Path, metavar="FILE", help="the .plan.json of an earlier plan")
    add("-o", "--output", type=Path, default=Path("mine.json"), help="(default: mine.json)")
    add("--overwrite", action="store_true", help="replace files that this program did not write")
    options = parser.parse_args(arguments)
    if not options.output.name:
        raise ConfigError(f"--output {options.output}: found a folder, expected a file to write")
    if not 1 <= options.minutes <= 100_000:
        raise ConfigError(f"--minutes: found {options.minutes:g}, expected 1 to 100000")
    if (options.images is None) != (options.masks is None):
        raise ConfigError("found one of --images and --masks, expected both or none")
    return options


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

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
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.errors import ConfigError, ResourceError, guard
from utils.files.written import Written

if TYPE_CHECKING:
    from planning.fingerprint import Fingerprint
    from planning.rules import Choices, Machine, Measured


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = _parse(arguments)
    facts_file = options.output.with_suffix(".plan.json")
    written = Written(options.output.parent)
    written.refuse_others([options.output, facts_file], overwrite=options.overwrite)
    known = _known(options.measurements) if options.measurements else None
    from planning import configs, rules
    from planning.fingerprint import take_fingerprint
    from planning.places import Place, find_places
    from utils.config.config import load_config

    given = options.images and {"all": Place(options.images, options.masks)}
    places = given or find_places(Path(options.data))
    data, report = take_fingerprint(options.data, places)
    print(report)
    if "test" in places:
        print(f"  left alone: {' and '.join(places['test'])}")
    for cure in data.cures:
        print(f"  applied: {cure}")
    name = re.sub(r"[^A-Za-z0-9-]+", "_", f"plan {Path(options.data).resolve().name}")[:60]
    machine, measured = known or _measured(data, options.device, name)
    chosen, arch = rules.model(measured, options.minutes)
    choices = configs.choose(data, machine, arch, name, peak_bytes=chosen.peak_bytes)
    batch_size = choices["train_loader.args.batch_size"].value
    choices |= rules.schedule(data, chosen, options.minutes, batch_size)
    facts = {"minutes": options.minutes, "machine": machine._asdict(), "fingerprint": asdict(data),
             "measured": [one._asdict() for one in measured]}  # fmt: skip
    head = f"Planned by tools/plan.py from {options.data} for {options.minutes:g} minutes."
    text, found = configs.text(choices, head), json.dumps(facts, indent=1) + "\n"
    with written.opened([options.output, facts_file]):
        written.write(options.output, lambda path: path.write_text(text, encoding="utf-8"))
        written.write(facts_file, lambda path: path.write_text(found))
    load_config(options.output)
    for line in summary(data, choices, chosen, options.minutes, options.output):
        print(line)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", metavar="DIR", help="the folder of images and masks")
    add("--minutes", type=float, default=60, help="how long it may train (default: 60)")
    add("--device", choices=("cpu", "cuda"), help="where (default: a GPU where there is one)")
    add("--images", help="sub-folder or pattern of the images, where names do not tell")
    add("--masks", help="likewise of the masks")
    add("--measurements", type=Path, metavar="FILE", help="the .plan.json of an earlier plan")
    add("-o", "--output", type=Path, default=Path("mine.json"), help="(default: mine.json)")
    add("--overwrite", action="store_true", help="replace an --output that is not ours, too")
    options = parser.parse_args(arguments)
    if not 1 <= options.minutes <= 100_000:
        raise ConfigError(f"--minutes: found {options.minutes:g}, expected 1 to 100000")
    if (options.images is None) != (options.masks is None):
        raise ConfigError("found one of --images and --masks, expected both or none")
    return options


def _known(path: Path) -> tuple["Machine", "list[Measured]"]:
    from planning.rules import Machine, Measured

    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return Machine(**facts["machine"]), [Measured(**one) for one in facts["measured"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"--measurements {path}: {error}\n  expected: the .plan.json that a plan has written"
        ) from error


def _measured(
    data: "Fingerprint", device: str | None, name: str
) -> tuple["Machine", "list[Measured]"]:
    """Measure the candidates, each in a new process: memory at its peak is that of a process."""
    import torch

    from models.encoder_names import timm_name
    from models.pretrained import source_of, weights_at_hand
    from planning import configs, rules, steps
    from utils.hardware.devices import pick_device
    from utils.hardware.memory import free_memory
    from utils.hardware.workers import START_METHOD
    from utils.run.stopwatch import usable_cores

    kind = pick_device(device).type
    free = torch.cuda.mem_get_info()[0] if kind == "cuda" else 0
    machine = rules.Machine(kind, usable_cores(), free_memory(), free)
    encoders = {encoder: timm_name(encoder) for encoder in rules.ENCODERS[kind]}
    found = {encoder: weights_at_hand(full) for encoder, full in encoders.items()}
    weights = {encoder: one for encoder, one in found.items() if one}
    for encoder, full in encoders.items() if not weights else ():
        url, place = source_of(full)
        print(f"  no weights of {encoder}: get {url}\n    as {place} and plan again")
    plans = [
        configs.nested(configs.choose(data, machine, rules.Choice(arch, ""), name))
        for arch in rules.candidates(kind, weights)
    ]
    # A process that is spawned would count this one's memory as its own.
    context, measured = get_context("forkserver" if START_METHOD == "fork" else "spawn"), []
    for config in plans:
        try:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                measured.append(pool.submit(steps.measure, config, kind).result())
        except (ResourceError, BrokenProcessPool) as error:  # the latter when the system ended it
            print(f"  left out: {config['arch']['type']}: {str(error).partition(chr(10))[0]}")
            if config is plans[-1] and not measured:
                raise ResourceError(f"no network could be measured: {error}") from error
    return machine, measured


def summary(
    data: "Fingerprint", choices: "Choices", chosen: "Measured", minutes: float, output: Path
) -> list[str]:
    """What it will train, how long, how much memory, and what to change first."""
    from planning import rules
    from utils.run.next_steps import command_line

    value = {path: choice.value for path, choice in choices.items()}
    crop, args = value["train_loader.args.crop_size"], chosen.arch["args"]
    mode = rules.prediction(data, crop)
    largest = "x".join(map(str, data.largest[::-1]))
    change = "twice the --minutes, then the crop_size"
    if not args.get("pretrained") and data.channels == 3:
        change = "pretrained weights (docs/plan.md), then twice the --minutes"
    elif "train_loader.args.rare_crops" in value:
        change = "rare_crops to 0.66 where rare classes stay low, then twice the --minutes"
    epochs, parts = value["trainer.epochs"], value.get("trainer.accumulate", 1)
    network = f"{chosen.arch['type']} {args.get('backbone', '')}".strip()
    found = f"{data.images} images of {len(data.classes)} classes, {data.channels} channels of"
    return [
        f"{found} {data.dtype}, {largest} at most; {data.void:.1%} void",
        f"trains   {network}, {epochs} epochs of crops of {crop}, about {minutes:g} minutes",
        f"memory   about {chosen.peak_bytes / parts / 2**30:.1f} GiB",
        f"predict  python inference.py --mode {mode.value} ...: {mode.reason}",
        f"change first, if it disappoints: {change}",
        f"next     {command_line('train', '-c', str(output))}",
    ]


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

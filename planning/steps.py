"""What training a candidate takes on this machine: a few steps, a batch of validation, a save."""

import io
import json
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from assembly import assemble
from base.signals import StopSignals
from measuring import MeasuredTrainer
from models.encoder_names import timm_name
from models.pretrained import source_of, weights_at_hand
from planning import configs, rules
from planning.fingerprint import Fingerprint
from planning.rules import Choice, Machine, Measured
from utils.config.config import parse_config
from utils.config.overrides import apply_overrides
from utils.errors import ConfigError, ResourceError
from utils.hardware.devices import pick_device
from utils.hardware.host_memory import keep_freed_memory
from utils.hardware.memory import free_memory, peak_memory
from utils.hardware.workers import START_METHOD, usable_cores

_SECONDS, _MOST = 2.0, 50  # of training steps, after two to warm up
_PART = {"cpu": 2, "cuda": 4}  # images a step: from there on its time is in proportion


class _Clock(StopSignals):
    """Notes when a batch is done, and ends the validation after the second."""

    def __init__(self) -> None:
        self.done: list[float] = []

    @property
    def number(self) -> int | None:  # pyrefly: ignore[bad-override]
        self.done.append(time.perf_counter())
        return None if len(self.done) < 2 else 0


def measure_candidates(
    data: Fingerprint, device: str | None, name: str
) -> tuple[Machine, list[Measured], list[str]]:
    """Measure each in a new process: memory at its peak is that of a process.

    Args:
        data: What would be trained on.
        device: "cpu" or "cuda"; None: a GPU where there is one.
        name: Of the config.

    Returns:
        Where it was measured, what was, and what to say of weights and networks that were not.

    Raises:
        ResourceError: None could be measured.
    """
    kind = pick_device(device).type
    free = torch.cuda.mem_get_info()[0] if kind == "cuda" else 0
    machine = Machine(kind, usable_cores(), free_memory(), free)
    found = {encoder: weights_at_hand(timm_name(encoder)) for encoder in rules.ENCODERS[kind]}
    weights = {encoder: one for encoder, one in found.items() if one}
    notes = []
    for encoder in found if not weights else ():
        url, place = source_of(timm_name(encoder))
        notes.append(f"no weights of {encoder}: get {url}\n    as {place} and plan again")
    # A process that is spawned would count this one's memory as its own.
    context, measured = get_context("forkserver" if START_METHOD == "fork" else "spawn"), []
    for arch in rules.candidates(kind, weights):
        config = configs.nested(configs.choose(data, machine, Choice(arch), name))
        try:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                measured.append(pool.submit(measure, config, kind).result())
        except (ResourceError, BrokenProcessPool) as error:  # the latter when the system ended it
            notes.append(f"left out: {arch['type']}: {str(error).partition(chr(10))[0]}")
    if not measured:
        raise ResourceError("\n  ".join(["no network could be measured", *notes]))
    return machine, measured, notes


def read_measured(path: Path) -> tuple[Machine, list[Measured], list[str]]:
    """Read what an earlier plan measured, as `measure_candidates` returns it.

    Raises:
        ConfigError: Another file.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return Machine(**facts["machine"]), [Measured(**one) for one in facts["measured"]], []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"--measurements {path}: {error}\n  expected: the .plan.json that a plan has written"
        ) from error


def measure(config: Mapping[str, Any], device_name: str) -> Measured:
    """Measure in this process, whose peak of memory must be its own.

    Args:
        config: What would be trained.
        device_name: "cpu" or "cuda".

    Raises:
        UserError: What a training would refuse.
    """
    device = pick_device(device_name)
    if device.type == "cpu":
        keep_freed_memory()
    whole = config["train_loader"]["args"]["batch_size"]
    part = min(whole, _PART[device.type])
    loaders = [key for key in ("train_loader", "val_loader") if key in config]
    smaller = apply_overrides(config, [f"{key}.args.batch_size={part}" for key in loaders])
    trainer = assemble(parse_config(smaller), None, device=device, kind=MeasuredTrainer)
    before = peak_memory(device)
    once, _ = trainer.measure(1, warm_up=1)
    steps = min(_MOST, max(1, round(_SECONDS / sum(once.values()))))
    phases, images = trainer.measure(steps, warm_up=0)
    update = (phases["optimizer"] + phases["rest"]) / steps
    each = (sum(phases.values()) - update * steps) / images + update / whole
    validation = _seconds_of_validation(trainer)
    # Gradients and AdamW's two averages are as large as the weights, whatever the batch is.
    fixed = before + 3 * sum(one.nbytes for one in trainer.model.parameters())
    growing = max(0, peak_memory(device) - fixed)
    start = time.perf_counter()
    torch.save(trainer.state(), io.BytesIO())
    save = time.perf_counter() - start
    for loader in filter(None, (trainer.parts.train_loader, trainer.parts.val_loader)):
        loader.close()  # a process of a pool would wait for the workers when it ends
    figures = (float(f"{one:.3g}") for one in (1 / each, validation, save))
    return Measured(config["arch"], *figures, peak_bytes=fixed + growing * whole // part)


def _seconds_of_validation(trainer: MeasuredTrainer) -> float:
    """Seconds an image: of a second batch, when the workers have started."""
    validator = trainer.validator
    assert validator is not None
    batches = validator.loader.evaluation
    assert batches is not None
    clock = _Clock()
    while len(clock.done) < 2:  # twice where there is one batch
        validator.run(trainer.model.eval(), clock, title="measuring", shown=False)
    return (clock.done[1] - clock.done[0]) / len(batches[min(1, len(batches) - 1)])

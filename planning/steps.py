"""What training a candidate takes on this machine: a few steps, a batch of validation, a save."""

import io
import time
from collections.abc import Mapping
from typing import Any

import torch

from assembly import assemble
from base.signals import StopSignals
from measuring import MeasuredTrainer
from planning.rules import Measured
from utils.config.config import parse_config
from utils.hardware.devices import pick_device
from utils.hardware.host_memory import keep_freed_memory
from utils.hardware.memory import peak_memory

_SECONDS, _MOST = 2.0, 50  # of training steps, after two to warm up
_PART = {"cpu": 2, "cuda": 4}  # images a step: from there on its time is in proportion


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
    sections = {
        key: {**config[key], "args": {**config[key]["args"], "batch_size": part}}
        for key in ("train_loader", "val_loader")
        if key in config
    }
    parsed = parse_config({**config, **sections})
    trainer = assemble(parsed, None, device=device, kind=MeasuredTrainer)
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
    validator, seconds = trainer.validator, 0.0
    assert validator is not None
    signals = StopSignals()
    signals.number = 0  # which ends a validation after one batch
    for _ in range(2):
        start = time.perf_counter()
        validator.run(trainer.model.eval(), signals, title="measuring", shown=False)
        seconds = time.perf_counter() - start
    return seconds / min(validator.loader.batch_size, len(validator.loader.dataset))

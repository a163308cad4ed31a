"""From a config to a run: every part of it, built in the order in which faults are cheapest.

The command lines are elsewhere (train.py), and so is what the parts do together (trainer.py).
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from base.base_data_loader import BaseDataLoader
from base.base_dataset import BaseDataset
from base.base_model import BaseModel
from base.parts import Parts, RunOptions, StepOptions
from dataloaders.building import build_loaders
from dataloaders.label_counts import loss_weights
from models.building import build_model, check_batch, check_model, place
from models.encoder_layers import layer_groups
from models.input_statistics import take_statistics, weight_statistics
from tables import TABLES
from trainer import Trainer
from utils import VERSION
from utils.config.config import Config
from utils.config.messages import hint
from utils.config.registry import Choice, choose
from utils.errors import ConfigError
from utils.hardware import distributed
from utils.hardware.devices import device_name
from utils.hardware.precision import resolve_precision
from utils.losses.contract import SegmentationLoss
from utils.losses.table import WithAuxiliary, build_loss, check_parts
from utils.optim.optimizers import build_optimizer
from utils.run import folder as run_folder
from utils.run.log import RunLog, open_run
from utils.run.resume import check_classes

T = TypeVar("T", bound=Trainer)

_OF_THE_DATA = ("classes", "palette", "mean", "std", "ignore_index", "input_dtype", "crop_size")


def assemble(
    config: Config,
    state: Mapping | None,
    *,
    device: torch.device,
    plugins: Sequence[str] = (),
    kind: type[T] = Trainer,
) -> T:
    """Build everything that a run needs; nothing is written.

    Args:
        config: The accepted config.
        state: The checkpoint to go on from, or None.
        device: Where to train.
        plugins: Files that the command line added components from; checkpoints name them.
        kind: The trainer's class.

    Returns:
        A trainer that stands where `state` says.

    Raises:
        UserError: Whatever the user can mend.
    """
    parts = _parts(config, state, device)
    trainer = kind(
        parts,
        device=device,
        options=_options(config, device),
        run_options=RunOptions(
            **{key.name: getattr(config.trainer, key.name) for key in fields(RunOptions)}
        ),
        description=_description(config, parts.train_loader.dataset, plugins),
    )
    if state is not None:
        trainer.restore(state)
    return trainer


def _parts(config: Config, state: Mapping | None, device: torch.device) -> Parts:
    """Build the parts in the order in which faults are cheapest to find."""
    chosen = choose_components(config)
    asked = config.normalize is not None
    weights_saw = weight_statistics(chosen["arch"], asked=asked)
    start = check_model(chosen["arch"], config.init_from, state)
    torch.manual_seed(config.seed)
    train_loader, val_loader = build_loaders(
        **data_sections(config), pin_memory=device.type == "cuda"
    )
    data = train_loader.dataset
    if weights_saw is not None:
        held_out = [] if val_loader is None else [val_loader.dataset]
        take_statistics([data, *held_out], weights_saw, asked=asked)
    check_classes(data.classes, state)
    check_class_names(config, data.classes)
    loss = _loss(config, chosen["loss"], data)
    model = build_model(
        chosen["arch"],
        num_classes=len(data.classes),
        in_channels=len(data.mean),
        start=start,
    )
    network = _network(config, model, train_loader, device=device)
    decay = config.optimizer.layer_decay
    optimizer = build_optimizer(
        model,
        chosen["optimizer"],
        differential_lr=config.optimizer.differential_lr,
        backbone_lr_factor=config.optimizer.backbone_lr_factor,
        layers=None if decay is None else layer_groups(model, decay),
        no_decay_norm_bias=config.optimizer.no_decay_norm_bias,
    )
    iterations = -(-len(train_loader) // config.trainer.accumulate)
    return Parts(
        model=model,
        network=network,
        loss=loss.to(device),
        optimizer=optimizer,
        schedule=chosen["lr_scheduler"].build(
            optimizer=optimizer, total_steps=_total_steps(config.trainer.epochs, iterations, state)
        ),
        train_loader=train_loader,
        val_loader=val_loader,
    )


def _total_steps(epochs: int, iterations: int, state: Mapping | None) -> int:
    """Updates of the whole run; its finished epochs may have had larger or smaller batches."""
    if state is None:
        return epochs * iterations
    finished = state["step"] - state["iteration"]
    return finished + max(0, epochs - state["epoch"]) * iterations


def choose_components(config: Config) -> dict[str, Choice]:
    """Choose all parts but the data before these, which may take minutes, are looked at.

    Raises:
        ConfigError: For wrong names and arguments, all at once.
    """
    sections = {
        "arch": config.arch,
        "optimizer": config.optimizer,
        "loss": config.loss,
        "lr_scheduler": config.lr_scheduler,
    }
    chosen, faults = {}, []
    for kind, section in sections.items():
        try:
            chosen[kind] = choose(kind, TABLES[kind], section.type, section.args)
            if kind == "loss":
                check_parts(chosen[kind])
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))
    return chosen


def check_class_names(config: Config, classes: Sequence[str]) -> None:
    """Refuse names of classes that the data do not have.

    Raises:
        ConfigError: With the nearest one.
    """
    watched = config.trainer.monitor.partition("/")[2]
    named = {"trainer.monitor": [watched] if watched else []}
    for key, names in {**named, "scored_classes": config.scored_classes or []}.items():
        for name in names:
            if name not in classes:
                raise ConfigError(f"{key}: the data have no class {name!r}{hint(name, classes)}")
            if names.count(name) > 1:
                raise ConfigError(f"{key}: found {name!r} twice, expected each class once")


def data_sections(config: Config) -> dict[str, Any]:
    """What the config says about its data, as dataloaders/building.py takes it."""
    train, val = config.train_loader, config.val_loader
    return {
        "train": (train.type, train.args),
        "val": (val.type, val.args) if val is not None and config.trainer.val else None,
        "ignore_index": config.ignore_index,
        "seed": config.seed,
    }


def _loss(config: Config, choice: Choice[SegmentationLoss], data: BaseDataset) -> WithAuxiliary:
    weights = config.class_weights
    return build_loss(
        choice,
        num_classes=len(data.classes),
        ignore_index=config.ignore_index,
        class_weights=weights and loss_weights(weights, data),
        aux_weight=config.aux_weight,
    )


def _network(
    config: Config, model: BaseModel, loader: BaseDataLoader, *, device: torch.device
) -> nn.Module:
    """The model on its device or devices, which a batch must suffice for."""
    network = place(
        model,
        device,
        channels_last=config.trainer.channels_last,
        recompute=config.trainer.recompute,
        compiled=config.trainer.compile,
        use_synch_bn=config.use_synch_bn,
        parallel=config.parallel,
        n_gpu=config.n_gpu,
    )
    check_batch(
        model,
        network,
        batch_size=loader.batch_size,
        smallest=loader.smallest_batch * distributed.world_size(),
        crop_size=loader.dataset.crop_size if loader.dataset.augments else None,
    )
    return network


def _options(config: Config, device: torch.device) -> StepOptions:
    return StepOptions(
        precision=resolve_precision(config.trainer.precision, device),
        accumulate=config.trainer.accumulate,
        clip_grad_norm=config.trainer.clip_grad_norm,
        ema=config.trainer.ema,
        seed=config.seed,
        scored_classes=config.scored_classes,
    )


def _description(config: Config, data: BaseDataset, plugins: Sequence[str]) -> dict[str, object]:
    """The part of a checkpoint that never changes."""
    return {
        "arch": config.arch.type,
        "config": config.resolved(),
        "plugins": list(plugins),
        **{name: getattr(data, name) for name in _OF_THE_DATA},
    }


def start_lines(config: Config, trainer: Trainer) -> list[str]:
    """What a run consists of, a line a subject; its page reads them in train.log."""
    parts, data, section = trainer.parts, trainer.data, config.trainer
    weights = [(p.numel() / 1e6, p.requires_grad) for p in parts.model.parameters()]
    count, trained = sum(n for n, _ in weights), sum(n for n, changes in weights if changes)
    val = 0 if parts.val_loader is None else len(parts.val_loader.dataset)
    steps, done = parts.schedule.total_steps, trainer.position.step
    optimizer = [f"{name} {value}" for name, value in config.optimizer.args.items()]
    facts = {
        "device": f"{distributed.world_size()} x {device_name(trainer.device)}",
        "precision": trainer.options.precision,
        "model": f"{config.arch.type}, {count:.2f} M parameters, {trained:.2f} M trained",
        "data": f"{config.train_loader.type}, {len(data.classes)} classes, {len(data):,} images "
        f"to train on, {val:,} to validate",
        "batch": f"{section.accumulate} x {parts.train_loader.batch_size} images an iteration",
        "optimizer": ", ".join([config.optimizer.type, *optimizer]),
        "schedule": f"{config.lr_scheduler.type}, {section.epochs} epochs, {steps:,} iterations, "
        f"{done:,} done",
        "software": f"segmentation {VERSION}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.system()}",
    }
    return [f"{name:<12}{value}" for name, value in facts.items()]


def open_log(config: Config, state: Mapping | None, folder: Path | None) -> RunLog:
    """Open the run's folder and log, a new one without `folder`; the first process alone writes."""
    if distributed.rank() != 0:
        return RunLog(None)
    resumed = None if folder is None else state
    if folder is None:
        folder = run_folder.create(Path(config.trainer.save_dir), config.name)
    log_dir = Path(config.trainer.log_dir) / config.name / folder.name
    tensorboard = log_dir if config.trainer.tensorboard else None
    return open_run(folder, config.resolved(), tensorboard=tensorboard, resumed=resumed)

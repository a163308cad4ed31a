"""Train a segmentation network from one JSON file.

    python train.py --config config.json                     # a CPU, or the GPUs that n_gpu says
    python train.py --config config.json --set trainer.epochs=5 optimizer.args.lr=0.005
    python train.py --resume saved/ENet/2026-01-31_12-00-00  # go on where a run was stopped
    torchrun --nnodes 2 --nproc_per_node 8 ... train.py --config config.json

Exit codes: 0 ok, 1 our bug, 2 usage or config, 3 data, 4 checkpoint, 5 not finite, 6 resource,
130 Ctrl-C, 143 SIGTERM.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import ConfigError, DataError, guard

if TYPE_CHECKING:
    import torch

    from base.base_dataset import BaseDataset
    from models.input_statistics import Statistics
    from trainer import Parts, Trainer
    from utils.config.config import Config
    from utils.run.log import RunLog

log = logging.getLogger("segmentation")

_OF_THE_DATA = ("classes", "palette", "mean", "std", "ignore_index", "input_dtype", "crop_size")


def main(arguments: Sequence[str]) -> int:
    """Run the command; see the module's text."""
    args = _parse(arguments)
    from utils.hardware.devices import restrict_gpus

    restrict_gpus(args.device)
    state, folder = None, None
    if args.resume is None:
        from utils.config.config import load_config

        config = load_config(args.config or "config.json", args.set)
    else:
        from utils.hardware.distributed import environment_rank
        from utils.run.log import log_to_console
        from utils.run.resume import resumed_run

        log_to_console(first_process=environment_rank() == 0)
        if args.config is not None:
            log.info("--config is not read: a resumed run has its own; change it with --set")
        config, state, folder = resumed_run(Path(args.resume), args.set)
    if args.plugin or state is not None:
        from tables import add_plugins, require_plugins

        add_plugins(args.plugin)
        require_plugins(args.plugin, state or {})
    if args.check_data:
        from dataloaders.building import check_data

        report, usable = check_data(**_sections(config))
        print(report)
        return 0 if usable else DataError.exit_code
    device = "cpu" if config.n_gpu == 0 else args.device
    processes = _processes(config, device)
    if processes > 1:
        from utils.hardware.distributed import launch

        return launch(__file__, arguments, processes=processes)
    if args.benchmark is not None:
        return _benchmark(config, args.benchmark, device_name=device)
    return _train(config, state, folder, device_name=device, plugins=args.plugin)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="docs/config.md explains every key of the config.",
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", help="the JSON file (default: config.json)")
    parser.add_argument(
        "-r", "--resume", metavar="FILE|RUN_DIR", help="go on from a checkpoint, in its run folder"
    )
    parser.add_argument("-d", "--device", help="GPU indices such as 0,1, or cpu, cuda, mps")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change keys of the config, such as trainer.epochs=5",
    )
    parser.add_argument(
        "--check-data",
        action="store_true",
        help="look at every image and mask, report every problem with its fix; writes nothing",
    )
    parser.add_argument(
        "--benchmark",
        type=int,
        metavar="N",
        help="time N iterations: images/s, ms by phase, peak memory; writes nothing",
    )
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file with models, losses or data sets of yours",
    )
    args = parser.parse_args(arguments)
    if args.benchmark is not None and args.benchmark < 1:
        parser.error(f"--benchmark: found {args.benchmark}, expected a number of iterations")
    if args.benchmark is not None and args.resume is not None:
        parser.error("--benchmark measures a config: give --config instead of --resume")
    return args


def _processes(config: "Config", device: str | None) -> int:
    """How many processes this one has to start, one GPU each; 1 when it is itself to train."""
    if config.n_gpu <= 1 or device in ("cpu", "mps"):
        return 1
    import torch

    from utils.hardware.distributed import started_by_launcher
    from utils.hardware.parallel import processes_wanted

    if started_by_launcher():
        return 1
    return processes_wanted(config.n_gpu, config.parallel, gpus=torch.cuda.device_count())


def _train(
    config: "Config",
    state: dict | None,
    folder: Path | None,
    *,
    device_name: str | None,
    plugins: Sequence[str],
) -> int:
    from utils.run.folder import check_folders

    section = config.trainer
    with _processes_met(config, device_name) as device:
        check_folders(
            save_dir=None if folder else Path(section.save_dir) / config.name,
            log_dir=Path(section.log_dir) / config.name if section.tensorboard else None,
        )
        trainer = assemble(config, state, device=device, plugins=plugins)
        with _open_run(config, state, folder) as run:
            trainer.fit(run)
        if run.folder is not None:
            _print_result(config, trainer, run.folder)
    return 0


def _benchmark(config: "Config", iterations: int, *, device_name: str | None) -> int:
    from utils.hardware.memory import peak_memory
    from utils.run.stopwatch import report

    with _processes_met(config, device_name) as device:
        trainer = assemble(config, None, device=device)
        seconds, images = trainer.measure(iterations)
        peak = peak_memory(device)
        if trainer.first:
            print(f"{iterations} iterations of {images / iterations:g} images, on {device.type}")
            print("\n".join(report(seconds, iterations=iterations, images=images, peak=peak)))
    return 0


@contextmanager
def _processes_met(config: "Config", device_name: str | None) -> "Iterator[torch.device]":
    """Join the other processes, if any; give this one's device."""
    from utils.hardware import distributed
    from utils.hardware.devices import pick_device, set_determinism
    from utils.hardware.host_memory import keep_freed_memory
    from utils.run.log import log_to_console

    set_determinism(deterministic=config.deterministic)
    device = pick_device(device_name, local_rank=distributed.local_rank())
    if device.type == "cpu":
        keep_freed_memory()
    with distributed.process_group(device.type):
        log_to_console(first_process=distributed.rank() == 0)
        yield device


def assemble(
    config: "Config", state: dict | None, *, device: "torch.device", plugins: Sequence[str] = ()
) -> "Trainer":
    """Build everything that a run needs, in the order in which faults are cheapest to find.

    Args:
        config: The accepted config.
        state: The checkpoint to go on from, or None.
        device: Where to train.
        plugins: Files that the command line added components from; checkpoints name them.

    Returns:
        A trainer that stands where `state` says.

    Raises:
        UserError: Whatever the user can mend; nothing has been written then.
    """
    from base.base_trainer import Plan
    from trainer import Step, Trainer
    from utils.hardware.precision import resolve_precision

    section = config.trainer
    parts = _parts(config, state, device)
    trainer = Trainer(
        parts,
        device=device,
        step=Step(
            precision=resolve_precision(section.precision, device),
            accumulate=section.accumulate,
            clip_grad_norm=section.clip_grad_norm,
            ema=section.ema,
            seed=config.seed,
        ),
        plan=Plan(**{key.name: getattr(section, key.name) for key in fields(Plan)}),
        description={
            **_description(config, parts.train_loader.dataset),
            "plugins": list(plugins),
        },
    )
    if state is not None:
        trainer.restore(state)
    return trainer


def _parts(config: "Config", state: Mapping | None, device: "torch.device") -> "Parts":
    import torch

    from dataloaders.building import build_loaders
    from dataloaders.label_counts import loss_weights
    from models.building import build_model, check_batch, place
    from models.input_statistics import weight_statistics
    from trainer import Parts
    from utils.config.registry import build
    from utils.hardware.distributed import world_size
    from utils.losses.table import build_loss
    from utils.optim.lr_scheduler import SCHEDULERS
    from utils.optim.optimizers import build_optimizer
    from utils.run.resume import check_classes

    _check_components(config)
    weights_saw = weight_statistics(
        config.arch.type, config.arch.args, needed=config.normalize is not None
    )
    torch.manual_seed(config.seed)
    train_loader, val_loader = build_loaders(**_sections(config), pin_memory=device.type == "cuda")
    datasets = [loader.dataset for loader in (train_loader, val_loader) if loader is not None]
    _normalize(config, weights_saw, datasets, fresh=state is None)
    check_classes(train_loader.dataset.classes, state)
    weights = config.class_weights
    loss = build_loss(
        config.loss.type,
        config.loss.args,
        num_classes=len(train_loader.dataset.classes),
        ignore_index=config.ignore_index,
        class_weights=weights and loss_weights(weights, train_loader.dataset),
        aux_weight=config.aux_weight,
    )
    model = build_model(
        config.arch.type,
        config.arch.args,
        num_classes=len(train_loader.dataset.classes),
        in_channels=len(train_loader.dataset.mean),
        init_from=config.init_from,
        restoring=state is not None,
    )
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
        batch_size=train_loader.batch_size,
        smallest=train_loader.smallest_batch * world_size(),
        crop_size=train_loader.dataset.crop_size if train_loader.dataset.augments else None,
    )
    optimizer = build_optimizer(
        model,
        name=config.optimizer.type,
        args=config.optimizer.args,
        differential_lr=config.optimizer.differential_lr,
        backbone_lr_factor=config.optimizer.backbone_lr_factor,
        layer_decay=config.optimizer.layer_decay,
        no_decay_norm_bias=config.optimizer.no_decay_norm_bias,
    )
    schedule = build(
        "lr_scheduler",
        SCHEDULERS,
        config.lr_scheduler.type,
        config.lr_scheduler.args,
        optimizer=optimizer,
        total_steps=config.trainer.epochs * -(-len(train_loader) // config.trainer.accumulate),
    )
    return Parts(
        model=model,
        network=network,
        loss=loss.to(device),
        optimizer=optimizer,
        schedule=schedule,
        train_loader=train_loader,
        val_loader=val_loader,
    )


def _normalize(
    config: "Config",
    weights_saw: "Statistics | None",
    datasets: "Sequence[BaseDataset]",
    *,
    fresh: bool,
) -> None:
    """Let images be normalised as the config says; log where the weights saw others."""
    from models.input_statistics import difference

    if weights_saw is None:
        return
    for data in datasets:
        if config.normalize is not None:
            data.normalize_by(*weights_saw)
        elif fresh and config.arch.args.get("pretrained") is not False:
            if note := difference(weights_saw, mean=data.mean, std=data.std):
                log.info(note)
            return


def _check_components(config: "Config") -> None:
    """Refuse wrong names and arguments before the data, which may take minutes, are looked at."""
    from models import MODELS
    from utils.config.registry import component_faults
    from utils.losses.table import LOSSES
    from utils.optim.lr_scheduler import SCHEDULERS
    from utils.optim.optimizers import OPTIMIZERS

    tables = {"arch": MODELS, "optimizer": OPTIMIZERS, "loss": LOSSES, "lr_scheduler": SCHEDULERS}
    faults: list[str] = []
    for kind, table in tables.items():
        chosen = getattr(config, kind)
        faults += component_faults(kind, table, chosen.type, chosen.args)
    if faults:
        raise ConfigError("\n".join(faults))


def _sections(config: "Config") -> dict[str, Any]:
    """What the config says about its data, as dataloaders/building.py takes it."""
    train, val = config.train_loader, config.val_loader
    return {
        "train": (train.type, train.args),
        "val": (val.type, val.args) if val is not None and config.trainer.val else None,
        "ignore_index": config.ignore_index,
        "seed": config.seed,
    }


def _open_run(config: "Config", state: Mapping | None, folder: Path | None) -> "RunLog":
    from utils.hardware.distributed import rank
    from utils.run import folder as run_folder
    from utils.run.log import RunLog, open_run

    if rank() != 0:
        return RunLog(None)
    resumed = None if folder is None else state
    if folder is None:
        folder = run_folder.create(Path(config.trainer.save_dir), config.name)
    log_dir = Path(config.trainer.log_dir) / config.name / folder.name
    tensorboard = log_dir if config.trainer.tensorboard else None
    return open_run(folder, config.resolved(), tensorboard=tensorboard, resumed=resumed)


def _description(config: "Config", data: "BaseDataset") -> dict[str, object]:
    return {
        "arch": config.arch.type,
        "config": config.resolved(),
        **{name: getattr(data, name) for name in _OF_THE_DATA},
    }


def _print_result(config: "Config", trainer: "Trainer", folder: Path) -> None:
    from utils.run.next_steps import best_line, commands, example_picture

    val_loader = trainer.parts.val_loader
    data = (val_loader or trainer.parts.train_loader).dataset
    print(best_line(trainer.monitor, crop=None if val_loader is None else data.crop_size))
    print(f"run folder: {folder}")
    for command in commands(
        folder,
        example=example_picture(data, folder),
        log_dir=config.trainer.log_dir if config.trainer.tensorboard else None,
        on_cpu=trainer.device.type == "cpu",
    ):
        print(f"next: {command}")


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

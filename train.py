"""Train a segmentation network from one JSON file.

    python train.py --config config.json                     # a CPU, or the GPUs that n_gpu says
    python train.py --config config.json --set trainer.epochs=5 optimizer.args.lr=0.005
    python train.py --resume saved/ENet/2026-01-31_12-00-00  # go on where a run was stopped
    torchrun --nnodes 2 --nproc_per_node 8 ... train.py --config config.json

Exit codes: 0 ok, 1 our bug, 2 usage or config, 3 data, 4 checkpoint, 5 not finite, 6 resource,
130 Ctrl-C, 143 SIGTERM.
"""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import CheckpointError, ConfigError, guard

if TYPE_CHECKING:
    import torch

    from base.base_data_loader import BaseDataLoader
    from base.base_dataset import BaseDataset
    from base.base_model import BaseModel
    from base.base_trainer import Plan
    from trainer import Trainer
    from utils.config import Component, Config
    from utils.runlog import RunLog

log = logging.getLogger("segmentation")

_SAMPLES = 8  # validation pictures left for a first try at inference


def main(arguments: Sequence[str]) -> int:
    """Run the command; see the module's text."""
    args = _parse(arguments)
    from utils.devices import restrict_gpus

    restrict_gpus(args.device)
    if args.resume is None:
        from utils.config import load_config

        config, state, folder = load_config(args.config or "config.json", args.set), None, None
    else:
        config, state, folder = _resumed(args)
    return _train(config, state, folder, device_name=args.device)


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
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="change keys of the config, such as trainer.epochs=5",
    )
    return parser.parse_args(arguments)


def _resumed(args: argparse.Namespace) -> tuple["Config", dict, Path | None]:
    """The config, the state and the folder of the run to go on with."""
    from utils import run_folder
    from utils.config import parse_config

    if args.config is not None:
        log.info("--config is not read: a resumed run goes on with its own; use --set to change it")
    path, state = run_folder.find_checkpoint(Path(args.resume))
    own = parse_config(state["config"])
    config = parse_config(state["config"], source=str(path), overrides=args.set)
    _report_changes(own.resolved(), config.resolved())
    if config.arch != own.arch:
        raise ConfigError(
            f"--set arch: a resumed run keeps its network ({own.arch.type}); to start another one "
            f"from these weights, train anew with --set init_from={path}"
        )
    log.info("going on from %s (epoch %d, iteration %d)", path, state["epoch"], state["step"])
    # A file that was moved away from its run folder starts a folder of its own.
    folder = path.parent if (path.parent / "metrics.jsonl").exists() else None
    return config, state, folder


def _report_changes(old: Mapping, new: Mapping, path: str = "") -> None:
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        where = f"{path}{key}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            _report_changes(before, after, f"{where}.")
        elif before != after:
            log.info("changed: %s from %s to %s", where, before, after)


def _train(
    config: "Config", state: dict | None, folder: Path | None, *, device_name: str | None
) -> int:
    from utils.runlog import log_to_console

    log_to_console()
    trainer = assemble(config, state, folder, device_name=device_name)
    trainer.fit()
    trainer.run.close()
    _print_result(config, trainer)
    return 0


def assemble(
    config: "Config", state: dict | None, folder: Path | None, *, device_name: str | None
) -> "Trainer":
    """Build everything that a run needs, in the order in which faults are cheapest to find.

    Args:
        config: The accepted config.
        state: The checkpoint to go on from, or None.
        folder: Its run folder, or None for a new one.
        device_name: The command line's `--device`.

    Returns:
        A trainer that stands where `state` says.

    Raises:
        UserError: Whatever the user can mend; nothing has been written then.
    """
    import torch

    from trainer import Parts, Step, Trainer
    from utils.devices import pick_device
    from utils.losses import LOSSES, WithAuxiliary
    from utils.lr_scheduler import SCHEDULERS
    from utils.optimizers import build_optimizer
    from utils.precision import resolve_precision
    from utils.registry import build

    device = pick_device("cpu" if config.n_gpu == 0 else device_name)
    torch.manual_seed(config.seed)
    train_loader = _loader(config, "train_loader", device)
    val_loader = _loader(config, "val_loader", device) if config.trainer.val else None
    data = train_loader.dataset
    _check_classes(data, state)
    loss = build(
        "loss", LOSSES, config.loss.type, config.loss.args, ignore_index=config.ignore_index
    )
    model = _build_model(config, train_loader, restoring=state is not None)
    model.to(device, memory_format=torch.channels_last)
    optimizer = build_optimizer(
        model,
        name=config.optimizer.type,
        args=config.optimizer.args,
        differential_lr=config.optimizer.differential_lr,
        backbone_lr_factor=config.optimizer.backbone_lr_factor,
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
    parts = Parts(
        model=model,
        network=model,
        loss=WithAuxiliary(loss, config.aux_weight).to(device),
        optimizer=optimizer,
        schedule=schedule,
        train_loader=train_loader,
        val_loader=val_loader,
    )
    step = Step(
        precision=resolve_precision(config.trainer.precision, device),
        accumulate=config.trainer.accumulate,
        clip_grad_norm=config.trainer.clip_grad_norm,
        ema=config.trainer.ema,
        seed=config.seed,
    )
    trainer = Trainer(
        parts,
        device=device,
        step=step,
        plan=_plan(config),
        run=_open_run(config, state, folder),
        description=_description(config, data),
    )
    if state is not None:
        trainer.restore(state)
    return trainer


def _loader(config: "Config", kind: str, device: "torch.device") -> "BaseDataLoader":
    from dataloaders.building import build_loader

    component: Component = getattr(config, kind)
    return build_loader(
        kind,
        component.type,
        component.args,
        ignore_index=config.ignore_index,
        seed=config.seed,
        pin_memory=device.type == "cuda",
    )


def _check_classes(data: "BaseDataset", state: Mapping | None) -> None:
    if state is not None and list(data.classes) != state["classes"]:
        raise CheckpointError(
            f"the checkpoint's classes are not the data set's: {len(state['classes'])} "
            f"({_some(state['classes'])}) against {len(data.classes)} ({_some(data.classes)})\n"
            "  a resumed run keeps its classes; start anew with init_from to change them"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _build_model(config: "Config", loader: "BaseDataLoader", *, restoring: bool) -> "BaseModel":
    from models import MODELS
    from utils.registry import build

    args = dict(config.arch.args)
    if restoring and args.get("pretrained"):
        args["pretrained"] = False  # the checkpoint brings the weights
    data = loader.dataset
    model = build(
        "arch",
        MODELS,
        config.arch.type,
        args,
        num_classes=len(data.classes),
        in_channels=len(data.mean),
    )
    for note in model.notes:
        log.info("arch.args: %s", note)
    if loader.smallest_batch < model.min_train_batch:
        raise ConfigError(
            f"train_loader.args.batch_size: a process would train on {loader.smallest_batch} image "
            f"at a time, and {config.arch.type} has batch normalisation on values pooled to 1x1, "
            f"which needs {model.min_train_batch}\n"
            '  fix: a larger "batch_size" (or "drop_last": true), or "freeze_bn": true'
        )
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.info("arch: %s, %.2f M trainable parameters", config.arch.type, count / 1e6)
    return model


def _plan(config: "Config") -> "Plan":
    from base.base_trainer import Plan

    section = config.trainer
    return Plan(
        epochs=section.epochs,
        save_period=section.save_period,
        save_per_iters=section.save_per_iters,
        keep=section.keep,
        monitor=section.monitor,
        early_stop=section.early_stop,
        log_per_iter=section.log_per_iter,
        val=section.val,
        val_per_epochs=section.val_per_epochs,
    )


def _open_run(config: "Config", state: Mapping | None, folder: Path | None) -> "RunLog":
    from utils import run_folder
    from utils.checkpoint import write_durably
    from utils.runlog import RunLog

    resumed = state is not None and folder is not None
    if folder is None:
        folder = run_folder.create(Path(config.trainer.save_dir), config.name)
    run_folder.remove_leftovers(folder)
    text = json.dumps(config.resolved(), indent=2, ensure_ascii=False) + "\n"
    write_durably(folder / "config.json", text.encode())
    tensorboard = Path(config.trainer.log_dir) / config.name / folder.name
    return RunLog(
        folder,
        tensorboard=tensorboard if config.trainer.tensorboard else None,
        resume_bytes=state["log_bytes"] if resumed else None,
        resume_step=state["step"] if resumed else None,
    )


def _description(config: "Config", data: "BaseDataset") -> dict[str, object]:
    import torch

    return {
        "arch": config.arch.type,
        "config": config.resolved(),
        "classes": data.classes,
        "palette": data.palette,
        "mean": data.mean,
        "std": data.std,
        "ignore_index": data.ignore_index,
        "input_dtype": data.input_dtype,
        "crop_size": data.crop_size,
        "versions": {"torch": str(torch.__version__), "python": sys.version.split()[0]},
    }


def _print_result(config: "Config", trainer: "Trainer") -> None:
    folder = trainer.run.folder
    if folder is None:
        return
    monitor, val_loader = trainer.monitor, trainer.parts.val_loader
    if monitor.best is not None:
        crop = None if val_loader is None else val_loader.dataset.crop_size
        note = "" if crop is None else f", scored on centre crops of {crop} px, not whole images"
        print(f"best {monitor.metric} {monitor.best:.4f} (epoch {monitor.best_epoch}{note})")
    print(f"run folder: {folder}")
    if config.trainer.tensorboard:
        print(f"next: tensorboard --logdir {shlex.quote(config.trainer.log_dir)}")
    data = (val_loader or trainer.parts.train_loader).dataset
    images, extension = _pictures(data, folder)
    best = folder / "best_model.pth"
    command = ["python", "inference.py", "--model", str(best if best.exists() else folder / "last.pth")]
    command += ["--images", str(images)]
    if extension != "jpg":
        command += ["--extension", extension]
    if trainer.device.type == "cpu":
        command += ["--mode", "whole"]
    print(f"next: {shlex.join(command)}")


def _pictures(data: "BaseDataset", folder: Path) -> tuple[Path, str]:
    """Where there are pictures to segment; those of a generated data set are written out."""
    from PIL import Image

    first = Path(data.name(0))
    if first.is_file():
        return first.parent, first.suffix.removeprefix(".").lower()
    samples = folder / "samples"
    samples.mkdir(exist_ok=True)
    for index in range(min(_SAMPLES, len(data))):
        picture = Image.fromarray(data.load(index)[0])
        picture.save(samples / f"{data.name(index)}.jpg", quality=95)
    return samples, "jpg"


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

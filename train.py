"""Train a segmentation network from one JSON file.

    python train.py --config config.json                     # a CPU, or the GPUs that n_gpu says
    python train.py --config config.json --set trainer.epochs=5 optimizer.args.lr=0.005
    python train.py --resume saved/ENet/2026-01-31_12-00-00  # go on where a run was stopped
    torchrun --nnodes 2 --nproc_per_node 8 ... train.py --config config.json

Exit codes: 0 ok, 1 our bug, 2 usage or config, 3 data, 4 checkpoint, 5 not finite, 6 resource,
129 SIGHUP,
130 Ctrl-C, 143 SIGTERM.
"""

import argparse
import gc
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from utils import PACKAGE, VERSION
from utils.errors import DataError, guard

if TYPE_CHECKING:
    import torch

    from trainer import Trainer
    from utils.config.config import Config

log = logging.getLogger("segmentation")


def main(arguments: Sequence[str]) -> int:
    """Run the command; see the module's text."""
    args = _parse(arguments)
    gc.set_threshold(10_000)  # by default a third of a start over 100,000 files goes into searching
    from utils.hardware.devices import asked_device, restrict_gpus

    restrict_gpus(args.device)
    if args.resume is None:
        from utils.config.config import load_config

        config, state, folder = load_config(args.config or "config.json", args.set), None, None
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
    device = asked_device(args.device, n_gpu=config.n_gpu)
    if args.check_data:
        return _check_data(config, state, folder, device_name=device)
    processes = _processes(config, device)
    if processes > 1:
        from utils.hardware.distributed import launch

        # -P keeps the folder that the user stands in off the search path, as it is off ours.
        state = None  # a second copy of all weights, for the whole run
        program = ["-P", "-m", f"{PACKAGE}train"] if PACKAGE else [__file__]
        return launch([*program, *arguments], processes=processes)
    if args.benchmark is not None:
        return _benchmark(config, args.benchmark, device_name=device)
    return _train(config, state, folder, device_name=device, plugins=args.plugin)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="docs/config.md explains every key of the config.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    parser.add_argument("-c", "--config", help="the JSON file (default: config.json)")
    parser.add_argument("-r", "--resume", metavar="FILE|RUN_DIR", help="go on from a checkpoint")
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
    plugin = "adds components of yours"
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help=plugin)
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


def _check_data(
    config: "Config", state: dict | None, folder: Path | None, *, device_name: str | None
) -> int:
    """Look at all data, and then for whatever else a training refuses before its first batch."""
    from assembly import assemble, choose_components, data_sections
    from dataloaders.building import check_data
    from utils.hardware.devices import pick_device
    from utils.hardware.distributed import environment_rank

    if environment_rank() != 0:
        return 0
    _check_folders(config, folder)
    choose_components(config)
    report, usable = check_data(**data_sections(config))
    print(report)
    if usable:
        assemble(config, state, device=pick_device(device_name))
    return 0 if usable else DataError.exit_code


def _check_folders(config: "Config", folder: Path | None) -> None:
    from utils.run.folder import check_folders

    section = config.trainer
    check_folders(
        save_dir=None if folder else Path(section.save_dir) / config.name,
        log_dir=Path(section.log_dir) / config.name if section.tensorboard else None,
    )


def _train(
    config: "Config",
    state: dict | None,
    folder: Path | None,
    *,
    device_name: str | None,
    plugins: Sequence[str],
) -> int:
    from assembly import assemble, open_log, start_lines
    from utils.hardware.memory import peak_memory
    from utils.pages.runs import write_report

    with _processes_met(config, device_name) as device:
        _check_folders(config, folder)
        trainer = assemble(config, state, device=device, plugins=plugins)
        with open_log(config, state, folder) as run:
            if state is not None:
                state.clear()  # callers hold it: a second copy of all weights, for the whole run
            for line in start_lines(config, trainer):
                log.info("%s", line)
            trainer.fit(run)
            if run.folder is not None:
                log.info("peak memory %.0f MiB", peak_memory(device) / 2**20)
                write_report(run.folder)
                _print_result(config, trainer, run.folder)
    return 0


def _benchmark(config: "Config", iterations: int, *, device_name: str | None) -> int:
    from assembly import assemble
    from measuring import MeasuredTrainer
    from utils.hardware.memory import peak_memory
    from utils.run.stopwatch import report

    with _processes_met(config, device_name) as device:
        trainer = assemble(config, None, device=device, kind=MeasuredTrainer)
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


def _print_result(config: "Config", trainer: "Trainer", folder: Path) -> None:
    from dataloaders.examples import example_image
    from utils.run.next_steps import result_lines

    loader = trainer.parts.val_loader or trainer.parts.train_loader
    for line in result_lines(
        folder,
        trainer.monitor,
        example=example_image(loader.dataset, folder),
        crop=loader.dataset.crop_size if trainer.parts.val_loader else None,
        validated=trainer.parts.val_loader is not None,
        log_dir=config.trainer.log_dir if config.trainer.tensorboard else None,
        on_cpu=trainer.device.type == "cpu",
        plugins=trainer.description["plugins"],
    ):
        print(line)
        log.debug("%s", line)  # into train.log


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

"""From what a config says about a model to a network on its devices, ready to train."""

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from models import build_network, check_weights, load_matching
from utils.config.registry import Choice
from utils.errors import ConfigError
from utils.files.tensor_files import read, weights_in
from utils.hardware.depthwise import replace_depthwise
from utils.hardware.parallel import convert_sync_batchnorm, shares, spread, synchronizes_batch_norm
from utils.hardware.recompute import recompute_blocks
from utils.run.folder import find_model

log = logging.getLogger("segmentation")


def check_model(
    arch: Choice[BaseModel], init_from: str | None, state: Mapping | None
) -> Mapping[str, Tensor] | None:
    """Build a model without memory: what is wrong is told before the data are looked at.

    Returns:
        The weights that are in the file `init_from`; nothing before they are restored from the
        checkpoint `state`; None: pretrained ones are to be loaded.

    Raises:
        ConfigError: Weights that cannot be had; none are downloaded.
        CheckpointError: A weight file is missing, damaged, or of another encoder.
    """
    if state is not None:
        check_weights(state)
        return {}
    file = None if init_from is None else find_model(Path(init_from))
    start = None if file is None else weights_in(read(file), file)
    arch = arch if start is None else arch.but(pretrained=False)
    # What computes with values while it is built cannot be built so, and is left to `build_model`.
    with torch.device("meta"), contextlib.suppress(RuntimeError, TypeError):
        arch.build(num_classes=2, in_channels=3)
    return start


def build_model(
    arch: Choice[BaseModel],
    *,
    num_classes: int,
    in_channels: int,
    start: Mapping[str, Tensor] | None,
) -> BaseModel:
    """Build a model with the weights it starts from, on the CPU.

    Args:
        arch: A model of the table.
        num_classes: Classes of the data set.
        in_channels: Channels of its images.
        start: What `check_model` returned: its fitting tensors are taken, the rest is reported.

    Raises:
        ConfigError: As `build_network`.
        CheckpointError: Nothing in `start` fits.
    """
    if (asked := arch.args.get("in_channels", in_channels)) != in_channels:
        raise ConfigError(
            f"arch.args.in_channels: found {asked}, the images have {in_channels}\n"
            "  fix: delete it, or give the data set as many values in mean and std"
        )
    arch = arch if start is None else arch.but(pretrained=False)
    model = build_network(arch, num_classes=num_classes, in_channels=in_channels)
    for note in model.notes:
        log.info("arch.args: %s", note)
    if start:
        found = load_matching(model, start)
        groups = (list(found.taken), found.misfits, found.missing, found.unexpected)
        words = ("tensors taken", "left for their shape", "missing in it", "unexpected in it")
        for group, what in zip(groups, words, strict=True):
            log.info("init_from: %d %s  %s", len(group), what, ", ".join(group[:3]))
    return model


def place(
    model: BaseModel,
    device: torch.device,
    *,
    channels_last: bool,
    recompute: bool,
    compiled: bool,
    use_synch_bn: bool,
    parallel: str,
    n_gpu: int,
) -> nn.Module:
    """Bring a model to its device or devices.

    Args:
        model: Changed in place.
        device: This process's device.
        channels_last: Keep channels innermost in memory.
        recompute: Gradient checkpointing of the backbone's blocks.
        compiled: With torch.compile, at the first batch.
        use_synch_bn: Batch statistics over all processes.
        parallel: As in `utils.hardware.parallel.spread`.
        n_gpu: As in `utils.hardware.parallel.spread`.

    Returns:
        What the training step calls.
    """
    if synchronizes_batch_norm(device, use_synch_bn=use_synch_bn):
        convert_sync_batchnorm(model)
    model.to(device)
    model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    if recompute:
        blocks = recompute_blocks(getattr(model, "backbone", None))
        without = "no effect: the model has no backbone made of repeated blocks"
        effect = f"{blocks} blocks of the backbone" if blocks else without
        log.info("trainer.recompute: %s", effect)
    if device.type == "cpu":
        replace_depthwise(model)
    if compiled:
        model.compile()
    return spread(model, device, parallel=parallel, n_gpu=n_gpu)


def check_batch(
    model: BaseModel,
    network: nn.Module,
    *,
    batch_size: int,
    smallest: int,
    crop_size: int | None,
) -> None:
    """Refuse batches that leave a device too few images; say how a batch is divided.

    Args:
        model: Says how many images it needs.
        network: What `place` returned.
        batch_size: Images of a batch, all devices together.
        smallest: The same for the smallest batch of an epoch.
        crop_size: Side of the training images; None when they are not cropped.

    Raises:
        ConfigError: Too few, with the fix.
    """
    devices = shares(network)
    own = smallest // devices
    if own == 0:
        raise ConfigError(
            f"train_loader.args.batch_size: {smallest} images for {devices} devices, at least one "
            "each is needed; set a larger batch_size or a smaller n_gpu"
        )
    # Synchronized statistics are taken over the images of all devices.
    together = smallest if any(isinstance(m, nn.SyncBatchNorm) for m in model.modules()) else own
    needed = model.fewest_images(crop_size)
    if together < needed:
        pooled = together < model.min_train_batch
        what = "values pooled to" if pooled else f"a map of crop_size {crop_size}, which shrinks to"
        larger = "" if pooled else ', a larger "crop_size"'
        raise ConfigError(
            f"train_loader.args.batch_size: a device would train on {own} image at a time, and "
            f"{type(model).__name__} has batch normalization on {what} 1x1: that needs {needed}\n"
            f'  fix: a larger "batch_size" (or "drop_last": true){larger}, or "freeze_bn": true'
        )
    if devices > 1:
        log.info("batch_size: %d in all, %d a device", batch_size, batch_size // devices)

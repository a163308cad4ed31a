"""One network on several devices: DDP, the ancestor's DataParallel, SyncBN."""

import inspect
import logging
import sys

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from utils.hardware import distributed

log = logging.getLogger("segmentation")

_SYNC = ("forward_sync_buffers", "broadcast_buffers")  # since torch 2.14, and before
_SYNC_BUFFERS = _SYNC[_SYNC[0] not in inspect.signature(DistributedDataParallel).parameters]


def processes_wanted(n_gpu: int, parallel: str, *, gpus: int) -> int:
    """How many processes plain `train.py` starts: one a GPU, one in all without GPUs.

    Args:
        n_gpu: What the config asks for; more than there are is clipped with one line.
        parallel: "auto" or "DDP": a process a GPU; "DataParallel": one process.
        gpus: How many GPUs this machine shows.
    """
    if gpus < n_gpu:
        log.warning("n_gpu: %d asked for, %d there: using %s", n_gpu, gpus, gpus or "the CPU")
    if parallel == "DataParallel":
        return 1
    return max(1, min(n_gpu, gpus))


def synchronizes_batch_norm(device: torch.device, *, use_synch_bn: bool) -> bool:
    """Whether batch statistics are shared; says so once where they cannot be.

    Args:
        device: This process's device.
        use_synch_bn: What the config asks for.
    """
    if use_synch_bn and not (device.type == "cuda" and distributed.world_size() > 1):
        log.info("use_synch_bn has no effect on a CPU or in a single process")
        return False
    return use_synch_bn


def spread(model: nn.Module, device: torch.device, *, parallel: str, n_gpu: int) -> nn.Module:
    """What the training step calls: the model itself, or what shares its weights over devices.

    Args:
        model: On `device`.
        device: This process's device.
        parallel: "auto" and "DDP" wrap where there are several processes; "DataParallel" where
            this process has several GPUs.
        n_gpu: How many GPUs DataParallel takes.
    """
    if distributed.world_size() > 1:
        return DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            # The first process's batch statistics are the ones that are scored and saved.
            **{_SYNC_BUFFERS: False},  # pyrefly: ignore[bad-argument-type]
        )
    if parallel == "DataParallel" and device.type == "cuda":
        count = min(n_gpu, torch.cuda.device_count())
        return DataParallel(model, device_ids=list(range(count)))
    return model


def shares(network: nn.Module) -> int:
    """Among how many devices a batch is divided."""
    if isinstance(network, DataParallel):
        return len(network.device_ids)
    return distributed.world_size()


def convert_sync_batchnorm(model: nn.Module) -> nn.Module:
    """Return ``model`` with its batch normalization synchronized between processes.

    torch's own conversion drops the activation that timm keeps inside its normalization layers, so
    timm's is used as soon as a timm encoder can be part of the model.
    """
    if "timm" in sys.modules:
        from timm.layers import convert_sync_batchnorm as convert

        return convert(model)
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)

"""Trainers in a size that a test can afford, and what one of their steps leaves behind."""

import copy

import torch
from conftest import tiny_config
from torch import nn

from assembly import assemble
from trainer import Trainer
from utils.config.config import parse_config


def plain_config(folder, **trainer):
    """A small UNet without anything that depends on how a batch is divided.

    No dropout, batch statistics frozen: a loss is then a sum over pixels.
    """
    config = tiny_config(folder, **{"precision": "fp32", **trainer})
    config["arch"] = {"type": "UNet", "args": {"base_channels": 4, "freeze_bn": True}}
    for loader in ("train_loader", "val_loader"):
        config[loader]["args"] |= {"height": 32, "width": 32}
    config["train_loader"]["args"] |= {"base_size": 32, "crop_size": 32}
    return config


def trainer_of(config, device="cpu", *, kind=Trainer):
    """The trainer that train.py would run, with dropout off where batch norm is frozen."""
    trainer = assemble(parse_config(config), None, device=torch.device(device), kind=kind)
    if config["arch"].get("args", {}).get("freeze_bn"):
        for module in trainer.model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
    trainer.parts.network.train()
    return trainer


def batches_of(trainer, epoch=1):
    """The training batches of an epoch."""
    trainer.parts.train_loader.set_position(epoch)
    return list(trainer.parts.train_loader)


def record_gradients(trainer):
    """A list to which every update will add its gradient, flat, before clipping."""
    gradients = []
    unscale = trainer.update.unscale

    def recording():
        parameters = trainer.model.parameters()
        gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        unscale()

    trainer.update.unscale = recording
    return gradients


def weights_of(trainer):
    """A copy of the model's tensors and of the optimizer's."""
    slots = trainer.optimizer.state_dict()["state"]
    moments = {f"{i}.{name}": value for i, slot in slots.items() for name, value in slot.items()}
    return copy.deepcopy({**trainer.model.state_dict(), **moments})


def relative_difference(ours, theirs):
    """The length of the difference of two vectors by the length of the second."""
    return float((ours - theirs).norm() / theirs.norm())

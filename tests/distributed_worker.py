"""Training steps in one of several processes; what they computed goes to a file.

Run by torch's launcher: distributed_worker.py CONFIG OUTPUT DEVICE
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
torch.set_num_threads(1)

from evaluation_cases import evaluated  # noqa: E402
from small_models import UperNetOnSwin  # noqa: E402
from training import record_gradients, trainer_of  # noqa: E402

from models import MODELS  # noqa: E402
from utils.hardware import distributed, parallel  # noqa: E402
from utils.hardware.prefetch import on_device  # noqa: E402

STEPS = 10


def ten_steps(config, device="cpu"):
    """Scores before training, then the batches, losses, gradients and counts of ten steps."""
    trainer = trainer_of(config, device)
    scores = trainer.validate(0)
    trainer.parts.network.train()
    gradients = record_gradients(trainer)
    indices, losses, first_counts, statistics = [], [], None, None
    trainer.parts.train_loader.set_position(1)
    for batch in on_device(trainer.parts.train_loader, trainer.device):
        trainer.train_iteration([batch])
        everyone = distributed.collect(batch.indices)
        indices.append([index for own in everyone for index in own])
        losses.append(trainer.totals.recent_loss())
        if first_counts is None:
            first_counts = trainer.totals.state()["counts"].cpu()
            statistics = {
                name: value.cpu().clone() for name, value in trainer.model.named_buffers()
            }
    assert len(losses) == STEPS
    return {
        "scores": scores,
        "indices": indices,
        "losses": losses,
        "gradients": torch.stack(gradients).cpu(),
        "first_counts": first_counts,
        "statistics": statistics,
        "weights": {name: value.cpu() for name, value in trainer.state()["state_dict"].items()},
    }


def own_numbers(rank):
    """What a process feeds to the network of `two_updates`: (4, 1, 5, 5)."""
    return torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(rank)) + rank


def small_network():
    """A convolution and batch normalization, the same in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def two_updates(device):
    """Two forward and backward passes of each process over numbers of its own."""
    model = small_network().to(device)
    network = parallel.spread(model, torch.device(device), parallel="auto", n_gpu=1)
    for _ in range(2):
        model.zero_grad()
        network(own_numbers(distributed.rank()).to(device)).square().sum().backward()
    own = model[1].running_mean.cpu().clone()
    distributed.from_first(model.buffers())
    return {
        "gradient": model[0].weight.grad.cpu(),
        "statistics": own,
        "first_statistics": model[1].running_mean.cpu(),
        "shares": parallel.shares(network),
    }


if __name__ == "__main__":
    # TF32 rounds differently for a batch and its parts.
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    config_file, output, device = sys.argv[1:]
    config = json.loads(Path(config_file).read_text())
    MODELS["UperNetOnSwin"] = UperNetOnSwin
    # Over gloo on a GPU as well: NCCL takes a GPU for each process.
    with distributed.process_group("cpu"), warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        found = ten_steps(config, device)
        found["processes"] = distributed.world_size()
        found["two_updates"] = two_updates(device)
        found["evaluation"] = evaluated()
        torch.save(found, f"{output}.{distributed.rank()}")

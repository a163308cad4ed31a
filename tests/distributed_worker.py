"""Ten training steps in one of several processes; what they computed goes to a file.

Run by torch's launcher: distributed_worker.py CONFIG OUTPUT
"""

import json
import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
torch.set_num_threads(1)

from training import record_gradients, trainer_of  # noqa: E402

from utils.hardware import distributed  # noqa: E402

STEPS = 10


def ten_steps(config):
    """Scores before training, then the batches, losses, gradients and counts of ten steps."""
    trainer = trainer_of(config)
    scores = trainer.validate(0)
    trainer.parts.network.train()
    gradients = record_gradients(trainer)
    indices, losses, first_counts = [], [], None
    trainer.parts.train_loader.set_position(1)
    for batch in trainer.parts.train_loader:
        trainer.train_iteration([batch])
        everyone = distributed.collect(batch.indices)
        indices.append([index for own in everyone for index in own])
        losses.append(trainer.totals.recent_loss())
        if first_counts is None:
            first_counts = trainer.totals.state()["counts"]
    assert len(losses) == STEPS
    return {
        "scores": scores,
        "indices": indices,
        "losses": losses,
        "gradients": torch.stack(gradients),
        "first_counts": first_counts,
        "weights": trainer.model.state_dict(),
    }


if __name__ == "__main__":
    with distributed.process_group("cpu"):
        found = ten_steps(json.loads(Path(sys.argv[1]).read_text()))
        found["processes"] = distributed.world_size()
        torch.save(found, f"{sys.argv[2]}.{distributed.rank()}")

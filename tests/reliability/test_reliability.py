"""A small share of the trials in every test run, all of them with `-m reliability`.

The numbers of docs/reliability.md come from `python tests/reliability/table.py`.
"""

import random

import pytest
import table
from runs import reference

import base.base_data_loader as base_data_loader
import trainer
from utils.run import checkpoint

FEW = {
    "kills at random times": 1,
    "kills at each call of a save": 1,
    "kills in start-up, validation, resuming": 1,
    "power losses": 60,
    "storage that fails": 1,
    "damaged checkpoints": 30,
    "forged checkpoints": 20,
    "malicious files": 12,
    "broken configs": 20,
    "damaged images and masks": 50,
    "files in the way of results": 4,
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", FEW)
def test_a_few_trials_end_as_promised(kind):
    found = table.trials(kind, FEW[kind])
    assert found
    assert set(found) == {""}


@pytest.mark.reliability
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", table.KINDS)
def test_all_trials_end_as_promised(kind):
    found = table.trials(kind, table.KINDS[kind][1])
    assert len(found) >= 12
    assert set(found) == {""}


def in_place(path, data):
    """Save without a temporary file."""
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        table.interruptions.os.fdatasync(file.fileno())
        file.write(data[len(data) // 2 :])


def restarted(length, *, seed, epoch, order=base_data_loader.epoch_order):
    """An order that a process draws as it comes to it, not that of the epoch."""
    del seed, epoch
    return order(length, seed=random.getrandbits(30), epoch=0)


PLANTS = {
    "saved in place": (checkpoint, "write_durably", in_place),
    "random numbers not restored": (trainer, "iteration_seed", lambda *_: random.getrandbits(30)),
    "order begun anew": (base_data_loader, "epoch_order", restarted),
}


@pytest.mark.reliability
@pytest.mark.timeout(900)
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_caught(plant, monkeypatch, tmp_path):
    """Each child draws the same numbers from its start on, as a process with a fixed seed does."""
    runs = table.interruptions
    runs.warm()
    random.seed(0)
    monkeypatch.setattr(*PLANTS[plant])
    reference.cache_clear()
    try:
        if plant == "saved in place":
            kill = (runs.os, "fdatasync", 3, runs._die)
        else:
            kill = (trainer.Trainer, "train_iteration", 3, runs._die)
        runs.run(runs._planted(runs.begin(runs.write(tmp_path)), kill), tmp_path / "words")
        assert runs.brought_to_its_end(tmp_path) != ""
    finally:
        reference.cache_clear()

"""What several devices have to give: the same code for a CPU and for one GPU."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distributed_worker import STEPS, own_numbers, small_network
from torch.nn.parallel import DataParallel, DistributedDataParallel
from training import batches_of, plain_config, record_gradients, relative_difference, trainer_of

from utils.errors import DataError
from utils.hardware import distributed
from utils.hardware.prefetch import on_device

WORKER = Path(__file__).parent / "distributed_worker.py"


def ten_step_config(folder):
    """Ten batches of four; of validation two batches for one process and one for the other."""
    config = plain_config(folder)
    config["train_loader"]["args"]["length"] = 4 * STEPS
    config["val_loader"]["args"] |= {"length": 10}
    config["optimizer"] = {"type": "SGD", "args": {"lr": 0.01, "momentum": 0.9}}
    return config


def in_two_processes(config, folder, device):
    """What distributed_worker.py finds in each of two processes."""
    (folder / "config.json").write_text(json.dumps(config))
    arguments = [str(folder / "config.json"), str(folder / "found"), device]
    assert distributed.launch([str(WORKER), *arguments], processes=2) == 0
    return [torch.load(folder / f"found.{rank}", weights_only=True) for rank in range(2)]


def flat(scores):
    single = {name: value for name, value in scores.items() if not isinstance(value, dict)}
    return single | {
        f"{name}/{key}": -1.0 if value is None else value  # None: nothing to score
        for name, of_classes in scores.items()
        if name not in single
        for key, value in of_classes.items()
    }


def assert_equal_to_one(found, one, *, tolerance, flips=0.0):
    """Batches, losses, gradients, statistics, counts, scores and names are those of one process.

    Args:
        found: What each of two processes has.
        one: What one has.
        tolerance: Relative, of numbers.
        flips: The share of pixels whose class rounding may decide.
    """
    for two in found:
        assert two["processes"] == 2
        assert two["indices"] == one["indices"]
        assert two["losses"] == pytest.approx(one["losses"], rel=tolerance)
        for ours, theirs in zip(two["gradients"], one["gradients"], strict=True):
            assert relative_difference(ours, theirs) < tolerance
        assert two["statistics"].keys() == one["statistics"].keys()
        for name, value in one["statistics"].items():
            torch.testing.assert_close(two["statistics"][name], value, rtol=tolerance, atol=1e-6)
        flipped = (two["first_counts"] - one["first_counts"]).abs().sum() / 2
        assert flipped <= flips * one["first_counts"].sum()
        scores, expected = flat(two["scores"]), flat(one["scores"])
        assert scores.pop("val_loss") == pytest.approx(expected.pop("val_loss"), rel=tolerance)
        assert scores == pytest.approx(expected, rel=0, abs=10 * flips)
        assert list(two["weights"]) == list(one["weights"])
    for name, value in found[0]["weights"].items():
        assert torch.equal(value, found[1]["weights"][name])
    assert any(len(set(row)) == 4 for row in one["indices"])


def assert_gradients_are_shared_and_statistics_are_not(found):
    """Against the mean of the gradients that each process would have alone."""
    gradients, statistics = [], []
    for rank in range(2):
        model, numbers = small_network(), own_numbers(rank)
        model(numbers).square().sum().backward()
        gradients.append(model[0].weight.grad)
        batch = model[0](numbers).mean((0, 2, 3)).detach()
        statistics.append(0.9 * 0.1 * batch + 0.1 * batch)  # momentum 0.1, twice, from zero
    for rank, process in enumerate(found):
        two = process["two_updates"]
        assert two["shares"] == 2
        torch.testing.assert_close(two["gradient"], torch.stack(gradients).mean(0))
        torch.testing.assert_close(two["statistics"], statistics[rank])
        assert torch.equal(two["first_statistics"], found[0]["two_updates"]["statistics"])
    assert not torch.allclose(statistics[0], statistics[1], rtol=0.1)


@contextmanager
def one_process(backend):
    """A process group of this process alone."""
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def refuse():
    raise DataError("mask.png: no such file")


def assert_collectives_work(device, monkeypatch):
    """Each function sends its tensors through the group, here to this process alone."""
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    numbers = torch.arange(5, device=device)
    assert distributed.sum_over_processes(numbers.clone()).tolist() == [0, 1, 2, 3, 4]
    distributed.from_first([numbers])
    assert numbers.tolist() == [0, 1, 2, 3, 4]
    assert distributed.agree(3) == 3
    assert distributed.by_first(lambda: {"sizes": [(1, 2)]}) == {"sizes": [(1, 2)]}
    with pytest.raises(DataError, match="no such file"):
        distributed.by_first(refuse)


def replace_network(trainer, network):
    object.__setattr__(trainer.parts, "network", network.train())


def count_travels(trainer):
    """Let the trainer run under DDP; a list that grows with each bucket of gradients sent."""
    on_gpu = trainer.device.type == "cuda"
    network = DistributedDataParallel(
        trainer.model, device_ids=[trainer.device] if on_gpu else None
    )
    travels = []

    def travel(_state, bucket):
        travels.append(bucket.index())
        future = torch.futures.Future(devices=[bucket.buffer().device] if on_gpu else None)
        future.set_result(bucket.buffer())
        return future

    network.register_comm_hook(None, travel)
    replace_network(trainer, network)
    return travels


def assert_gradients_of_micro_batches_travel_once(folder, device):
    plain, trainer = (trainer_of(plain_config(folder), device) for _ in range(2))
    travels = count_travels(trainer)
    ours, theirs = record_gradients(trainer), record_gradients(plain)
    batches = list(on_device(batches_of(trainer)[:3], trainer.device))
    trainer.train_iteration(batches)
    plain.train_iteration(batches)
    assert travels == [0]
    torch.testing.assert_close(ours[0], theirs[0])
    trainer.train_iteration(batches[:1])
    assert travels == [0, 0]


def assert_replicas_give_the_step_of_one(folder, device, *, device_ids):
    """DataParallel with a replica for each of `device_ids`, which may name one GPU twice."""
    plain, trainer = (trainer_of(plain_config(folder), device) for _ in range(2))
    replace_network(trainer, DataParallel(trainer.model, device_ids=device_ids))
    ours, theirs = record_gradients(trainer), record_gradients(plain)
    batches = list(on_device(batches_of(trainer), trainer.device))
    for batch in batches:
        trainer.train_iteration([batch])
        plain.train_iteration([batch])
    for one, other in zip(ours, theirs, strict=True):
        assert relative_difference(one, other) < 1e-4
    assert trainer.validate(1)["Mean_IoU"] == pytest.approx(plain.validate(1)["Mean_IoU"], abs=1e-3)
    assert list(trainer.state()["state_dict"]) == list(plain.state()["state_dict"])

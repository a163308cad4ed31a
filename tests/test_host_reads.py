"""Between two log lines nothing is read back from the device, whatever the loss.

On a CPU a read costs nothing and is not forbidden, so it is looked for: at the level of operators
(what waits for the device inside torch) and at the level of calls (what a program says).
"""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from training import batches_of, plain_config, trainer_of

from utils.losses.table import LOSSES
from utils.metrics.confusion import ConfusionMatrix

# Operators whose CUDA kernels copy a value to the host, to return it or to size their result.
READING_OPERATORS = {
    "_local_scalar_dense",
    "_unique2",
    "allclose",
    "bincount",
    "equal",
    "histc",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
READING_CALLS = {
    "__array__",
    "__bool__",
    "__contains__",
    "__float__",
    "__index__",
    "__int__",
    "cpu",
    "item",
    "numpy",
    "tolist",
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


HOST = torch.device("cpu", 0)  # in these tests "the device" is torch.device("cpu")


class OnHost(torch.Tensor):
    """What the loader counted, and what is computed from it before it goes to the device."""


class Operators(TorchDispatchMode):
    """Collects operators that read back."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        sized = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in READING_OPERATORS or masks or sized:
            self.found.append(f"operator {name}")
        return func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    """Collects calls that read back, and copies to the CPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        kwargs = kwargs or {}
        target = [*args[1:], kwargs.get("device")] if name == "to" else []
        if args and isinstance(args[0], OnHost):
            value = func(*args, **kwargs)
            if func == torch.Tensor.device.__get__:
                return HOST
            return value.as_subclass(torch.Tensor) if target else value
        to_host = any(isinstance(value, OnHost) or value in ("cpu", HOST) for value in target)
        if name in READING_CALLS or to_host:
            self.found.append(f"call {name}")
        return func(*args, **kwargs)


def reads(run):
    """What reads back while something runs."""
    with Operators() as operators, Calls() as calls:
        run()
    return operators.found + calls.found


def iterations(trainer, count=10):
    size = trainer.step.accumulate
    batches = [
        batch._replace(label_counts=batch.label_counts.as_subclass(OnHost))
        for batch in batches_of(trainer)[:size]
    ]
    return lambda: [trainer.train_iteration(batches) for _ in range(count)]


ARGS = {"Sum": {"parts": [{"type": name} for name in LOSSES if name != "Sum"]}}


def tiny(folder, loss="CrossEntropyLoss2d", **trainer):
    config = plain_config(folder, **trainer)
    config["arch"]["args"]["base_channels"] = 2
    config["loss"] = {"type": loss, "args": ARGS.get(loss, {})}
    config["train_loader"]["args"]["batch_size"] = 2
    return trainer_of(config)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_reads_back(tmp_path, loss):
    assert reads(iterations(tiny(tmp_path, loss))) == []


@pytest.mark.parametrize(
    "trainer",
    [
        {"precision": "bf16", "accumulate": 2, "ema": 0.9},
        {"precision": "fp16", "clip_grad_norm": 1.0},
    ],
    ids=["bf16", "fp16"],
)
def test_no_option_reads_back(tmp_path, trainer):
    assert reads(iterations(tiny(tmp_path, **trainer))) == []


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_no_fused_optimiser_reads_back(tmp_path, name):
    config = plain_config(tmp_path)
    config["optimizer"] = {"type": name, "args": {"lr": 0.01}}
    assert reads(iterations(trainer_of(config))) == []


def test_an_optimiser_without_a_fused_form_reads_one_flag_an_update(tmp_path):
    config = plain_config(tmp_path)
    config["optimizer"] = {"type": "RMSprop", "args": {"lr": 0.01}}
    found = reads(iterations(trainer_of(config)))
    assert found == ["operator _local_scalar_dense"] * 10 + ["call __bool__"] * 10


def test_counting_class_numbers_reads_nothing():
    matrix = ConfusionMatrix(3, 255)
    numbers = torch.tensor([[[0, 2, 255, 7]]])
    assert reads(lambda: matrix.update(numbers, numbers)) == []


def counts():
    return torch.zeros(3).as_subclass(OnHost)


@pytest.mark.parametrize(
    "read",
    [
        lambda loss: loss.item(),
        lambda loss: float(loss.detach()),
        lambda loss: bool(loss > 0),
        lambda loss: loss.detach().cpu(),
        lambda loss: loss.to("cpu"),
        lambda loss: loss.detach().to(device=counts().device),
        lambda loss: loss.detach().to(counts()),
        lambda loss: loss.detach().numpy(),
        lambda loss: loss.tolist(),
        lambda loss: torch.zeros(3)[torch.zeros(3) < loss.detach()],
        lambda loss: torch.masked_select(torch.zeros(3), torch.zeros(3) < loss.detach()),
        lambda loss: torch.nonzero(loss.detach()[None]),
        lambda loss: torch.unique(loss.detach()[None]),
        lambda loss: torch.bincount(loss.detach().long()[None]),
        lambda loss: torch.equal(loss, loss),
    ],
)
def test_a_planted_read_is_found(tmp_path, read):
    trainer = tiny(tmp_path)
    backward = trainer.update.backward

    def planted(loss):
        read(loss)
        backward(loss)

    trainer.update.backward = planted
    assert reads(iterations(trainer, 1)) != []

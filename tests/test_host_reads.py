"""Between two log lines nothing is read back from the device, and nothing on it is float64.

On a CPU a read costs nothing and float64 exists (MPS has none), so both are looked for: at the
level of operators (what torch does) and at the level of calls (what a program says). All that an
iteration computes on the host is Python numbers: every tensor in it is one of the device.
"""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from training import batches_of, plain_config, trainer_of

from utils.losses.table import LOSSES
from utils.metrics.confusion import ConfusionMatrix
from utils.optim.lr_scheduler import SCHEDULERS
from utils.optim.optimizers import OPTIMIZERS

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


FUSED = {"SGD", "Adam", "AdamW"}


class Operators(TorchDispatchMode):
    """Collects operators that read back, and those that give float64."""

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
        result = func(*args, **(kwargs or {}))
        values = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
        if any(value.dtype == torch.float64 for value in values):
            self.found.append(f"float64 from {name}")
        return result


class Calls(TorchFunctionMode):
    """Collects calls that read back, and copies to the CPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        kwargs = kwargs or {}
        target = [*args[1:], kwargs.get("device")] if name == "to" else []
        to_host = any(value in ("cpu", HOST) for value in target)
        if name in READING_CALLS or to_host:
            self.found.append(f"call {name}")
        return func(*args, **kwargs)


def reads(run):
    """What reads back while something runs."""
    with Operators() as operators, Calls() as calls:
        run()
    return operators.found + calls.found


@pytest.fixture(autouse=True)
def _unscaling_is_torchs_own(monkeypatch):
    """It inverts its scale in float64, and only where that exists: not on MPS."""
    real = torch.amp.GradScaler.unscale_

    def unseen(self, optimizer):
        with _disable_current_modes():
            real(self, optimizer)

    monkeypatch.setattr(torch.amp.GradScaler, "unscale_", unseen)


def iterations(trainer, count=10):
    batches = batches_of(trainer)[: trainer.options.accumulate]
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


def optimized_by(folder, name):
    config = plain_config(folder)
    config["optimizer"] = {"type": name, "args": {"lr": 0.01}}
    return trainer_of(config)


@pytest.mark.parametrize("name", sorted(FUSED))
def test_no_fused_optimizer_reads_back(tmp_path, name):
    assert reads(iterations(optimized_by(tmp_path, name))) == []


def test_an_optimizer_without_a_fused_form_reads_one_flag_an_update(tmp_path):
    found = reads(iterations(optimized_by(tmp_path, "RMSprop")))
    assert found == ["operator _local_scalar_dense"] * 10 + ["call item"] * 10


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - FUSED))
def test_no_other_optimizer_computes_in_float64(tmp_path, name):
    """What else they read is their own counters, which are on the host."""
    found = reads(iterations(optimized_by(tmp_path, name), 2))
    assert set(found) == {"call item", "operator _local_scalar_dense"}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_no_schedule_reads_back(tmp_path, name):
    config = plain_config(tmp_path)
    config["lr_scheduler"] = {"type": name}
    assert reads(iterations(trainer_of(config), 2)) == []


@pytest.mark.parametrize("loss", LOSSES)
def test_no_batch_of_a_validation_reads_back(tmp_path, monkeypatch, loss):
    trainer = tiny(tmp_path, loss)
    batches = list(trainer.parts.val_loader)
    monkeypatch.setattr("validation.on_device", lambda *_: batches)
    network = trainer.model.eval()
    found = reads(lambda: trainer.validator.run(network, trainer.signals, title="", shown=False))
    assert found == []


def test_counting_class_numbers_reads_nothing():
    matrix = ConfusionMatrix(3, 255)
    numbers = torch.tensor([[[0, 2, 255, 7]]])
    assert reads(lambda: matrix.update(numbers, numbers)) == []


@pytest.mark.parametrize(
    "read",
    [
        lambda loss: loss.item(),
        lambda loss: float(loss.detach()),
        lambda loss: bool(loss > 0),
        lambda loss: loss.detach().cpu(),
        lambda loss: loss.to("cpu"),
        lambda loss: loss.detach().to(device=HOST),
        lambda loss: loss.detach().numpy(),
        lambda loss: loss.tolist(),
        lambda loss: torch.zeros(3)[torch.zeros(3) < loss.detach()],
        lambda loss: torch.masked_select(torch.zeros(3), torch.zeros(3) < loss.detach()),
        lambda loss: torch.nonzero(loss.detach()[None]),
        lambda loss: torch.unique(loss.detach()[None]),
        lambda loss: torch.bincount(loss.detach().long()[None]),
        lambda loss: torch.equal(loss, loss),
        lambda loss: loss.detach().double(),
        lambda loss: torch.zeros_like(loss, dtype=torch.float64),
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

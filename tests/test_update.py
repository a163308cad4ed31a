"""The update alone: what is withheld leaves no trace, in whatever optimizer."""

import pytest
import torch

from utils.optim.optimizers import OPTIMIZERS
from utils.optim.update import Update

CPU = torch.device("cpu")
CASES = {
    "SGD": ("SGD", {"lr": 0.01}),
    "momentum": ("SGD", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}),
    "nesterov": ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    "dampening": ("SGD", {"lr": 0.01, "momentum": 0.9, "dampening": 0.5}),
    "Adam": ("Adam", {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True}),
    "AdamW": ("AdamW", {"lr": 0.1}),
    "NAdam": ("NAdam", {"lr": 0.1}),
    "RAdam": ("RAdam", {"lr": 0.1}),
    "RMSprop": ("RMSprop", {"lr": 0.1, "momentum": 0.9, "centered": True}),
    "Adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.1}),
}


@pytest.fixture(autouse=True)
def _uninitialized_memory_is_not_a_number():
    torch.use_deterministic_algorithms(mode=True)  # fills it with NaN
    yield
    torch.use_deterministic_algorithms(mode=False)


def weights():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in (3, 5)]


def loss_of(parameters, step):
    return sum((parameter * step - 1).square().sum() for parameter in parameters)


def updates(name, args, *, scaled):
    """An `Update` as the trainer has it, and its weights."""
    parameters = weights()
    optimizer = OPTIMIZERS[name]([{"params": parameters}], **args)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=2.0**10)
    return Update(optimizer, scaler, clip_grad_norm=None, device=CPU), parameters


def plain(name, args):
    """Torch's optimizer, one weight at a time."""
    parameters = weights()
    return getattr(torch.optim, name)(parameters, foreach=False, **args), parameters


def plain_step(optimizer, parameters, step):
    optimizer.zero_grad()
    loss_of(parameters, step).backward()
    optimizer.step()


def assert_equal(ours, theirs):
    """The same weights and the same optimizer state: moments, counters."""
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, dict):
            assert_equal(ours[key], value)
        else:
            torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-6)


def tensors(optimizer, parameters):
    return {"weights": dict(enumerate(parameters)), "state": optimizer.state_dict()["state"]}


@pytest.mark.parametrize("withheld", [1, 2, 5])
@pytest.mark.parametrize("scaled", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES)
def test_a_withheld_update_is_one_that_never_was(case, scaled, withheld):
    name, args = CASES[case]
    update, ours = updates(name, args, scaled=scaled)
    optimizer, theirs = plain(name, args)
    for step in range(1, 8):
        loss = loss_of(ours, step)
        update.backward(loss * float("inf") if step == withheld else loss)
        update.unscale()
        update.clip()
        update.step_or_withhold()
        if step != withheld:
            plain_step(optimizer, theirs, step)
    assert_equal(tensors(update.optimizer, ours), tensors(optimizer, theirs))


def test_momentum_that_is_turned_on_later_starts_from_nothing_too():
    """By a schedule, or by `--set` on resume: the state has no buffers then."""
    update, ours = updates("SGD", {"lr": 0.01}, scaled=True)
    optimizer, theirs = plain("SGD", {"lr": 0.01})
    for step in range(1, 5):
        if step == 2:
            update.optimizer.param_groups[0]["momentum"] = 0.9
            optimizer.param_groups[0]["momentum"] = 0.9
        loss = loss_of(ours, step)
        update.backward(loss * float("inf") if step == 2 else loss)
        update.unscale()
        update.clip()
        update.step_or_withhold()
        if step != 2:
            plain_step(optimizer, theirs, step)
    assert_equal(tensors(update.optimizer, ours), tensors(optimizer, theirs))


def test_a_weight_whose_first_gradient_comes_late_starts_then():
    args = {"lr": 0.01, "momentum": 0.9}
    update, ours = updates("SGD", args, scaled=False)
    optimizer, theirs = plain("SGD", args)
    for step in (1, 2, 3):
        used = slice(0, 1 if step == 1 else 2)
        update.backward(loss_of(ours[used], step))
        update.unscale()
        update.clip()
        update.step_or_withhold()
        plain_step(optimizer, theirs[used], step)
    assert_equal(tensors(update.optimizer, ours), tensors(optimizer, theirs))


def test_the_scale_of_a_run_without_fp16_stays_1():
    update, parameters = updates("SGD", {"lr": 1e-9}, scaled=False)
    for _ in range(2001):  # one more than a scaler takes to double its scale
        update.backward(loss_of(parameters, 1))
        update.unscale()
        update.clip()
        update.step_or_withhold()
    assert update.scaler.get_scale() == 1

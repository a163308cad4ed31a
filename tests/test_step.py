"""The training step: what accumulates, what is withheld, what is averaged, what is skipped."""

import logging
from dataclasses import replace

import pytest
import torch
from small_models import VARIANTS, UperNetOnSwin, arch_of, build_small, outputs_of
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from training import (
    batches_of,
    plain_config,
    record_gradients,
    relative_difference,
    trainer_of,
    weights_of,
)

from base.base_data_loader import Batch
from models import MODELS
from utils.errors import NumericError
from utils.hardware.recompute import recompute_blocks
from utils.optim.ema import ExponentialMovingAverage
from utils.run import checkpoint
from utils.run.log import RunLog

IGNORED = 255


def counts_of(masks, trainer):
    return tuple(sum(trainer.data.label_counts(mask.numpy()) for mask in masks).tolist())


def with_void(batch, shares, trainer):
    """The batch with the given share of each mask's rows made void, and its label counts."""
    masks = batch.masks.clone()
    for mask, share in zip(masks, shares, strict=True):
        mask[: round(share * len(mask))] = IGNORED
    return batch._replace(masks=masks, label_counts=counts_of(masks, trainer))


def split(batch, size, trainer):
    """The micro-batches of a batch."""
    parts = []
    for begin in range(0, len(batch.images), size):
        part = slice(begin, begin + size)
        counts = counts_of(batch.masks[part], trainer)
        parts.append(Batch(batch.images[part], batch.masks[part], counts, batch.indices[part]))
    return parts


@pytest.mark.parametrize("loss", ["CrossEntropyLoss2d", "FocalLoss"])
@pytest.mark.parametrize(
    "shares", [(0, 0, 0, 0, 0, 0, 0, 0), (1, 1, 0, 0.5, 0.9, 0.1, 0, 1)], ids=["little", "uneven"]
)
def test_accumulated_gradients_equal_those_of_the_whole_batch(tmp_path, loss, shares):
    config = plain_config(tmp_path)
    config["loss"] = loss
    config["train_loader"]["args"]["batch_size"] = 8
    whole, accumulated = trainer_of(config), trainer_of(config)
    batch = with_void(batches_of(whole)[0], shares, whole)
    expected, found = record_gradients(whole), record_gradients(accumulated)
    whole.train_iteration([batch])
    accumulated.train_iteration(split(batch, 2, whole))
    assert relative_difference(found[0], expected[0]) < 1e-6
    assert accumulated.totals.recent_loss() == pytest.approx(whole.totals.recent_loss(), rel=1e-6)
    assert torch.equal(accumulated.totals.state()["counts"], whole.totals.state()["counts"])


def test_a_last_update_of_fewer_batches_weighs_its_pixels_alike(tmp_path):
    config = plain_config(tmp_path)
    config["train_loader"]["args"] |= {"length": 10, "batch_size": 8, "drop_last": False}
    whole = trainer_of(config)
    config["train_loader"]["args"]["batch_size"] = 2
    config["trainer"]["accumulate"] = 4
    accumulated = trainer_of(config)
    expected, found = record_gradients(whole), record_gradients(accumulated)
    whole.train_epoch(1)
    accumulated.train_epoch(1)
    assert len(found) == len(expected) == accumulated.position.step == 2
    assert relative_difference(found[0], expected[0]) < 1e-6
    assert relative_difference(found[1], expected[1]) < 1e-6


@pytest.mark.parametrize(
    "name", ["Linear", *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS)]
)
def test_every_kind_of_encoder_accumulates_and_is_averaged(tmp_path, monkeypatch, name):
    monkeypatch.setitem(MODELS, "UperNetOnSwin", UperNetOnSwin)
    config = plain_config(tmp_path, ema=0.9)
    config["arch"] = arch_of(name, freeze_bn=True)
    whole, accumulated = trainer_of(config), trainer_of(config)
    (batch, *_) = batches_of(whole)
    expected, found = record_gradients(whole), record_gradients(accumulated)
    before = {key: value.clone() for key, value in whole.model.state_dict().items()}
    whole.train_iteration([batch])
    accumulated.train_iteration(split(batch, 2, whole))
    assert relative_difference(found[0], expected[0]) < 1e-5
    share = 2 / 11  # (1 + updates) / (10 + updates), which is below 0.9
    for key, after in whole.model.state_dict().items():
        average = whole.ema.model.state_dict()[key]
        if after.is_floating_point():
            torch.testing.assert_close(average, share * before[key] + (1 - share) * after)
        else:
            assert torch.equal(average, after)


def test_the_average_of_the_weights_equals_its_closed_form():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).double()
    average = ExponentialMovingAverage(model, 0.7)
    history = [weights.clone() for weights in (model[0].weight, model[1].running_mean)]
    expected, decays = [history], []
    for update in range(1, 31):
        with torch.no_grad():
            for tensor in (model[0].weight, model[1].running_mean):
                tensor.add_(torch.randn_like(tensor))
            model[1].num_batches_tracked.fill_(update)
        average.update(model)
        expected.append([model[0].weight.detach().clone(), model[1].running_mean.clone()])
        decays.append(min(0.7, (1 + update) / (10 + update)))
    assert decays[-1] == 0.7 > decays[0]
    for position, found in enumerate((average.model[0].weight, average.model[1].running_mean)):
        closed = expected[0][position] * torch.tensor(decays, dtype=torch.float64).prod()
        for update, decay in enumerate(decays):
            later = torch.tensor(decays[update + 1 :], dtype=torch.float64).prod()
            closed = closed + (1 - decay) * later * expected[update + 1][position]
        assert torch.allclose(found, closed, rtol=1e-12)
    assert average.model[1].num_batches_tracked == 30


def test_the_average_is_what_is_scored_and_saved_as_best(tmp_path):
    trainer = trainer_of(plain_config(tmp_path, ema=0.9))
    for batch in batches_of(trainer):
        trainer.train_iteration([batch])
    scores = trainer.validate(1)
    saved = trainer._best_state()["state_dict"]
    assert all(
        torch.equal(saved[name], value) for name, value in trainer.ema.model.state_dict().items()
    )
    own = trainer.model.state_dict()
    assert not any(torch.equal(saved[name], own[name]) for name in saved if "weight" in name)
    trainer.model.load_state_dict(saved)
    trainer.ema = None
    assert trainer.validate(1) == scores


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("clip", [1e-3, None])
def test_a_long_gradient_is_cut_and_a_short_one_left_alone(tmp_path, clip):
    config = plain_config(tmp_path, clip_grad_norm=clip)
    config["optimizer"] = {"type": "SGD", "args": {"lr": 1.0}}
    trainer = trainer_of(config)
    gradients = record_gradients(trainer)
    before = flat(trainer.model)
    trainer.train_iteration(batches_of(trainer)[:1])
    update = before - flat(trainer.model)
    whole = gradients[0].norm()
    assert float(whole) > 1e-3
    assert float(trainer.update.norm) == pytest.approx(float(whole), rel=1e-5)
    assert float(update.norm()) == pytest.approx(clip or float(whole), rel=1e-3)


# Values that are not finite.

OPTIMIZERS = {
    "SGD": {"lr": 0.01, "momentum": 0.9},
    "AdamW": {"lr": 0.01},
    "RMSprop": {"lr": 0.01, "momentum": 0.9},
}


def break_loss(trainer):
    """Infinite logits at a few pixels, from now on."""
    trainer.model.register_forward_hook(lambda _m, _i, logits: logits / (logits.detach() * 0))


def break_gradient(trainer):
    """A gradient that is not a number in one parameter of many, from now on."""
    parameter = next(p for p in trainer.model.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: gradient * float("nan"))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("fault", "what"), [(break_loss, "the loss"), (break_gradient, "the gradient")]
)
def test_what_is_not_finite_is_withheld_in_that_very_step(tmp_path, name, fault, what):
    config = plain_config(tmp_path)
    config["optimizer"] = {"type": name, "args": OPTIMIZERS[name]}
    trainer = trainer_of(config)
    assert getattr(trainer.optimizer, "_step_supports_amp_scaling", False) == (name != "RMSprop")
    first, second, third = batches_of(trainer)
    trainer.train_iteration([first])
    trainer.train_iteration([second])
    before = weights_of(trainer)
    fault(trainer)
    trainer.train_iteration([third])
    after = weights_of(trainer)
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    with pytest.raises(
        NumericError,
        match=rf"(?s)^{what} stopped being finite before iteration 3 .*"
        r"nothing of it was saved.*lower optimizer\.args\.lr",
    ):
        trainer.log_iteration(1)
    with pytest.raises(NumericError, match="stopped being finite"):
        trainer.state()


@pytest.mark.parametrize("fault", [break_loss, break_gradient])
def test_no_state_that_is_not_finite_is_saved(tmp_path, fault):
    trainer = trainer_of(plain_config(tmp_path, save_per_iters=1, log_per_iter=100))
    iteration = trainer.train_iteration

    def broken_later(micro_batches):
        if trainer.position.step == 1:
            fault(trainer)
        iteration(micro_batches)

    trainer.train_iteration = broken_later
    folder = tmp_path / "run"
    folder.mkdir()
    with RunLog(folder) as run, pytest.raises(NumericError, match="finite") as raised:
        trainer.fit(run)
    assert raised.value.exit_code == 5
    assert [path.name for path in folder.glob("*.pth")] == ["checkpoint-iter1.pth"]
    saved = checkpoint.load(folder / "checkpoint-iter1.pth")["state_dict"]
    assert all(value.isfinite().all() for value in saved.values())


def test_fp16_passes_over_a_few_overflows_and_lowers_its_factor(tmp_path):
    trainer = trainer_of(plain_config(tmp_path, precision="fp16"))
    trainer.options = replace(
        trainer.options, precision="fp32"
    )  # but for its scaler: a CPU is faster so
    batch = batches_of(trainer)[:1]
    break_gradient(trainer)
    before = weights_of(trainer)
    trainer.train_iteration(batch)
    after = weights_of(trainer)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert trainer.scaler.get_scale() == 2.0**15
    trainer.log_iteration(1)
    for _ in range(10):
        trainer.train_iteration(batch)
    with pytest.raises(NumericError, match="the gradient stopped being finite"):
        trainer.log_iteration(1)


# Work that is spared.


class CountConvolutions(TorchDispatchMode):
    """Counts convolutions and their gradients."""

    def __init__(self):
        super().__init__()
        self.forward, self.backward = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.forward += name == "convolution"
        self.backward += name == "convolution_backward"
        return func(*args, **(kwargs or {}))


def count_convolutions(model):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with CountConvolutions() as counted:
        sum(output.sum() for output in outputs_of(model.train(), images)).backward()
    return counted


def test_a_frozen_backbone_has_no_backward_at_all():
    free, frozen = build_small("PSPNet"), build_small("PSPNet", freeze_backbone=True)
    encoder = sum(isinstance(part, nn.Conv2d) for part in free.backbone.modules())
    everything, rest = count_convolutions(free), count_convolutions(frozen)
    assert everything.forward == rest.forward
    assert everything.backward == everything.forward
    assert rest.backward == everything.backward - encoder


def test_recomputing_changes_time_and_memory_only():
    kept, forgetful = build_small("PSPNet"), build_small("PSPNet")
    names = list(forgetful.state_dict())
    assert recompute_blocks(forgetful.backbone) == 4
    assert list(forgetful.state_dict()) == names
    torch.manual_seed(1)
    once = count_convolutions(kept)
    torch.manual_seed(1)
    twice = count_convolutions(forgetful)
    assert twice.backward == once.backward
    inner = sum(isinstance(part, nn.Conv2d) for part in kept.backbone.modules())
    assert once.forward + inner / 2 < twice.forward <= once.forward + inner
    gradients = zip(kept.parameters(), forgetful.parameters(), strict=True)
    assert all(torch.equal(ours.grad, theirs.grad) for ours, theirs in gradients)
    assert_same_tensors(kept, forgetful)  # running statistics among them
    assert count_convolutions(forgetful.eval()).forward == twice.forward


def assert_same_tensors(one, other):
    theirs = other.state_dict()
    assert [
        name for name, value in one.state_dict().items() if not torch.equal(value, theirs[name])
    ] == []


def test_recompute_is_wired_and_says_what_it_found(tmp_path, caplog):
    config = plain_config(tmp_path, recompute=True)
    with caplog.at_level(logging.INFO, "segmentation"):
        trainer_of(config)
    assert (
        "trainer.recompute: no effect: the model has no backbone made of repeated blocks"
        in caplog.text
    )
    config["arch"] = {
        "type": "PSPNet",
        "args": dict(MODELS["PSPNet"].facts.small, pretrained=False),
    }
    with caplog.at_level(logging.INFO, "segmentation"):
        trainer = trainer_of(config)
    assert "trainer.recompute: 4 blocks of the backbone" in caplog.text
    trainer.train_iteration(batches_of(trainer)[:1])

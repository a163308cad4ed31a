"""Schedules against their closed forms, torch's own classes, and the documented numbers."""

import math

import pytest
import torch

from utils.errors import ConfigError
from utils.optim.lr_scheduler import SCHEDULERS, Cosine, OneCycle, Poly, Step


def sgd(*rates: float, momentum: float = 0.9) -> torch.optim.SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=1.0, momentum=momentum)


def rates_of(schedule, optimizer, steps):
    rates = []
    for step in steps:
        schedule.apply(step)
        rates.append([group["lr"] for group in optimizer.param_groups])
    return rates


def test_poly_equals_its_closed_form_at_every_step_of_both_groups():
    optimizer = sgd(0.01, 0.001)
    rates = rates_of(Poly(optimizer, total_steps=57), optimizer, range(57))
    expected = [[0.01 * (1 - t / 57) ** 0.9, 0.001 * (1 - t / 57) ** 0.9] for t in range(57)]
    assert rates == [pytest.approx(row, rel=1e-14) for row in expected]
    assert rates[0] == [0.01, 0.001]
    assert rates[-1][0] > 0


@pytest.mark.parametrize("total", [4, 5, 7, 10, 33, 100, 1001])
def test_one_cycle_equals_torch_where_torch_is_defined(total):
    ours, theirs = sgd(0.2, 0.02), sgd(0.2, 0.02)
    schedule = OneCycle(ours, total_steps=total)
    torchs = torch.optim.lr_scheduler.OneCycleLR(
        theirs, max_lr=[0.2, 0.02], total_steps=total, div_factor=10, final_div_factor=2.5
    )
    for step in range(total):
        schedule.apply(step)
        for mine, reference in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert mine["lr"] == pytest.approx(reference["lr"], rel=1e-12)
            assert mine["momentum"] == pytest.approx(reference["momentum"], rel=1e-12)
        if step + 1 < total:
            theirs.step()
            torchs.step()


def test_one_cycle_has_the_documented_ends_and_peak():
    optimizer = sgd(1.0)
    schedule = OneCycle(optimizer, total_steps=100)
    schedule.apply(0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1 / 10)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.95)
    schedule.apply(29)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.85)
    schedule.apply(99)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1 / 25)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.95)


def test_one_cycle_moves_the_first_beta_of_adam_and_leaves_the_second():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1, betas=(0.9, 0.98))
    schedule = OneCycle(optimizer, total_steps=100)
    schedule.apply(29)
    assert optimizer.param_groups[0]["betas"] == (pytest.approx(0.85), 0.98)
    assert "momentum" not in optimizer.param_groups[0]


def test_cosine_equals_torch_and_keeps_its_floor_in_every_group():
    ours, theirs = sgd(0.2, 0.02), sgd(0.2, 0.02)
    schedule = Cosine(ours, total_steps=50)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=50)
    for step in range(50):
        schedule.apply(step)
        for mine, reference in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert mine["lr"] == pytest.approx(reference["lr"], rel=1e-9)
        theirs.step()
        torchs.step()
    rates = rates_of(Cosine(optimizer := sgd(0.2), total_steps=9, floor=0.25), optimizer, range(9))
    closed = [0.2 * (0.25 + 0.75 * (1 + math.cos(math.pi * t / 9)) / 2) for t in range(9)]
    assert [rate for (rate,) in rates] == pytest.approx(closed, rel=1e-12)


def test_steps_fall_at_shares_of_the_run():
    optimizer = sgd(1.0)
    schedule = Step(optimizer, total_steps=10, milestones=(0.3, 0.7), gamma=0.5)
    rates = [rate for (rate,) in rates_of(schedule, optimizer, range(10))]
    assert rates == [1.0] * 3 + [0.5] * 4 + [0.25] * 3


def test_momentum_stays_at_its_end_value_through_a_warm_up():
    optimizer = sgd(1.0)
    schedule = OneCycle(optimizer, total_steps=30, warmup_steps=10)
    for step in range(11):
        schedule.apply(step)
        assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.95)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("total", [1, 2, 3, 4])
def test_tiny_runs_have_finite_positive_rates(name, total):
    optimizer = sgd(0.1)
    for (rate,) in rates_of(
        SCHEDULERS[name](optimizer, total_steps=total), optimizer, range(total)
    ):
        assert 0 < rate <= 0.1
        assert math.isfinite(rate)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_step_alone_gives_the_rate_of_the_uninterrupted_run(name):
    optimizer = sgd(0.1, 0.01)
    whole = rates_of(SCHEDULERS[name](optimizer, total_steps=40), optimizer, range(40))
    for step in (0, 7, 12, 39):
        fresh = sgd(0.1, 0.01)
        assert rates_of(SCHEDULERS[name](fresh, total_steps=40), fresh, [step]) == [whole[step]]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_warm_up_rises_evenly_and_meets_the_schedule_without_a_jump(name):
    optimizer, plain = sgd(0.1), sgd(0.1)
    schedule = SCHEDULERS[name](optimizer, total_steps=50, warmup_steps=10)
    rates = [rate for (rate,) in rates_of(schedule, optimizer, range(50))]
    rest = rates_of(SCHEDULERS[name](plain, total_steps=40), plain, range(40))
    assert rates[10:] == pytest.approx([rate for (rate,) in rest], rel=1e-12)
    assert rates[:11] == pytest.approx([rates[10] * (t + 1) / 11 for t in range(11)], rel=1e-12)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_warm_up_as_long_as_the_run_is_refused(name):
    with pytest.raises(ConfigError, match=r"warmup_steps: found 20, expected fewer than the 20"):
        SCHEDULERS[name](sgd(0.1), total_steps=20, warmup_steps=20)

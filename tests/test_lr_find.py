"""The range test: its rates, when it stops, what it suggests."""

import json
import math

import pytest
import torch
from evaluation_cases import shapes_config
from PIL import Image

from tools import lr_find
from tools.lr_find import Sweep, diverged, smoothed, suggestion
from utils.errors import ConfigError, NumericError
from utils.optim.lr_scheduler import Exponential


def planted(best, *, steps=100):
    """A loss that falls around `best`, steepest there, and explodes a hundred times above."""
    rates = [1e-6 * 10 ** (7 * step / (steps - 1)) for step in range(steps)]
    losses = [1 + 1 / (1 + (rate / best) ** 2) + (rate / (100 * best)) ** 3 for rate in rates]
    return Sweep(rates, losses)


@pytest.mark.parametrize("best", [1e-4, 3e-3, 1e-2])
def test_a_planted_optimum_is_found_within_a_factor_of_3(best):
    assert best / 3 < suggestion(planted(best)) < best * 3


def test_the_suggestion_is_the_rate_of_the_steepest_fall_itself():
    rates = [10.0 ** (step / 10) for step in range(40)]
    assert suggestion(Sweep(rates, [1.0] * 20 + [0.0] * 20)) == rates[20]


def test_the_running_mean_starts_at_the_first_loss():
    assert smoothed([4.0]) == pytest.approx([4.0])
    assert smoothed([2.0] * 30) == pytest.approx([2.0] * 30)
    assert smoothed([0.0, 1.0])[1] == pytest.approx(0.1 / 0.19)


def test_it_stops_at_a_loss_that_explodes_or_is_not_finite():
    assert diverged([1.0, math.nan])
    assert diverged([1.0, math.inf])
    assert diverged([1.0] * 20 + [500.0])
    assert not diverged([1.0] * 20 + [5.0])
    assert not diverged([1.0] * 3 + [500.0])


def test_a_loss_that_never_falls_is_said():
    rates = [10.0**power for power in range(-6, 6)]
    with pytest.raises(NumericError, match=r"did not fall at any rate from 1\.0e-06 to 1\.0e\+05"):
        suggestion(Sweep(rates, [float(2**step) for step in range(12)]))


def test_rates_grow_by_equal_factors_and_groups_keep_their_proportion():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.5, 0.05)]
    optimizer = torch.optim.SGD(groups)
    schedule = Exponential(optimizer, total_steps=5, start=1e-4, end=1.0)
    rates = []
    for step in range(5):
        schedule.apply(step)
        rates.append([group["lr"] for group in optimizer.param_groups])
    expected = [[10.0**-power, 10.0 ** (-power - 1)] for power in (4, 3, 2, 1, 0)]
    assert rates == [pytest.approx(row) for row in expected]


def test_a_real_network_gets_an_image_and_a_suggestion(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(shapes_config(8)))
    picture = tmp_path / "new" / "range.png"
    flags = ["--config", str(config), "--steps", "40", "--end", "1", "--device", "cpu"]
    assert lr_find.main([*flags, "--output", str(picture)]) == 0
    said = capsys.readouterr().out
    rate = float(said.rpartition("optimizer.args.lr=")[2])
    assert 1e-6 < rate < 1
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width == 860
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "new"}
    assert {path.name for path in picture.parent.iterdir()} == {"range.png", ".written.jsonl"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--start", "1", "--end", "0.1"], r"--start 1 --end 0\.1: expected 0 < start < end"),
        (["--start", "0"], "expected 0 < start < end"),
        (["--steps", "3"], "--steps: found 3, expected at least 10"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said(flags, message):
    with pytest.raises(ConfigError, match=message):
        lr_find.main(flags)


def test_a_config_for_a_cpu_is_tried_on_one(tmp_path, monkeypatch):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(shapes_config(8) | {"n_gpu": 0}))

    def chosen(name):
        raise ConfigError(f"device {name}")

    monkeypatch.setattr(lr_find, "pick_device", chosen)
    with pytest.raises(ConfigError, match="device cpu"):
        lr_find.main(["--config", str(config), "--output", str(tmp_path / "a.png")])

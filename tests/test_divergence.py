"""A run that diverges with a finite training loss ends with exit code 5 and saves nothing of it."""

import json
import re
import signal
from pathlib import Path

import pytest
import torch
from conftest import tiny_config
from training import plain_config, trainer_of

import train
import validation
from utils.errors import NumericError, guard
from utils.optim.update import not_finite
from utils.run import checkpoint
from utils.run.log import RunLog


def test_a_rate_far_too_high_ends_with_exit_code_5(tmp_path, capsys):
    """Every loss of the three iterations is finite; the running variances are not."""
    config = tiny_config(tmp_path)
    config["arch"] = {"type": "UNet", "args": {"base_channels": 4}}
    config["optimizer"]["args"]["lr"] = 1e5
    config["trainer"]["precision"] = "fp32"
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert guard(train.main, ["--config", str(path)]) == 5
    said = capsys.readouterr().err
    assert "error: weights or batch statistics (" in said
    assert "running_var) stopped being finite before iteration 3" in said
    assert list(tmp_path.rglob("*.pth")) == []


def buffer_of(model, value=float("inf")):
    next(buffer for name, buffer in model.named_buffers() if "running_var" in name)[0] = value


def weight_of(model):
    with torch.no_grad():
        next(model.parameters())[0, 0, 0, 0] = float("nan")


def nothing_predicted(monkeypatch):
    real = validation.whole
    monkeypatch.setattr("validation.whole", lambda *args: real(*args) * float("nan"))


PLANTS = {
    "buffer": (lambda trainer, _: buffer_of(trainer.model), r"weights or .* \(.*running_var\)"),
    "weight": (lambda trainer, _: weight_of(trainer.model), r"weights or .* \(.*weight\)"),
    "average": (lambda trainer, _: buffer_of(trainer.ema.model), r"weights or .*\(.*running_var\)"),
    "validation": (lambda _, monkeypatch: nothing_predicted(monkeypatch), "the validation loss"),
}


def files(folder: Path):
    return {path.name: path.read_bytes() for path in folder.glob("*.pth")}


def run_until_it_diverges(trainer, folder, at, plant):
    """Plant after iteration `at`; return the checkpoints before it, and what the error says."""
    before = {}
    iteration = trainer.train_iteration

    def planted(micro_batches):
        if trainer.position.step == at - 1:
            before.update(files(folder))
        iteration(micro_batches)
        if trainer.position.step == at:
            plant()

    trainer.train_iteration = planted
    folder.mkdir()
    with RunLog(folder) as run, pytest.raises(NumericError) as raised:
        trainer.fit(run)
    assert raised.value.exit_code == 5
    return before, str(raised.value)


@pytest.mark.parametrize("planted", PLANTS)
def test_what_is_not_finite_is_not_saved_and_the_last_good_checkpoint_stays(
    tmp_path, monkeypatch, planted
):
    """Planted behind the last iteration of the second epoch, so that no loss shows it."""
    plant, what = PLANTS[planted]
    trainer = trainer_of(plain_config(tmp_path, epochs=3, ema=0.9))
    folder = tmp_path / "run"
    before, said = run_until_it_diverges(
        trainer, folder, at=6, plant=lambda: plant(trainer, monkeypatch)
    )
    assert files(folder) == before
    assert checkpoint.load(folder / "last.pth")["epoch"] == 1
    assert re.match(rf"{what} stopped being finite before iteration 6 \(epoch 2", said)
    facts = json.loads((folder / "nonfinite.json").read_text())
    assert (facts["epoch"], facts["step"]) == (2, 6)
    assert re.match(what, facts["what"])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert facts["learning_rates"] != rows[0]["learning_rates"]
    assert all(0 < rate < 0.05 for rate in facts["learning_rates"])


def test_the_images_behind_a_gradient_that_is_not_finite_are_named(tmp_path):
    """Those of the iterations since all was last seen to be finite: here the fifth and sixth."""
    trainer = trainer_of(plain_config(tmp_path, epochs=2, log_per_iter=2))
    folder, seen = tmp_path / "run", {}
    iteration = trainer.train_iteration

    def noted(micro_batches):
        seen[trainer.position.step] = [i for batch in micro_batches for i in batch.indices]
        iteration(micro_batches)

    trainer.train_iteration = noted
    run_until_it_diverges(trainer, folder, at=5, plant=lambda: trainer.update._withheld.add_(1))
    facts = json.loads((folder / "nonfinite.json").read_text())
    assert facts["images"] == [trainer.data.name(index) for index in seen[4] + seen[5]]
    assert facts["what"] == "the gradient"


def test_a_signal_does_not_save_it_either(tmp_path):
    trainer = trainer_of(plain_config(tmp_path, log_per_iter=100))
    folder = tmp_path / "run"

    def plant():
        buffer_of(trainer.model)
        trainer.signals.note(signal.SIGTERM, None)

    before, said = run_until_it_diverges(trainer, folder, at=2, plant=plant)
    assert files(folder) == before == {}
    assert "running_var" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_any_tensor_of_a_state_is_looked_at(tmp_path, value):
    trainer = trainer_of(plain_config(tmp_path))
    assert not_finite(trainer.model) is None
    for name, tensor in trainer.model.state_dict().items():
        if tensor.is_floating_point():
            last = (-1,) * tensor.dim()
            kept = tensor[last].clone()
            tensor[last] = value
            assert not_finite(trainer.model) == name
            tensor[last] = kept

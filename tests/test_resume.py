"""A run that was stopped anywhere and resumed ends bit for bit like one that was not."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import tiny_config
from small_models import VARIANTS, UperNetOnSwin, arch_of

import train
import validation
from models import MODELS
from trainer import Trainer
from utils.errors import CheckpointError, ConfigError, DataError, RunInterruptedError, guard
from utils.run import checkpoint
from utils.run.monitor import Monitor


def contents(folder):
    """All that a run has written but for the names of its folders, by path."""
    found = {"metrics.jsonl": (folder / "metrics.jsonl").read_text()}
    for file in folder.glob("*.pth"):
        # Our own files: three times as fast as the reader that trusts none.
        content = torch.load(file, weights_only=False)
        del content["config"]["trainer"]["save_dir"], content["config"]["trainer"]["log_dir"]
        found |= _flat(content, file.name)
    return found


def _flat(value, path):
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            key: one for name, item in items for key, one in _flat(item, f"{path}/{name}").items()
        }
    return {path: value}


def differing(mine, theirs):
    """The paths under which two runs have written other things."""
    return [
        path
        for path in sorted(mine.keys() | theirs.keys())
        if path not in mine or path not in theirs or not _same(mine[path], theirs[path])
    ]


def _same(one, other):
    tensors = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return torch.equal(one, other) if tensors else type(one) is type(other) and one == other


def assert_same_run(folder, other):
    assert differing(contents(folder), contents(other)) == []


def start(config_path, *extra):
    command = [sys.executable, "train.py", *extra]
    if config_path is not None:
        command += ["--config", str(config_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def write(folder, change=None, **trainer):
    folder.mkdir()
    config = tiny_config(folder, **trainer) | (change or {})
    config["train_loader"]["args"] |= {"length": 48, "num_workers": 1}
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def only_run(folder):
    runs = list((folder / "saved" / "tiny").glob("*"))
    return runs[0] if runs else None


def assert_kill_9_after_the_second_epoch_changes_nothing(tmp_path, device, change=None):
    """Two runs on one device, one of them killed and resumed; `change` is of both configs."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    uninterrupted = start(write(whole, change, epochs=4), "--device", device)
    process = start(write(stopped, change, epochs=4), "--device", device)

    def second_checkpoint():
        folder = only_run(stopped)
        return folder is not None and (folder / "checkpoint-epoch2.pth").exists()

    wait_for(second_checkpoint, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (only_run(stopped) / "checkpoint-epoch4.pth").exists()
    resumed = start(None, "--resume", str(only_run(stopped)), "--device", device)
    words = resumed.communicate(timeout=120)[1]
    assert resumed.returncode == 0, words
    assert "going on from" in words
    assert uninterrupted.wait(120) == 0, uninterrupted.stderr.read()
    uninterrupted.stderr.close()
    assert_same_run(only_run(whole), only_run(stopped))


@pytest.mark.slow  # tests/reliability kills one at a random time in every test run
@pytest.mark.parametrize("name", ["ENet", "Linear", "SegFormer on PVTv2", "UperNet on a ViT"])
def test_kill_9_after_the_second_epoch_then_resume_equals_never_stopped(tmp_path, name):
    change = {"arch": arch_of(name)}
    assert_kill_9_after_the_second_epoch_changes_nothing(tmp_path, "cpu", change)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
    ids=["TERM", "INT", "HUP"],
)
def test_a_signal_saves_within_the_epoch_and_resume_is_exact(tmp_path, monkeypatch, number, code):
    """The signal comes in the fourth iteration of six, in the middle of the second epoch."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in "ab":
        path = tmp_path / name / "config.json"
        path.write_text(json.dumps(tiny_config(tmp_path / name)))
    assert train.main(["--config", str(tmp_path / "a" / "config.json")]) == 0

    real = Trainer.train_iteration

    def interrupted(self, batches):
        if self.position.step == 3:
            signal.raise_signal(number)
        real(self, batches)

    monkeypatch.setattr(Trainer, "train_iteration", interrupted)
    with pytest.raises(
        RunInterruptedError, match=r"at iteration 4: saved\n  go on with:"
    ) as caught:
        train.main(["--config", str(tmp_path / "b" / "config.json")])
    assert caught.value.exit_code == code
    monkeypatch.undo()
    folder = only_run(tmp_path / "b")
    assert checkpoint.load(folder / "last.pth")["step"] == 4
    assert train.main(["--resume", str(folder)]) == 0
    assert_same_run(only_run(tmp_path / "a"), folder)


def fail_in_second_validation(patch, error):
    """Let the validation of the second epoch raise."""
    epochs, real = [], validation.whole
    validate = Trainer.validate

    def noted(self, epoch):
        epochs.append(epoch)
        return validate(self, epoch)

    def failing(network, images):
        if epochs[-1] == 2:
            raise error
        return real(network, images)

    patch.setattr(Trainer, "validate", noted)
    patch.setattr("validation.whole", failing)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), 6),
        pytest.param(
            DataError("mask 7: label 31, but there are 12 classes"), 3, marks=pytest.mark.slow
        ),
    ],
    ids=["memory", "data"],
)
def test_an_error_in_validation_does_not_cost_the_training_before_it(
    tmp_path, monkeypatch, capsys, error, code
):
    folders = [tmp_path / name for name in "ab"]
    arguments = []
    for folder in folders:
        folder.mkdir()
        path = folder / "config.json"
        path.write_text(json.dumps(tiny_config(folder, epochs=3, ema=0.9)))
        arguments.append(["--config", str(path)])
    assert train.main(arguments[0]) == 0
    with monkeypatch.context() as patch:
        fail_in_second_validation(patch, error)
        capsys.readouterr()
        assert guard(train.main, arguments[1]) == code
    assert "Traceback" not in capsys.readouterr().err
    folder = only_run(folders[1])
    saved = checkpoint.load(folder / "last.pth")
    assert (saved["epoch"], saved["iteration"], saved["step"]) == (1, 3, 6)
    trained = []
    iteration = Trainer.train_iteration
    monkeypatch.setattr(
        Trainer,
        "train_iteration",
        lambda self, batches: (trained.append(self.position.step), iteration(self, batches)),
    )
    assert train.main(["--resume", str(folder)]) == 0
    assert trained == [6, 7, 8]  # nothing twice
    assert_same_run(only_run(folders[0]), folder)


def test_a_signal_in_a_validation_does_not_wait_for_its_end(tmp_path, monkeypatch):
    """It comes with the first of two batches; the epoch's training is not lost."""
    for name in "ab":
        (tmp_path / name).mkdir()
        config = tiny_config(tmp_path / name)
        config["val_loader"]["args"] |= {"length": 8}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    assert train.main(["--config", str(tmp_path / "a" / "config.json")]) == 0

    real, batches = validation.whole, []

    def interrupted(network, images):
        batches.append(images)
        signal.raise_signal(signal.SIGTERM)
        return real(network, images)

    monkeypatch.setattr(validation, "whole", interrupted)
    with pytest.raises(RunInterruptedError, match="at iteration 3: saved"):
        train.main(["--config", str(tmp_path / "b" / "config.json")])
    monkeypatch.undo()
    assert len(batches) == 1
    folder = only_run(tmp_path / "b")
    content = checkpoint.load(folder / "last.pth")
    assert (content["epoch"], content["iteration"], content["step"]) == (0, 3, 3)
    assert train.main(["--resume", str(folder)]) == 0
    assert_same_run(only_run(tmp_path / "a"), folder)


def test_every_iteration_is_a_place_to_resume_from(tmp_path, write_config, run_folder, monkeypatch):
    monkeypatch.setattr("utils.run.folder._KEPT_ITERATIONS", 100)
    path = write_config(save_per_iters=1, epochs=2, ema=0.9, accumulate=2, clip_grad_norm=0.5)
    assert train.main(["--config", str(path)]) == 0
    folder = run_folder()
    expected = contents(folder)
    steps = [checkpoint.load(file)["step"] for file in folder.glob("checkpoint-iter*.pth")]
    assert sorted(steps) == [1, 2, 3, 4]
    for step in (1, 4):  # within an epoch, and at its end
        assert train.main(["--resume", str(folder / f"checkpoint-iter{step}.pth")]) == 0
        assert differing(expected, contents(folder)) == [], step


@pytest.mark.parametrize("name", ["SGD", "RMSprop"])
def test_resuming_keeps_the_momentum_that_the_schedule_sets(name, write_config, run_folder):
    """OneCycle gives momentum to an optimizer whose arguments name none."""

    def change(config):
        config["optimizer"] = {"type": name, "args": {"lr": 0.01}}
        config["lr_scheduler"] = {"type": "OneCycle", "args": {}}

    options = {"val": False, "save_per_iters": 1, "epochs": 1}
    assert train.main(["--config", str(write_config(change, **options))]) == 0
    expected = contents(run_folder())
    assert train.main(["--resume", str(run_folder() / "checkpoint-iter2.pth")]) == 0
    assert differing(expected, contents(run_folder())) == []


def test_resuming_a_mobile_encoder_in_bf16_is_exact(write_config, run_folder):
    """Its convolutions and its dropout have paths of their own on a CPU."""

    def change(config):
        args = {"backbone": "test_efficientnet", "pretrained": False, "separable": True}
        config["arch"] = {"type": "DeepLab", "args": args}

    options = {"precision": "bf16", "ema": 0.9, "val": False, "save_per_iters": 1, "epochs": 1}
    assert train.main(["--config", str(write_config(change, **options))]) == 0
    expected = contents(run_folder())
    assert train.main(["--resume", str(run_folder() / "checkpoint-iter2.pth")]) == 0
    assert differing(expected, contents(run_folder())) == []


@pytest.mark.parametrize(
    "name", ["Linear", *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS)]
)
def test_resuming_every_kind_of_encoder_with_rates_by_layer_is_exact(
    name, write_config, run_folder, monkeypatch
):
    monkeypatch.setitem(MODELS, "UperNetOnSwin", UperNetOnSwin)

    def change(config):
        config["arch"] = arch_of(name)
        if name == "Linear":
            config["arch"]["args"]["backbone"] = {"name": "test_vit", "drop_path_rate": 0.2}
        config["optimizer"] = {"type": "AdamW", "layer_decay": 0.8, "args": {"lr": 0.001}}

    options = {"ema": 0.9, "accumulate": 2, "val": False, "save_per_iters": 1, "epochs": 1}
    assert train.main(["--config", str(write_config(change, **options))]) == 0
    expected = contents(run_folder())
    assert train.main(["--resume", str(run_folder() / "checkpoint-iter1.pth")]) == 0
    assert differing(expected, contents(run_folder())) == []


def test_changes_on_resume_are_listed_and_take_effect(tmp_path, write_config, run_folder, capsys):
    assert train.main(["--config", str(write_config(epochs=1))]) == 0
    folder = run_folder()
    words = ["--resume", str(folder), "--set", "trainer.epochs=2", "optimizer.args.lr=0.01"]
    assert train.main(words) == 0
    said = capsys.readouterr().err
    assert "changed: trainer.epochs from 1 to 2" in said
    assert "changed: optimizer.args.lr from 0.05 to 0.01" in said
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert max(row["epoch"] for row in rows) == 2
    assert all(
        row["learning_rates"][0] <= 0.01
        for row in rows
        if row["step"] > 3 and "learning_rates" in row
    )
    stored = json.loads((folder / "config.json").read_text())
    assert stored["optimizer"]["args"]["lr"] == 0.01


def test_another_network_or_other_classes_are_refused(tmp_path, write_config, run_folder):
    assert train.main(["--config", str(write_config(epochs=1))]) == 0
    folder = run_folder()
    with pytest.raises(ConfigError, match=r"a resumed run keeps its network \(ENet\)"):
        train.main(["--resume", str(folder), "--set", "arch.type=UNet"])
    content = checkpoint.load(folder / "last.pth")
    del content["format_version"]
    checkpoint.save([folder / "last.pth"], {**content, "classes": list("abcdefg")})
    (folder / "checkpoint-epoch1.pth").unlink()
    with pytest.raises(
        CheckpointError, match=r"the checkpoint's classes are not the data set's: 7 \(a, b, "
    ):
        train.main(["--resume", str(folder)])


def test_other_initial_weights_are_refused(write_config, run_folder):
    assert train.main(["--config", str(write_config(epochs=1))]) == 0
    with pytest.raises(ConfigError, match=r"--set init_from: found other\.pth, and a resumed run"):
        train.main(["--resume", str(run_folder()), "--set", "init_from=other.pth"])


@pytest.mark.parametrize(
    ("monitor", "change", "known"),
    [
        ("min val_loss", {"loss": {"type": "DiceLoss"}}, False),
        ("max Mean_IoU", {"loss": {"type": "DiceLoss"}}, True),
        ("max Mean_IoU", {"val_loader": {"args": {"crop_size": 32}}}, False),
        ("max Mean_IoU", {"val_loader": {"args": {"data_dir": "moved"}}}, True),
        ("max Mean_IoU", {"ignore_index": -1}, False),
    ],
)
def test_the_best_score_is_kept_while_it_can_be_compared(monitor, change, known):
    config = {"trainer": {"monitor": monitor}, "loss": {"type": "CrossEntropyLoss2d"}}
    state = {"config": config, "monitor_best": 0.5, "monitor_epochs": [1, 2]}
    resumed = Monitor.parse(monitor, 3)
    resumed.restore(state, config | change)
    assert (resumed.best, resumed.best_epoch) == ((0.5, 1) if known else (None, 2))


def test_weights_that_do_not_fit_are_refused(write_config, run_folder):
    assert train.main(["--config", str(write_config(epochs=1))]) == 0
    path = run_folder() / "last.pth"
    content = checkpoint.load(path)
    name = next(iter(content["state_dict"]))
    content["state_dict"][name] = torch.zeros(1, 2, 3)
    del content["format_version"]
    checkpoint.save([path], content)
    with pytest.raises(
        CheckpointError, match=rf"weights are not those of its ENet:\n.*{re.escape(name)}"
    ):
        train.main(["--resume", str(path)])


def test_the_best_model_is_no_state_to_resume_from(write_config, run_folder):
    assert train.main(["--config", str(write_config(epochs=1))]) == 0
    with pytest.raises(CheckpointError, match=r"best_model\.pth: holds no optimizer state"):
        train.main(["--resume", str(run_folder() / "best_model.pth")])


def test_another_optimizer_is_refused(write_config, run_folder):
    assert train.main(["--config", str(write_config(epochs=1))]) == 0
    change = ["optimizer.type=SGD", "optimizer.no_decay_norm_bias=true", "trainer.epochs=2"]
    with pytest.raises(ConfigError, match="optimizer does not fit this config's"):
        train.main(["--resume", str(run_folder()), "--set", *change])


def test_a_run_that_is_done_says_so_and_names_no_file_that_is_not_there(
    write_config, run_folder, tmp_path, capsys
):
    assert train.main(["--config", str(write_config(epochs=1))]) == 0
    finished = run_folder()
    moved = tmp_path / "elsewhere.pth"
    (finished / "last.pth").rename(moved)
    capsys.readouterr()
    assert train.main(["--resume", str(moved)]) == 0
    printed, said = capsys.readouterr()
    assert "all 1 epochs are done, nothing is left to train; more: --set" in said
    assert "next:" not in printed


def test_more_epochs_are_more_than_those_that_were_trained(write_config, run_folder, capsys):
    assert train.main(["--config", str(write_config(epochs=2))]) == 0
    assert train.main(["--resume", str(run_folder()), "--set", "trainer.epochs=1"]) == 0
    assert "more: --set trainer.epochs=4" in capsys.readouterr().err


def test_a_kill_before_the_last_file_of_an_epoch_changes_nothing(
    write_config, run_folder, monkeypatch
):
    """The epoch's own checkpoint is there, last.pth is the previous epoch's."""
    assert train.main(["--config", str(write_config(epochs=2))]) == 0
    folder = run_folder()
    expected = contents(folder)
    (folder / "last.pth").write_bytes((folder / "checkpoint-epoch1.pth").read_bytes())
    assert train.main(["--resume", str(folder)]) == 0
    assert differing(expected, contents(folder)) == []


def test_a_killed_save_of_an_epoch_leaves_its_own_checkpoint_first(
    write_config, run_folder, monkeypatch
):
    order, write = [], checkpoint.write_durably
    monkeypatch.setattr(
        "utils.run.checkpoint.write_durably",
        lambda path, data: (order.append(path.name), write(path, data)),
    )
    assert train.main(["--config", str(write_config(epochs=1))]) == 0
    assert order == ["best_model.pth", "checkpoint-epoch1.pth", "last.pth"]


def test_a_run_that_goes_back_leaves_its_history_whole_and_says_so(
    write_config, run_folder, monkeypatch, capsys
):
    """Gone back to epoch 1 and killed at once, the run goes on from there, not from the old end."""
    assert train.main(["--config", str(write_config(epochs=3))]) == 0
    folder = run_folder()
    expected, rows = contents(folder), (folder / "metrics.jsonl").read_text()
    later = {
        name: (folder / name).read_bytes()
        for name in ("last.pth", "checkpoint-epoch2.pth", "checkpoint-epoch3.pth")
    }

    def killed(self, batches):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_iteration", killed)
        with pytest.raises(KeyboardInterrupt):
            train.main(["--resume", str(folder / "checkpoint-epoch1.pth")])
    assert "a history is left: last.pth, checkpoint-epoch3.pth" in capsys.readouterr().err
    assert {name: (folder / "left-1" / name).read_bytes() for name in later} == later
    assert (folder / "left-1" / "metrics.jsonl").read_text() == rows
    assert train.main(["--resume", str(folder)]) == 0
    assert "going on from " + str(folder / "last.pth (epoch 1, it") in capsys.readouterr().err
    assert differing(expected, contents(folder)) == []


def test_a_run_that_goes_back_leaves_its_later_best_model_too(
    write_config, run_folder, monkeypatch, capsys
):
    """The best of epoch 2 is of the history that was left; the best of epoch 1 is gone."""
    scores, validate = {1: 0.3, 2: 0.5, 3: 0.4}, Trainer.validate
    known = lambda self, epoch: validate(self, epoch) | {"Mean_IoU": scores[epoch]}  # noqa: E731
    monkeypatch.setattr(Trainer, "validate", known)
    assert train.main(["--config", str(write_config(epochs=3))]) == 0
    folder = run_folder()
    scores |= {2: 0.1, 3: 0.2}
    assert train.main(["--resume", str(folder / "checkpoint-epoch1.pth")]) == 0
    assert "no best_model.pth up to iteration 3: kept from here on" in capsys.readouterr().err
    assert checkpoint.load(folder / "left-1" / "best_model.pth")["epoch"] == 2
    assert checkpoint.load(folder / "best_model.pth")["epoch"] == 3
    assert checkpoint.load(folder / "last.pth")["monitor_best"] == 0.2


def rates(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["learning_rates"][0] for row in rows if row["event"] == "log"}


def test_with_other_batches_the_schedule_goes_on_to_its_end(write_config, run_folder, capsys):
    config = write_config(epochs=1, log_per_iter=1)
    assert train.main(["--config", str(config), "--set", "lr_scheduler.type=Cosine"]) == 0
    folder = run_folder()
    change = ["trainer.epochs=3", "train_loader.args.batch_size=2"]
    assert train.main(["--resume", str(folder), "--set", *change]) == 0
    before, total = 3, 3 + 2 * 6  # 12 images in batches of 4, then of 2
    assert f"3 epochs, {total} iterations, {before} done" in capsys.readouterr().err
    found = rates(folder)
    assert list(found) == list(range(1, total + 1))
    peak = found[1]
    expected = [peak * (1 + math.cos(math.pi * step / total)) / 2 for step in range(before, total)]
    assert [found[step + 1] for step in range(before, total)] == pytest.approx(expected, rel=1e-3)


def test_in_the_middle_of_an_epoch_updates_stay_as_large(write_config, run_folder):
    assert train.main(["--config", str(write_config(epochs=1, save_per_iters=1))]) == 0
    file = str(run_folder() / "checkpoint-iter2.pth")
    half = "train_loader.args.batch_size=2"
    for change in ("seed=1", "train_loader.args.length=8", "train_loader.args.shuffle=false"):
        with pytest.raises(ConfigError, match=r"found other training images, or another order: "):
            train.main(["--resume", file, "--set", change])
    with pytest.raises(ConfigError, match=r"found 2 images an update .*, expected 4"):
        train.main(["--resume", file, "--set", half])
    assert train.main(["--resume", file, "--set", half, "trainer.accumulate=2"]) == 0


def test_a_run_folder_without_its_rows_is_still_the_runs(write_config, run_folder):
    assert train.main(["--config", str(write_config(epochs=1))]) == 0
    folder = run_folder()
    (folder / "metrics.jsonl").unlink()
    assert train.main(["--resume", str(folder), "--set", "trainer.epochs=2"]) == 0
    rows = (run_folder() / "metrics.jsonl").read_text().splitlines()  # there is one folder
    assert {json.loads(row)["epoch"] for row in rows} == {2}

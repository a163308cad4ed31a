"""One run through the command: what it writes, what it prints, what TensorBoard reads back."""

import json
import os
import re
import signal
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate
import train
from utils.errors import ConfigError, DataError, NumericError, ResourceError
from utils.run import checkpoint
from utils.run.monitor import Monitor
from utils.run.next_steps import result_lines

METRICS = {"val_loss", "Pixel_Accuracy", "Mean_IoU"}
OF_CLASSES = ("IoU", "Dice", "Precision", "Recall")
CLASSES = ("background", "disc", "square", "triangle", "ring", "star", "cross")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of three epochs: its folder, what it printed, what it said."""
    from conftest import tiny_config

    folder = tmp_path_factory.mktemp("finished")
    config = tiny_config(folder, epochs=3, keep=1, tensorboard=True)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda *words: printed.append(" ".join(words)))
        assert train.main(["--config", str(folder / "config.json")]) == 0
    (run,) = (folder / "saved" / "tiny").iterdir()
    return folder, run, printed


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def seen(run, score):
    """The classes that had a score in some validation: a class without labels has no recall."""
    scores = [row[f"Class_{score}"] for row in rows(run) if row["event"] == "val"]
    found = [name for name in CLASSES if any(one[name] is not None for one in scores)]
    assert len(found) > 3
    return found


def test_the_run_folder_holds_what_is_documented(finished):
    _, run, _ = finished
    assert {path.name for path in run.iterdir()} == {
        "best_model.pth",
        "checkpoint-epoch3.pth",  # keep: 1
        "config.json",
        "last.pth",
        "metrics.jsonl",
        "report.html",
        "samples",
        "train.log",
        "validation.png",
    }
    assert len(list((run / "samples").glob("*.jpg"))) == 4
    assert "EVAL 3/3" in (run / "train.log").read_text()


def test_metrics_rows_have_the_documented_names(finished):
    _, run, _ = finished
    events = [(row["event"], row["epoch"], row["step"]) for row in rows(run)]
    assert events == [
        ("log", 1, 2), ("log", 1, 3), ("train", 1, 3), ("val", 1, 3),
        ("log", 2, 4), ("log", 2, 6), ("train", 2, 6), ("val", 2, 6),
        ("log", 3, 8), ("log", 3, 9), ("train", 3, 9), ("val", 3, 9),
    ]  # fmt: skip
    val = rows(run)[-1]
    assert val.keys() >= METRICS
    assert all(tuple(val[f"Class_{name}"]) == CLASSES for name in OF_CLASSES)


def test_tensorboard_reads_back_every_documented_tag(finished):
    folder, run, _ = finished
    events = EventAccumulator(str(folder / "saved" / "runs" / "tiny" / run.name)).Reload()
    tags = events.Tags()
    documented = {
        "train/loss", "train/Mean_IoU", "train/Pixel_Accuracy", "train/Learning_rate_0",
        "train/Gradient_norm", "train/Momentum", "train/Images_per_second", "train/Data_wait_share",
        "val/loss", "val/Mean_IoU", "val/Pixel_Accuracy",
        *(f"val/{score}/{name}" for score in OF_CLASSES for name in seen(run, score)),
    }  # fmt: skip
    assert documented <= set(tags["scalars"])
    # One style: words that begin in capitals, as the metrics do; `loss` is as it always was.
    named = [tag.split("/")[1] for tag in tags["scalars"]]
    assert {name for name in named if not name[0].isupper()} == {"loss"}
    assert tags["images"] == ["val/inputs_targets_predictions"]
    (shown,) = events.Tensors("config/text_summary")
    text = shown.tensor_proto.string_val[0].decode()
    assert json.loads(text) == json.loads((run / "config.json").read_text())
    assert all(line.startswith("    ") for line in text.splitlines())  # Markdown's code
    written = {row["step"]: row["Mean_IoU"] for row in rows(run) if row["event"] == "val"}
    read = {event.step: event.value for event in events.Scalars("val/Mean_IoU")}
    assert read == pytest.approx(written)
    assert [event.step for event in events.Images("val/inputs_targets_predictions")] == [3, 6, 9]


def test_the_end_says_what_came_of_it_and_what_to_do_next(finished):
    folder, run, printed = finished
    best = max(row["Mean_IoU"] for row in rows(run) if row["event"] == "val")
    assert printed[0].startswith(f"best Mean_IoU {100 * best:.2f} % (epoch ")
    assert printed[1] == f"run folder: {run}"
    assert printed[2] == f"next: tensorboard --logdir {folder / 'saved' / 'runs'}"
    assert printed[3].startswith("next: ")
    assert printed[3].endswith(
        f"inference.py --model {run / 'best_model.pth'} --images {run / 'samples'} --mode whole"
    )


@pytest.mark.parametrize("validated", [True, False])
def test_only_a_run_with_validation_data_offers_to_evaluate(tmp_path, validated):
    (tmp_path / "last.pth").touch()
    facts = {"crop": None, "log_dir": None, "on_cpu": True, "plugins": ()}
    lines = result_lines(tmp_path, Monitor.parse("off", 0), example=tmp_path / "a.jpg",
                         validated=validated, **facts)  # fmt: skip
    assert any("evaluate.py" in line for line in lines) == validated


def test_the_log_has_all_that_was_said_from_the_first_line_on(finished):
    _, run, printed = finished
    lines = (run / "train.log").read_text(encoding="utf-8").splitlines()
    said = [re.sub(r"^[\d-]+ [\d:,]+ [A-Z]+ ", "", line) for line in lines]
    assert "train_loader: Shapes, 12 generated images" in said
    start = said.index("device      1 x CPU (1 threads)")
    assert [line.split()[0] for line in said[start : start + 8]] == [
        "device", "precision", "model", "data", "batch", "optimizer", "schedule", "software",
    ]  # fmt: skip
    assert "model       ENet, 0.36 M parameters, 0.36 M trained" in said
    assert "data        Shapes, 7 classes, 12 images to train on, 4 to validate" in said
    assert "optimizer   SGD, lr 0.05, momentum 0.9, weight_decay 0.0001" in said
    assert "schedule    Poly, 3 epochs, 9 iterations, 0 done" in said
    assert all(len(line) <= 80 for line in said[start : start + 8])
    assert any(re.fullmatch(r"expected    about \d+s to go", line) for line in said)
    epoch = [line for line in said if line.startswith("TRAIN 3/3  loss")]
    assert re.search(r"  waiting \d+%  ", *epoch)
    assert said[-len(printed) :] == printed


def test_the_best_model_has_all_that_inference_needs_and_no_optimizer(finished):
    _, run, _ = finished
    best, last = checkpoint.load(run / "best_model.pth"), checkpoint.load(run / "last.pth")
    needed = {"arch", "config", "classes", "palette", "mean", "std", "ignore_index", "input_dtype"}
    assert needed <= best.keys()
    assert "optimizer" not in best
    assert type(best["monitor_best"]) is float
    assert last["optimizer"]["state"]
    assert (last["epoch"], last["step"]) == (3, 9)
    assert last["monitor_best"] == best["monitor_best"]


def test_the_best_model_is_saved_at_every_improvement_whatever_save_period_says(
    write_config, run_folder, monkeypatch
):
    from trainer import Trainer

    scores = {1: 0.2, 2: 0.5, 3: 0.4}
    real = Trainer.validate
    monkeypatch.setattr(
        Trainer, "validate", lambda self, epoch: {**real(self, epoch), "Mean_IoU": scores[epoch]}
    )
    assert train.main(["--config", str(write_config(epochs=3, save_period=100))]) == 0
    best = checkpoint.load(run_folder() / "best_model.pth")
    assert (best["epoch"], best["monitor_best"]) == (2, 0.5)
    assert not list(run_folder().glob("checkpoint-epoch*"))


def test_one_class_is_watched_and_the_evaluation_says_the_same(
    write_config, run_folder, tmp_path, capsys
):
    def change(config):
        config["scored_classes"] = ["ring", "disc", "square"]

    path = write_config(change, epochs=3, precision="fp32", monitor="max Recall/background")
    assert train.main(["--config", str(path), "--device", "cpu"]) == 0
    said = capsys.readouterr()
    val = [row for row in rows(run_folder()) if row["event"] == "val"]
    best = max(val, key=lambda row: row["Class_Recall"]["background"])
    for row in val:
        ious = [row["Class_IoU"][name] for name in ("ring", "disc", "square")]
        there = [iou for iou in ious if iou is not None]
        assert row["Mean_IoU"] == pytest.approx(sum(there) / len(there), abs=1e-12)
    model = run_folder() / "best_model.pth"
    assert checkpoint.load(model)["epoch"] == best["epoch"]
    recall = re.search(r"best Recall/background (\d+\.\d\d %) \(epoch", said.out)[1]
    line = f"EVAL {best['epoch']}/3"
    mean = re.search(rf"{line}  val_loss .*  Mean_IoU (\d+\.\d\d %)", said.err)[1]

    output = tmp_path / "evaluation"
    arguments = ["--model", str(model), "--output", str(output), "--device", "cpu"]
    assert evaluate.main(arguments) == 0
    said = capsys.readouterr().out
    assert re.search(rf"^background +\S+ % +\S+ % +\S+ % +{recall}", said, re.MULTILINE)
    assert re.search(rf"^Mean_IoU +{mean}$", said, re.MULTILINE)
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["Mean_IoU"] == pytest.approx(best["Mean_IoU"], abs=1e-4)
    assert "ring, disc, square" in (output / "report.html").read_text()
    capsys.readouterr()

    again = ["--resume", str(run_folder()), "--device", "cpu", "--set", "trainer.epochs=4",
             "trainer.monitor=min val_loss"]  # fmt: skip
    assert train.main(again) == 0
    assert "best so far: val_loss" in capsys.readouterr().err  # not compared with a recall


@pytest.mark.parametrize(("key", "value", "message"), [
    ("monitor", "max IoU/dics", "trainer.monitor: the data have no class 'dics'; did you mean 'di"),
    ("scored_classes", ["ring", "rnig"], "scored_classes: the data have no class 'rnig'; did you"),
    ("scored_classes", ["ring", "ring"], "scored_classes: found 'ring' twice"),
])  # fmt: skip
def test_a_class_that_the_data_do_not_have_is_refused(write_config, key, value, message):
    def change(config):
        (config if key == "scored_classes" else config["trainer"])[key] = value

    with pytest.raises(ConfigError, match=re.escape(message)):
        train.main(["--config", str(write_config(change)), "--device", "cpu"])


def test_early_stop_counts_epochs_and_is_said(write_config, run_folder, monkeypatch, capsys):
    from trainer import Trainer

    real = Trainer.validate
    monkeypatch.setattr(
        Trainer, "validate", lambda self, epoch: {**real(self, epoch), "Mean_IoU": 1.0 / epoch}
    )
    path = write_config(epochs=9, early_stop=2)
    assert train.main(["--config", str(path)]) == 0
    assert checkpoint.load(run_folder() / "last.pth")["epoch"] == 3
    assert "stopped early: Mean_IoU did not improve for 2 epochs" in capsys.readouterr().err


def test_parts_of_a_loss_are_looked_at_before_the_data(write_config):
    def misspelt(config):
        inner = {"type": "Sum", "args": {"parts": [{"type": "DiceLoss"}, {"type": "Dise"}]}}
        config["loss"] = {"type": "Sum", "args": {"parts": [inner]}}
        config["train_loader"]["type"] = "CamVid"
        config["train_loader"]["args"] = {"data_dir": "x", "split": "train", "batch_size": 4}

    place = r"loss\.args\.parts\[0\]\.args\.parts\[1\]\.type: unknown name 'Dise'"
    with pytest.raises(ConfigError, match=place):
        train.main(["--config", str(write_config(misspelt))])


def test_a_class_that_validation_lacks_neither_chooses_nor_stops(
    write_config, run_folder, monkeypatch, capsys
):
    """Its IoU is 0 in each epoch, since the network predicts it somewhere."""
    from trainer import Trainer

    real = Trainer.validate

    def without_stars(self, epoch):
        metrics = real(self, epoch)
        metrics["Class_IoU"]["star"], metrics["Class_Recall"]["star"] = 0.0, None
        return metrics

    monkeypatch.setattr(Trainer, "validate", without_stars)
    path = write_config(epochs=4, early_stop=1, monitor="max IoU/star")
    assert train.main(["--config", str(path)]) == 0
    assert checkpoint.load(run_folder() / "last.pth")["epoch"] == 4
    assert not (run_folder() / "best_model.pth").exists()
    printed = capsys.readouterr()
    assert "no best model yet: no validation pixel is labelled for IoU/star" in printed.err
    assert "no score to choose by: the last weights are the ones to use" in printed.out


def test_a_score_on_crops_is_labelled_as_one(write_config, run_folder, capsys):
    def crop(config):
        config["val_loader"]["args"]["crop_size"] = 48

    assert train.main(["--config", str(write_config(crop, epochs=1))]) == 0
    assert "scored on center crops of 48 px, not whole images" in capsys.readouterr().out
    assert [row["crop"] for row in rows(run_folder()) if row["event"] == "val"] == [48]


def test_without_validation_the_last_model_is_the_one_to_use(write_config, run_folder, capsys):
    def blind(config):
        del config["val_loader"]

    assert train.main(["--config", str(write_config(blind, epochs=1, val=False))]) == 0
    assert not (run_folder() / "best_model.pth").exists()
    assert f"--model {run_folder() / 'last.pth'}" in capsys.readouterr().out


@pytest.mark.parametrize("planted", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_and_is_never_saved(
    write_config, run_folder, monkeypatch, planted
):
    from utils.losses.table import CrossEntropyLoss2d

    real = CrossEntropyLoss2d.forward
    calls = []

    def broken(self, logits, target, *, denominator=None):
        value = real(self, logits, target, denominator=denominator)
        calls.append(1)
        if len(calls) == 5 and planted == "loss":
            return value + float("nan")  # its derivative is still finite
        if len(calls) == 5:
            logits.register_hook(lambda gradient: gradient * float("inf"))
        return value

    monkeypatch.setattr(CrossEntropyLoss2d, "forward", broken)
    with pytest.raises(NumericError, match=f"the {planted} stopped being finite .*\n.*saved") as e:
        train.main(["--config", str(write_config(epochs=3, log_per_iter=1))])
    assert e.value.exit_code == 5
    last = checkpoint.load(run_folder() / "last.pth")
    assert last["epoch"] == 1
    assert str(e.value) in (run_folder() / "train.log").read_text(encoding="utf-8")
    assert all(torch.isfinite(value).all() for value in last["state_dict"].values())


def test_wrong_names_are_told_at_once_before_the_data_are_looked_at(write_config, capsys):
    def change(config):
        config["arch"] = {"type": "ENetto"}
        config["loss"] = "DiceLos"
        config["optimizer"]["type"] = "Sgdd"
        config["lr_scheduler"] = {"type": "Pol"}

    with pytest.raises(ConfigError) as caught:
        train.main(["--config", str(write_config(change))])
    assert [line.partition(" Known")[0] for line in str(caught.value).splitlines()] == [
        "arch.type: unknown name 'ENetto'; did you mean 'ENet'?",
        "optimizer.type: unknown name 'Sgdd'; did you mean 'SGD'?",
        "loss.type: unknown name 'DiceLos'; did you mean 'DiceLoss'?",
        "lr_scheduler.type: unknown name 'Pol'; did you mean 'Poly'?",
    ]
    assert "train_loader" not in capsys.readouterr().err


@pytest.mark.parametrize("key", ["save_dir", "log_dir"])
def test_a_folder_that_cannot_be_made_is_told_before_the_data_are_looked_at(
    write_config, tmp_path, capsys, key
):
    (tmp_path / "file").write_text("mine")
    path = write_config(**{key: str(tmp_path / "file" / "runs"), "tensorboard": True})
    message = rf"^trainer\.{key}: cannot make .*: \S*file is not a folder\n  set trainer\.{key} to"
    with pytest.raises(ConfigError, match=message):
        train.main(["--config", str(path)])
    assert "train_loader" not in capsys.readouterr().err
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "config.json"}


def test_a_worker_that_dies_during_a_step_is_no_bug_of_ours(write_config, monkeypatch):
    """torch raises from its handler of SIGCHLD, wherever the main process happens to be."""
    from trainer import Trainer

    def deadly(self, batches):
        (worker,) = self.parts.train_loader._loader._iterator._workers
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(60)

    def with_worker(config):
        config["train_loader"]["args"]["num_workers"] = 1

    monkeypatch.setattr(Trainer, "train_iteration", deadly)
    with pytest.raises(ResourceError, match=r"worker process died: .*\n.*memory ran out"):
        train.main(["--config", str(write_config(with_worker))])


def test_faults_in_the_data_end_with_exit_code_3_before_anything_is_written(write_config, tmp_path):
    def camvid(config):
        for kind in ("train_loader", "val_loader"):
            args = {"data_dir": str(tmp_path / "nowhere"), "batch_size": 2}
            config[kind] = {"type": "CamVid", "args": {**args, "split": "train"}}

    with pytest.raises(DataError, match="nowhere") as caught:
        train.main(["--config", str(write_config(camvid))])
    assert caught.value.exit_code == 3
    assert not (tmp_path / "saved").exists()


def test_a_batch_too_small_for_the_network_is_refused_before_training(write_config, tmp_path):
    def single(config):
        config["arch"] = {"type": "PSPNet", "args": {"backbone": "resnet18", "pretrained": False}}
        config["train_loader"]["args"]["batch_size"] = 1

    with pytest.raises(ConfigError, match=r"batch_size: a device would train on 1 image"):
        train.main(["--config", str(write_config(single))])
    assert not (tmp_path / "saved").exists()

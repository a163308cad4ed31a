"""evaluate.py from the command line: files, repeatability, processes, and every message."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_cases import shapes_config, write_checkpoint

import evaluate
from base.samples import Pair
from dataloaders.building import build_whole
from dataloaders.shapes import Shapes
from models import model_from_checkpoint
from utils.data.normalize import Normalize
from utils.errors import CheckpointError, ConfigError, DataError, guard
from utils.run import checkpoint

FILES = ("metrics.json", "confusion.csv", "report.html")
ROOT = Path(__file__).resolve().parents[1]
FLOAT32 = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
MANUAL = ROOT / "docs" / "evaluation.md"


@pytest.fixture(autouse=True)
def _tf32():
    """TF32 allowed before each test; the command changes that for its process."""
    before = [kind.fp32_precision for kind in FLOAT32]
    for kind in FLOAT32:
        kind.fp32_precision = "tf32"
    yield
    for kind, precision in zip(FLOAT32, before, strict=True):
        kind.fp32_precision = precision


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "best_model.pth")


def run(model, output, *flags):
    arguments = ["--model", str(model), "--output", str(output), "--device", "cpu", *flags]
    assert evaluate.main(arguments) == 0
    return json.loads((output / "metrics.json").read_text())


def test_the_numbers_are_those_of_whole_images_at_native_size(model, tmp_path, capsys):
    metrics = run(model, tmp_path, "--boundary")
    content = checkpoint.load(model)
    network = model_from_checkpoint(content)
    normalize = Normalize(content["mean"], content["std"])
    counts = np.zeros((7, 7), np.int64)
    data = Shapes(split="val", length=5, height=48, width=64)
    for index in range(5):
        image, mask = data.load(index)
        assert mask.shape == (48, 64)
        with torch.inference_mode():
            logits = network(normalize(torch.from_numpy(image).permute(2, 0, 1)[None]))
        prediction = logits.argmax(1)[0].numpy()
        for label, found in zip(mask.ravel(), prediction.ravel(), strict=True):
            if label != 255:
                counts[label, found] += 1
    rows = (tmp_path / "confusion.csv").read_text().splitlines()[1:]
    assert [[int(cell) for cell in row.split(",")[1:]] for row in rows] == counts.tolist()
    unions = counts.sum(0) + counts.sum(1) - counts.diagonal()
    mean = np.mean([h / u for h, u in zip(counts.diagonal(), unions, strict=True) if u])
    assert metrics["Mean_IoU"] == pytest.approx(mean, abs=1e-12)
    assert metrics["images"] == 5
    assert metrics["about"]["mode"] == "whole"
    assert metrics["about"]["split"] == "val"
    said = capsys.readouterr().out
    assert "Boundary_IoU" in said
    assert "A class in no label and no prediction is absent" in said
    assert (
        f"5 whole images; written: metrics.json, confusion.csv, report.html in {tmp_path}" in said
    )


def test_the_score_is_that_of_fp32_whatever_the_training_computed_in(
    model, tmp_path, monkeypatch, capsys
):
    content = checkpoint.load(model)
    content["config"]["trainer"]["precision"] = "bf16"
    checkpoint.save([tmp_path / "bf16.pth"], content)
    load, seen = Shapes.load, []

    def spied(self, index):
        seen.extend(kind.fp32_precision for kind in FLOAT32)
        return load(self, index)

    reference = run(model, tmp_path / "one")
    with monkeypatch.context() as patch:
        patch.setattr(Shapes, "load", spied)
        found = run(tmp_path / "bf16.pth", tmp_path / "two")
    assert "Predicted in fp32 on cpu." in capsys.readouterr().out
    assert set(seen) == {"ieee"}  # no TF32
    assert {kind.fp32_precision for kind in FLOAT32} == {"tf32"}  # as before
    assert found["about"] == reference["about"] | {"checkpoint": str(tmp_path / "bf16.pth")}
    assert "precision <b>fp32</b>" in (tmp_path / "two" / "report.html").read_text()
    assert found["Class_IoU"] == reference["Class_IoU"]
    other = run(model, tmp_path / "three", "--precision", "bf16")
    assert "Predicted in bf16 on cpu." in capsys.readouterr().out
    assert other["about"]["precision"] == "bf16"
    assert other["Class_IoU"] != reference["Class_IoU"]


def test_two_evaluations_write_the_same_bytes(model, tmp_path):
    for name in ("one", "two"):
        run(model, tmp_path / name, "--mode", "multiscale", "--scales", "0.5", "1", "--flip")
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_modes_and_splits_are_those_asked_for(model, tmp_path):
    whole = run(model, tmp_path / "whole")
    sliding = run(model, tmp_path / "sliding", "--mode", "sliding", "--window", "32")
    assert sliding["about"]["window"] == 32
    assert sliding["Mean_IoU"] != whole["Mean_IoU"]
    train = run(model, tmp_path / "train", "--split", "train")
    assert train["about"]["split"] == "train"
    assert {one["image"] for one in train["per_image"]} != {
        one["image"] for one in whole["per_image"]
    }
    longer = run(model, tmp_path / "longer", "--set", "val_loader.args.length=7")
    assert longer["images"] == 7


def test_the_data_can_come_from_another_config(model, tmp_path):
    config = tmp_path / "other.json"
    config.write_text(json.dumps(shapes_config(3)))
    assert run(model, tmp_path, "--config", str(config))["images"] == 3


@pytest.mark.parametrize("processes", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_several_processes_write_the_same_bytes_as_one(model, tmp_path, processes):
    run(model, tmp_path / "one")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
    ]
    arguments = ["--model", str(model), "--output", str(tmp_path / "many"), "--device", "cpu"]
    subprocess.run(
        [*command, str(ROOT / "evaluate.py"), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=240,
        cwd=ROOT,
        capture_output=True,
    )
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_the_share_that_training_left_out_is_what_is_scored():
    args = {"split": "train", "length": 10, "val_split": 0.3, "batch_size": 2, "crop_size": 16}
    data = build_whole("train_loader", "Shapes", args, ignore_index=255, seed=5)
    training = Shapes(split="train", length=10, val_split=0.3, seed=5)
    held_out = training.split_off()
    names = [held_out.name(index) for index in range(len(held_out))]
    assert [data.name(index) for index in range(len(data))] == names
    assert len(names) == 3
    assert data.load(0)[1].shape == (128, 128)


def test_other_classes_are_refused(tmp_path):
    model = write_checkpoint(tmp_path / "two.pth", classes=["cat", "dog"])
    message = r"the model knows 2 classes \(cat, dog\), the data have 7 \(background, disc"
    with pytest.raises(CheckpointError, match=message):
        run(model, tmp_path)
    assert not (tmp_path / "metrics.json").exists()


def test_data_without_labels_are_refused(model, tmp_path, monkeypatch):
    blank = np.full((48, 64), 255, np.uint8)
    load = Shapes.load
    monkeypatch.setattr(Shapes, "load", lambda self, index: (load(self, index)[0], blank))
    with pytest.raises(DataError, match="the 4 other images have no labelled pixel"):
        run(model, tmp_path)


def test_images_without_masks_are_refused_before_they_are_read(model, tmp_path, monkeypatch):
    def blank(self):
        self._numbers = range(self.length)
        self.pairs = tuple(Pair(Path(f"{number}.png"), None) for number in self._numbers)

    monkeypatch.setattr(Shapes, "__post_init__", blank)
    monkeypatch.setattr(Shapes, "load", lambda *_: pytest.fail("an image was read"))
    with pytest.raises(DataError, match="the 4 other images have no masks\n  fix: --split"):
        run(model, tmp_path)


def test_data_of_another_kind_are_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(Shapes, "mean", (0.5,) * 5)
    message = "the model reads 3 channels of uint8, the data have 5 of uint8"
    with pytest.raises(CheckpointError, match=message):
        run(model, tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scales", "0"], r"--scales: found \[0\.0\], expected in \(0, 8\]"),
        (["--mode", "sliding", "--window", "8"], "--window: found 8, expected at least 32"),
        (["--overlap", "0.95"], r"--overlap: found 0\.95, expected in 0 \.\. 0\.9"),
        (["--boundary", "2"], r"--boundary: found 2\.0, expected in \(0, 0\.5\]"),
        (["--scales", "1"], "--scales has no effect in mode whole\n  fix: --mode multiscale"),
        (["--window", "64"], "--window has no effect in mode whole\n  fix: --mode sliding"),
        (["--device", "gpu"], "--device: found 'gpu'"),
        (["--split", "tset"], r"val_loader\.args\.split"),
        (["--set", "val_loader.args.lenght=3"], "lenght"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said(model, tmp_path, flags, message):
    with pytest.raises(ConfigError, match=message):
        evaluate.main(["--model", str(model), "--output", str(tmp_path), *flags])


def test_a_missing_checkpoint_exits_4(tmp_path, capsys):
    missing = str(tmp_path / "none.pth")
    assert guard(evaluate.main, ["--model", missing]) == 4
    assert missing in capsys.readouterr().err


def test_names_that_are_not_utf_8_are_written_escaped(model, tmp_path):
    other = shutil.copy(model, tmp_path / "caf\udce9.pth")
    assert run(other, tmp_path)["about"]["checkpoint"] == str(other)
    assert r"caf\udce9.pth" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_manual_lists_every_flag(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["--help"])
    flag = re.compile(r"^  (?:-\w+.*?, )?(--[a-z-]+)", re.MULTILINE)
    offered = set(flag.findall(capsys.readouterr().out))
    rows = re.findall(r"^\| (?:`-\w+`, )?`(--[a-z-]+)`", MANUAL.read_text(), re.MULTILINE)
    assert set(rows) == offered - {"--help"}
    assert "--boundary" in rows


def test_a_full_disk_is_a_message_and_leaves_no_half_report(model, tmp_path, monkeypatch, capsys):
    def full(self, _data):
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    arguments = ["--model", str(model), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert guard(evaluate.main, arguments) == 6
    assert "metrics.json: cannot be written (No space left on device)" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []

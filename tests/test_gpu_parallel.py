"""What one GPU can show of several, and of runs that are killed: `pytest -m gpu`."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_worker import ten_steps
from mutant import DOCUMENTED
from parallel_cases import (
    assert_collectives_work,
    assert_equal_to_one,
    assert_gradients_are_shared_and_statistics_are_not,
    assert_gradients_of_micro_batches_travel_once,
    assert_replicas_give_the_step_of_one,
    in_two_processes,
    one_process,
    ten_step_config,
)
from PIL import Image
from test_resume import assert_kill_9_after_the_second_epoch_changes_nothing
from torch import nn
from torch.nn.parallel import DataParallel
from training import batches_of, plain_config, trainer_of, weights_of

from models import MODELS
from utils.drawing.palette import to_palette_image, voc_palette
from utils.hardware import parallel
from utils.hardware.devices import set_determinism
from utils.hardware.prefetch import on_device
from utils.run import checkpoint

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
NCCL = "cpu:gloo,cuda:nccl"
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _float32(monkeypatch):
    """TF32 rounds differently for a batch and its parts."""
    monkeypatch.chdir(ROOT)
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    yield
    torch.backends.cudnn.conv.fp32_precision = before


# Several processes and replicas, on one GPU.


def small(name):
    return {"type": name, "args": {"pretrained": False, **MODELS[name].facts.small}}


@pytest.mark.parametrize("synchronized", [False, True], ids=["frozen", "SyncBN"])
def test_two_processes_equal_one(tmp_path, synchronized):
    """With SyncBN statistics too are those of the whole batch."""
    config = ten_step_config(tmp_path)
    if synchronized:
        config["use_synch_bn"] = True
        config["arch"]["args"]["freeze_bn"] = False
    found = in_two_processes(config, tmp_path, DEVICE)
    assert_equal_to_one(found, ten_steps(config, DEVICE), tolerance=1e-4, flips=1e-3)
    assert_gradients_are_shared_and_statistics_are_not(found)


def test_two_replicas_give_the_step_of_one_network(tmp_path):
    assert_replicas_give_the_step_of_one(tmp_path, DEVICE, device_ids=[0, 0])


def test_data_parallel_takes_the_gpus_that_are_there():
    model, device = nn.Conv2d(1, 1, 1).to(DEVICE), torch.device(DEVICE, 0)
    network = parallel.spread(model, device, parallel="DataParallel", n_gpu=1000)
    assert isinstance(network, DataParallel)
    assert network.device_ids == list(range(torch.cuda.device_count()))
    assert parallel.shares(network) == torch.cuda.device_count()
    assert parallel.spread(model, device, parallel="auto", n_gpu=1000) is model


def test_nccl_carries_what_the_processes_share(monkeypatch):
    with one_process(NCCL):
        assert_collectives_work(DEVICE, monkeypatch)


def test_nccl_carries_gradients_of_micro_batches_once(tmp_path):
    with one_process(NCCL):
        assert_gradients_of_micro_batches_travel_once(tmp_path, DEVICE)


# The same bits.


@pytest.fixture
def _deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    set_determinism(deterministic=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("_deterministic")
def test_each_model_trains_under_deterministic_algorithms(tmp_path, name):
    config = plain_config(tmp_path, precision="auto") | {"arch": small(name)}
    config["train_loader"]["args"] |= {"base_size": 64, "crop_size": 64}
    if name == "Linear":  # CUDA cannot resize its position embedding so in the backward pass
        config["arch"]["args"]["backbone"] = {"name": "test_vit", "img_size": 64}
    ends = []
    for _ in range(2):
        trainer = trainer_of(config, DEVICE)
        for batch in on_device(batches_of(trainer), trainer.device):
            trainer.train_iteration([batch])
        ends.append(weights_of(trainer))
    assert [key for key, value in ends[0].items() if not torch.equal(value, ends[1][key])] == []


@pytest.mark.parametrize("name", ["ENet", "PSPNet", "DeepLab"])
def test_kill_9_then_resume_equals_never_stopped(tmp_path, name):
    change = {"deterministic": True, "arch": small(name)}
    assert_kill_9_after_the_second_epoch_changes_nothing(tmp_path, DEVICE, change)


# The documented config.


def make_voc(root, *, train, val, different=64):
    """VOC 2012 with SBD in its real layout and image sizes; few images under many names."""
    home = root / "data" / "VOCdevkit" / "VOC2012"
    for folder in (
        "JPEGImages",
        "SegmentationClassAug",
        "SegmentationClass",
        "ImageSets/Segmentation",
    ):
        (home / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, count, masks in (
        ("train_aug", train, "SegmentationClassAug"),
        ("val", val, "SegmentationClass"),
    ):
        names = [f"{split}_{number:06d}" for number in range(count)]
        for name, first in zip(names, itertools.cycle(names[:different]), strict=False):
            image, mask = home / f"JPEGImages/{name}.jpg", home / f"{masks}/{name}.png"
            if name == first:
                size = (500, 375) if random.random() < 0.7 else (375, 500)
                noise = random.integers(0, 256, (25, 25, 3)).astype(np.uint8)
                Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(image)
                labels = random.choice([*range(21), 255], (9, 9)).astype(np.uint8)
                large = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
                to_palette_image(np.asarray(large), voc_palette(21)).save(mask)
            else:
                os.link(image.with_stem(first), image)
                os.link(mask.with_stem(first), mask)
        pairs = [f"/JPEGImages/{name}.jpg /{masks}/{name}.png" for name in names]
        lines = pairs if split == "train_aug" else names
        (home / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(lines))


def run_documented(folder, device, *, train, val, changes=()):
    """One epoch of the documented config in a folder whose data/ has so many images."""
    make_voc(folder, train=train, val=val)
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(DOCUMENTED)]
    # One epoch of 80, and no weights from the network.
    changes = ["trainer.epochs=1", "arch.args.pretrained=false", *changes]
    command += ["--device", device, "--set", *changes]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "saved" / "PSPNet").iterdir()
    return checkpoint.load(run / "last.pth"), (run / "metrics.jsonl").read_text().splitlines()


def test_the_documented_config_trains_an_epoch_of_voc(tmp_path):
    state, rows = run_documented(tmp_path, DEVICE, train=10582, val=1449)
    assert (state["epoch"], state["step"]) == (1, 10582 // 32)
    val = json.loads(rows[-1])
    assert (val["event"], val["crop"]) == ("val", 480)
    assert 0 < val["val_loss"] < 10

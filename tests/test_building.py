import json
import logging
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
from conftest import tiny_config
from PIL import Image
from processes import together

from assembly import assemble
from dataloaders import label_counts
from dataloaders.building import build_loaders, build_whole, check_data
from dataloaders.folder import Folder
from models import MODELS, build_network, model_from_checkpoint
from models.building import build_model
from train import main
from utils.config import registry
from utils.config.config import parse_config
from utils.config.registry import choose
from utils.data import pixel_cache
from utils.errors import CheckpointError, ConfigError, DataError, ResourceError
from utils.hardware import distributed
from utils.hardware.workers import usable_cores

COMMON = {"ignore_index": 255, "seed": 0}


def folder(root, values=(0, 1)):
    """Eight pairs; masks hold two values."""
    for name in ("images", "masks"):
        (root / name).mkdir()
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(noise).save(root / "images" / f"{number}.png")
        mask = np.array(values, np.uint8)[np.indices((32, 32))[number % 2] // 8 % 2]
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return {"data_dir": str(root), "classes": ["ground", "house"], "batch_size": 2,
            "num_workers": 0}  # fmt: skip


def test_the_held_out_share_is_validated_whole_and_plain(tmp_path):
    args = folder(tmp_path) | {"val_split": 0.25, "augment": True, "crop_size": 16, "shuffle": True}
    train, val = build_loaders(("Folder", args), None, **COMMON)
    assert (len(train.dataset), len(val.dataset)) == (6, 2)
    assert next(iter(train)).images.shape == (2, 3, 16, 16)
    batch = next(iter(val))
    assert batch.images.shape == (2, 3, 32, 32)
    assert (batch.images[0].permute(1, 2, 0).numpy() == val.dataset.load(0)[0]).all()
    names = {part.dataset.name(i) for part in (train, val) for i in range(len(part.dataset))}
    assert len(names) == 8
    whole = build_whole("train_loader", "Folder", args, **COMMON)
    assert [whole.name(i) for i in range(2)] == [val.dataset.name(i) for i in range(2)]


def test_val_split_belongs_to_the_training_loader(tmp_path):
    args = folder(tmp_path)
    with pytest.raises(ConfigError, match=r"val_loader\.args\.val_split: a share is held out of"):
        build_loaders(("Folder", args), ("Folder", args | {"val_split": 0.5}), **COMMON)


def test_scores_are_not_those_of_augmented_images(tmp_path):
    args = folder(tmp_path) | {"crop_size": 32}
    with pytest.raises(ConfigError, match=r'val_loader\.args\.augment: .*\n  fix: "val": true in'):
        build_loaders(("Folder", args), ("Folder", args | {"augment": True}), **COMMON)
    _, val = build_loaders(("Folder", args), ("Folder", args), **COMMON)
    assert val.dataset.val, "center crops, as every place that shows the score says"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"val_loader": {"type": "Shapes", "args": {"batch_size": 1}}},
            "delete val_split, or val",
        ),
        ({"trainer": {"val": False}}, "delete val_split, or validate"),
    ],
)
def test_val_split_beside_other_validation_is_refused(change, message):
    config = {
        "name": "x",
        "arch": {"type": "UNet"},
        "train_loader": {"type": "Shapes", "args": {"batch_size": 1, "val_split": 0.5}},
    }
    assert parse_config(config).val_loader is None
    with pytest.raises(ConfigError, match=message):
        parse_config(config | change)


def test_data_are_looked_at_before_a_training(tmp_path):
    args = folder(tmp_path, values=(0, 255))
    with pytest.raises(DataError) as caught:
        build_loaders(("Folder", args), None, **COMMON)
    message = str(caught.value)
    assert message.startswith("the data cannot be used\ntrain_loader: Folder, 8 images, 8 masks")
    assert '"label_map": {"0": 0, "255": 1}' in message
    assert "train.py --check-data" in message


def test_what_was_dropped_and_found_is_said_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="segmentation")
    build_loaders(("Folder", folder(tmp_path) | {"batch_size": 3, "shuffle": True}), None, **COMMON)
    assert "train_loader: each epoch leaves out 2 images, whose batch would be short" in caplog.text
    assert "no problem found" in caplog.text
    assert "num_workers" not in caplog.text


def test_what_is_set_already_is_no_advice(tmp_path, caplog, monkeypatch):
    """Two processes leave out the ninth image of nine in batches of eight all the same."""
    caplog.set_level(logging.INFO, logger="segmentation")
    monkeypatch.setattr("base.base_data_loader.BaseDataLoader.dropped", 1)
    build_loaders(("Folder", folder(tmp_path) | {"drop_last": False}), None, **COMMON)
    assert "no problem found" in caplog.text
    assert "drop_last" not in caplog.text


def test_more_workers_than_cores_are_said_in_a_line(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="segmentation")
    workers = usable_cores() + 1
    build_loaders(("Folder", folder(tmp_path) | {"num_workers": workers}), None, **COMMON)
    assert f"train_loader: {workers} workers, {workers - 1} cores; one a core is as" in caplog.text


def test_what_a_config_names_is_checked_once_when_it_is_built(tmp_path, monkeypatch):
    checked, check = [], registry.argument_faults

    def counting(kind, *arguments, **options):
        checked.append(kind)
        return check(kind, *arguments, **options)

    monkeypatch.setattr(registry, "argument_faults", counting)
    config = parse_config(tiny_config(tmp_path))
    assert checked == [], "before torch the schema is what checks"
    assemble(config, None, device=torch.device("cpu"))
    loaders = ["train_loader", "val_loader"]
    assert checked == ["arch", "optimizer", "loss", "lr_scheduler", *loaders]


class Surplus(MODELS["ENet"]):
    """A model with an output for void."""

    def __init__(self, num_classes: int, *, in_channels: int = 3, pretrained: bool = False):
        super().__init__(num_classes + 1, in_channels=in_channels, pretrained=pretrained)


def test_a_model_with_other_outputs_than_classes_is_refused(monkeypatch):
    monkeypatch.setitem(MODELS, "Surplus", Surplus)
    message = "arch.type: Surplus has 4 outputs for 3 classes"
    with pytest.raises(ConfigError, match=message):
        build_model(choose("arch", MODELS, "Surplus", {}), num_classes=3, in_channels=3, start=None)
    stored = {"config": {"arch": {"type": "Surplus"}}, "classes": list("abc"), "mean": [0.5] * 3}
    stored["state_dict"] = Surplus(3, in_channels=3).state_dict()
    with pytest.raises(CheckpointError, match=message):
        model_from_checkpoint(stored)


def test_a_data_set_that_cannot_be_built_does_not_hide_the_other(tmp_path):
    good = folder(tmp_path, values=(1, 2))
    missing = good | {"data_dir": str(tmp_path / "nowhere")}
    report, usable = check_data(("Folder", missing), ("Folder", good), **COMMON)
    assert not usable
    assert "nowhere/images: no such folder" in report
    assert "val_loader: Folder, 8 images, 8 masks looked at\n  problem" in report
    assert "off by one" in report


@pytest.mark.parametrize(("values", "code"), [((0, 1), 0), ((0, 255), 3)])
def test_check_data_from_the_command_line(tmp_path, values, code, capsys, monkeypatch):
    (tmp_path / "data").mkdir()
    config = {
        "name": "x",
        "arch": {"type": "UNet"},
        "train_loader": {"type": "Folder", "args": folder(tmp_path / "data", values)},
        "trainer": {"val": False, "save_dir": str(tmp_path / "saved")},
    }
    (tmp_path / "c.json").write_text(json.dumps(config))
    assert main(["--config", str(tmp_path / "c.json"), "--check-data"]) == code
    out = capsys.readouterr().out
    assert ("no problem found" in out) == (code == 0)
    assert ("binary masks of 0 and 255" in out) == (code == 3)
    assert not (tmp_path / "saved").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["--config", str(tmp_path / "c.json"), "--check-data"]) == 0
    assert capsys.readouterr().out == ""


# What a start costs.


@pytest.fixture
def opened(monkeypatch):
    """The images whose headers are opened, as they are."""
    names, size = [], Folder.size

    def noted(self, index):
        names.append(self.pairs[index].image.stem)
        return size(self, index)

    monkeypatch.setattr(Folder, "size", noted)
    return names


@pytest.fixture
def two_folders(tmp_path):
    """Arguments of two loaders whose images share nothing but their sizes."""
    folders = [tmp_path / name for name in ("one", "two")]
    sections = []
    for path in folders:
        path.mkdir()
        sections.append(("Folder", folder(path) | {"cache": "disk", "cache_dir": str(tmp_path)}))
    for image in (folders[1] / "images").iterdir():
        Image.open(image).transpose(Image.Transpose.ROTATE_90).save(image)
    return sections


def test_a_second_start_opens_no_header_but_those_of_the_sample(two_folders, opened):
    sample = sorted([*"01234567"] * 2)  # of so few images each is in it
    build_loaders(*two_folders, **COMMON)
    assert sorted(opened) == sorted(sample * 2)
    del opened[:]
    build_loaders(*two_folders, **COMMON)
    assert sorted(opened) == sample


def test_a_header_that_became_unreadable_is_found(two_folders, tmp_path):
    build_loaders(*two_folders, **COMMON)
    (tmp_path / "one" / "images" / "3.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"images/3\.png: cannot be decoded"):
        build_loaders(*two_folders, **COMMON)


def test_the_first_of_several_processes_looks_for_all(two_folders, opened):
    def start():
        train, val = build_loaders(*two_folders, **COMMON)
        return len(opened), train.dataset.image_sizes, [batch.indices for batch in val]

    (looked, sizes, some), (looked_too, same_sizes, others) = together(start)
    assert (looked, looked_too) == (32, 0)
    assert sizes == same_sizes == [(32, 32)] * 8
    assert some + others == [(0, 1), (4, 5), (2, 3), (6, 7)]


def test_what_the_first_process_finds_ends_all_of_them(tmp_path):
    args = folder(tmp_path, values=(0, 255))
    errors = together(lambda: build_loaders(("Folder", args), None, **COMMON))
    assert [type(error) for error in errors] == [DataError] * 2
    assert str(errors[0]) == str(errors[1])
    assert '"label_map": {"0": 0, "255": 1}' in str(errors[0])


def test_labels_are_counted_by_one_process_however_long_it_takes(tmp_path, monkeypatch):
    """Longer than a process that is lost is waited for."""
    monkeypatch.setattr(distributed, "TIMEOUT", timedelta(seconds=2))
    args = folder(tmp_path)
    data = Folder(data_dir=args["data_dir"], classes=tuple(args["classes"]))
    count, counted = label_counts._count, []

    def slow(dataset):
        counted.append(dataset)
        time.sleep(2.5)
        return count(dataset)

    monkeypatch.setattr(label_counts, "_count", slow)
    first, second = together(lambda: (label_counts.count_labels(data), len(counted)))
    assert (first[1], second[1]) == (1, 0)
    assert first[0] == second[0] == label_counts.LabelCounts([4096, 4096], [8192, 8192])


# Eight images of 32 x 32 x 3 with a mask of one byte: 32 KiB a loader.
@pytest.mark.parametrize(
    ("kib", "processes", "message"),
    [
        (80, 1, None),
        (60, 1, r"0\.0 GiB for 16 decoded images, but"),
        (160, 2, None),
        (120, 2, "for 16 decoded images in each of 2 processes, but"),
    ],
)
def test_caches_in_memory_are_summed_up(two_folders, monkeypatch, kib, processes, message):
    for _, args in two_folders:
        args["cache"] = "ram"
    monkeypatch.setattr(pixel_cache, "free_memory", lambda: kib * 1024)

    def start():
        build_loaders(*two_folders, **COMMON)

    if message is None:
        assert together(start, processes=processes) == [None] * processes
        return
    for error in together(start, processes=processes):
        with pytest.raises(ResourceError, match=message):
            raise error


def test_a_network_that_no_memory_holds_is_a_message():
    arch = choose("arch", MODELS, "UNet", {"base_channels": 2**31})
    with pytest.raises(ResourceError, match=r"^out of memory in building UNet(.|\n)*fix: smaller"):
        build_network(arch, num_classes=2, in_channels=3)

"""Class weights: formulas on a known histogram, counting, remembering, the way from a config."""

import json
import math

import numpy as np
import pytest
import torch
from evaluation_cases import shapes_config
from PIL import Image

from assembly import assemble
from dataloaders.camvid import CamVid
from dataloaders.label_counts import count_labels, loss_weights
from dataloaders.shapes import Shapes
from utils.config.config import parse_config
from utils.data.labels import LabelTable
from utils.errors import ConfigError, DataError
from utils.losses.class_weights import class_weights

PIXELS, SURROUNDINGS = [600, 300, 100, 0], [1000, 600, 400, 0]


def test_formulas_on_a_known_histogram():
    enet = [1 / math.log(1.02 + share) for share in (0.6, 0.3, 0.1, 0.0)]
    assert class_weights("enet", PIXELS, SURROUNDINGS) == pytest.approx(enet)
    # Frequencies 0.6, 0.5 and 0.25: the median is 0.5.
    median = [0.5 / 0.6, 1.0, 2.0, 0.0]
    assert class_weights("median_freq", PIXELS, SURROUNDINGS) == pytest.approx(median)
    softened = [math.sqrt(weight) for weight in median]
    assert class_weights("sqrt_median_freq", PIXELS, SURROUNDINGS) == pytest.approx(softened)
    inverse = class_weights("inverse", PIXELS, SURROUNDINGS)
    assert inverse == pytest.approx([1 / 3, 2 / 3, 2.0, 0.0])
    with pytest.raises(ValueError, match="no labelled pixel"):
        class_weights("enet", [0, 0], [0, 0])


@pytest.fixture
def camvid(tmp_path, monkeypatch):
    """Three images; class 4 in one of them alone; raw value 11 is void."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for split in ("train", "trainannot"):
        (tmp_path / "data" / split).mkdir(parents=True)
    for number in range(3):
        mask = random.integers(0, 3, size=(8, 9)).astype(np.uint8)
        mask[:2] = 11
        mask[7, 0] = 4 if number == 1 else 0
        Image.fromarray(mask).save(tmp_path / "data" / "trainannot" / f"{number}.png")
        image = Image.fromarray(np.zeros((8, 9, 3), np.uint8))
        image.save(tmp_path / "data" / "train" / f"{number}.png")
    return lambda: CamVid(data_dir=str(tmp_path / "data"), split="train")


def test_counts_are_those_of_the_masks(camvid):
    data = camvid()
    masks = [data.load(index)[1] for index in range(3)]
    counts = count_labels(data)
    assert counts.pixels == [sum(int((mask == c).sum()) for mask in masks) for c in range(11)]
    assert counts.surroundings == [
        sum(int((mask != 255).sum()) for mask in masks if (mask == c).any()) for c in range(11)
    ]
    assert counts.pixels[4] == 1
    assert counts.surroundings[4] == 54


def test_counts_are_remembered_until_a_mask_changes(camvid, tmp_path, monkeypatch):
    first = count_labels(camvid())
    read, labels = [], CamVid.read_labels
    monkeypatch.setattr(
        CamVid, "read_labels", lambda data, path: read.append(path.name) or labels(data, path)
    )
    assert count_labels(camvid()) == first
    assert read == []
    Image.fromarray(np.full((8, 9), 5, np.uint8)).save(tmp_path / "data" / "trainannot" / "2.png")
    assert count_labels(camvid()).pixels[5] == 72
    assert read == ["2.png"]
    for file in (tmp_path / "cache").rglob("*.json"):
        file.write_text("damaged")
    assert count_labels(camvid()).pixels[5] == 72
    assert len(read) == 4


def test_counts_are_those_of_what_values_mean_now(camvid):
    """Another void value, or other classes, and the same masks."""
    data = camvid()
    assert count_labels(data).pixels[11:] == []
    data.classes = (*data.classes, "void")
    data.table = LabelTable.identity(12, ignore_index=255, void=255)
    assert count_labels(data).pixels[11] == 54


def test_a_mask_that_cannot_be_read_ends_the_counting(camvid, tmp_path):
    (tmp_path / "data" / "trainannot" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"trainannot/1\.png: cannot be decoded"):
        count_labels(camvid())


def test_a_folder_that_cannot_be_written_costs_only_the_memory(camvid, tmp_path, caplog):
    (tmp_path / "cache").touch()
    with caplog.at_level("INFO", logger="segmentation"):
        assert sum(count_labels(camvid()).pixels) == 162
    assert "what was read is not remembered in" in caplog.text


def test_named_weights_are_logged_by_class_and_given_ones_are_taken(caplog, monkeypatch):
    data = Shapes(split="train", length=3)
    with caplog.at_level("INFO", logger="segmentation"):
        weights = loss_weights("inverse", data)
    assert len(weights) == 7
    assert caplog.text.count("class_weights:") == 7
    assert f"{weights[1]:.4f}  disc" in caplog.text
    assert loss_weights([1, 2.5], data) == (1, 2.5)
    blank = (np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 255, np.uint8))
    monkeypatch.setattr(Shapes, "load", lambda *_: blank)
    with pytest.raises(DataError, match="none of the 3 training masks has a labelled pixel"):
        loss_weights("enet", data)


def test_a_config_reaches_the_loss():
    weights = [1, 2, 3, 4, 5, 6, 7.5]
    assert assembled(weights).tolist() == weights
    assert assembled("enet").tolist() != assembled("median_freq").tolist()
    assert assembled(None) is None


def assembled(setting):
    config = parse_config({**shapes_config(4), "class_weights": setting})
    trainer = assemble(config, None, device=torch.device("cpu"))
    return trainer.parts.loss.loss.class_weights


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("medianfreq", "did you mean 'median_freq'"),
        ([1.0, -2.0], r"class_weights\[1\]"),
        ([], "class_weights"),
    ],
)
def test_settings_that_mean_nothing_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(json.loads(json.dumps({**shapes_config(4), "class_weights": setting})))


def test_weights_of_the_wrong_number_are_refused():
    with pytest.raises(ConfigError, match="class_weights: found 2 weights, expected 7"):
        assembled([1.0, 2.0])

"""inference.load: the three lines of the manual, and what a wrong array is told."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from color_model import (
    CLASSES,
    COLORS,
    PALETTE,
    ColorModel,
    checkpoint_of,
    picture_of,
    save_checkpoint,
)
from PIL import Image

from inference import load
from utils.errors import CheckpointError, ConfigError, DataError
from utils.run import checkpoint

MANUAL = Path(__file__).resolve().parents[1] / "docs" / "inference.md"
MASK = np.arange(4).reshape(2, 2).repeat(20, 0).repeat(30, 1)
"""Four quarters, 40 x 60."""


@pytest.fixture(name="file")
def _file(tmp_path, monkeypatch):
    monkeypatch.setattr("models.model_from_checkpoint", lambda _content: ColorModel())
    monkeypatch.chdir(tmp_path)
    return save_checkpoint(tmp_path / "best_model.pth", ColorModel())


def test_the_manuals_lines_come_first_and_run(file, tmp_path):
    three, more = re.findall(r"```python\n(.*?)```", MANUAL.read_text(), re.DOTALL)[:2]
    assert MANUAL.read_text().split("```")[1] == f"python\n{three}"
    assert len([line for line in three.splitlines() if line]) == 3
    Image.fromarray(picture_of(MASK)).save(tmp_path / "photo.jpg", quality=100, subsampling=0)
    names = {"image": picture_of(MASK)}
    exec(three, names)
    inner = (slice(4, 16), slice(4, 26))
    assert names["mask"].shape == (40, 60)
    assert names["mask"].dtype == np.uint8
    assert (names["mask"][inner] == MASK[inner]).all()
    exec(more, names)
    assert (np.asarray(Image.open(tmp_path / "mask.png")) == MASK).mean() > 0.9


def test_ids_probabilities_classes_and_palette(file):
    model = load(file, mode="whole", device=torch.device("cpu"))
    assert (model.classes, model.palette) == (CLASSES, PALETTE)
    image = picture_of(MASK)
    assert (model(image) == MASK).all()
    # The softmax of ColorModel's logits by its formula, in float64.
    color, pixels = np.array(COLORS) / 255, image / 255
    logits = -10 * ((pixels[..., None, :] - color) ** 2).sum(-1)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    shares = model.probabilities(image)
    assert shares.shape == (4, 40, 60)
    assert np.abs(shares.transpose(1, 2, 0) - expected).max() < 1e-3
    assert (shares.argmax(0) == MASK).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image / 255,
        lambda image: (image / 255).astype(np.float32),
        lambda image: image.astype(np.int64),
        lambda image: image[..., 0],
        lambda image: image[..., :2],
        lambda image: np.concatenate([image, image[..., :1]], 2),
        lambda image: image.transpose(2, 0, 1),
        lambda image: image[None],
        lambda image: image[:0],
        lambda _: "photo.jpg",
    ],
)
def test_another_array_is_told_what_is_expected(file, change):
    model = load(file, mode="whole", device="cpu")
    wrong = np.asarray(change(picture_of(MASK)))
    for call in (model, model.probabilities):
        with pytest.raises(
            DataError, match=r"expected uint8 of shape \(height, width, 3\)"
        ) as told:
            call(wrong)
        assert f"found {wrong.dtype} of shape {wrong.shape}" in str(told.value)


def test_a_pixel_without_a_value_is_void(tmp_path, monkeypatch):
    monkeypatch.setattr("models.model_from_checkpoint", lambda _content: ColorModel())
    file = tmp_path / "a.pth"
    checkpoint.save([file], checkpoint_of(ColorModel(), input_dtype="float32"))
    model = load(str(file), mode="whole", device="cpu")
    image = (picture_of(MASK) / 255).astype(np.float32)
    image[3, 5, 1] = np.nan
    mask = model(image)
    assert mask[3, 5] == 255
    assert (mask == MASK).sum() == MASK.size - 1
    assert np.isnan(model.probabilities(image)[:, 3, 5]).all()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"mode": "hole"}, "--mode: found hole, expected one of multiscale, sliding, whole"),
        ({"mode": "whole", "scales": (0.5,)}, "--scales has no effect in mode whole"),
        ({"scales": (9,)}, "--scales"),
        ({"overlap": 1.0}, "--overlap"),
        ({"batch_size": 0}, "--batch-size"),
        ({"device": "7"}, "device: found 7, expected cpu, cuda, mps"),
        ({"device": "gpu"}, "device: found gpu"),
        ({"device": torch.device("cuda:7")}, "device: found 7, expected cpu, cuda, mps"),
    ],
)
def test_a_wrong_setting_is_told(file, settings, told):
    with pytest.raises(ConfigError) as error:
        load(file, **settings)
    assert told in str(error.value)


def test_a_run_folder_stands_for_its_best_model(file, tmp_path):
    assert load(tmp_path, mode="whole")(picture_of(MASK))[0, 59] == 1
    file.rename(tmp_path / "checkpoint-epoch3.pth")
    assert load(tmp_path, mode="whole").classes == CLASSES
    runs = tmp_path / "saved" / "name"
    runs.mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"a folder without best_model.pth and last.pth"):
        load(runs.parent)
    (runs / "2026-01-31_12-00-00").mkdir()
    file = save_checkpoint(runs / "2026-01-31_12-00-00" / "last.pth", ColorModel())
    with pytest.raises(CheckpointError, match=f"a run folder in it: {file.parent}"):
        load(runs.parent)

"""Submission encodings and averaged weights."""

import numpy as np
import pytest
import torch
from color_model import save_checkpoint
from PIL import Image

from models import MODELS, model_from_checkpoint
from tools import average, submission
from utils.drawing.palette import to_palette_image, voc_palette
from utils.errors import guard
from utils.run.checkpoint import load

# From the official table (cityscapesScripts, helpers/labels.py): train id -> id.
CITYSCAPES = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def save_mask(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    to_palette_image(mask, voc_palette(150)).save(path)


def read(path):
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def submit(*arguments):
    return guard(submission.main, [str(argument) for argument in arguments])


def test_cityscapes_masks_hold_label_ids(tmp_path, capsys):
    mask = np.arange(19, dtype=np.uint8).repeat(4).reshape(4, 19)
    save_mask(tmp_path / "masks/berlin/berlin_000000_000019_leftImg8bit.png", mask)
    options = ("--masks", tmp_path / "masks", "-o", tmp_path / "out")
    assert submit("--dataset", "CityScapes", *options) == 0
    found = read(tmp_path / "out/berlin_000000_000019_leftImg8bit.png")
    assert np.array_equal(found, np.array(CITYSCAPES)[mask])
    assert "1 masks for CityScapes" in capsys.readouterr().out


def test_ade20k_masks_start_at_one(tmp_path):
    mask = np.arange(150, dtype=np.uint8).reshape(10, 15)
    save_mask(tmp_path / "masks/ADE_test_00000001.png", mask)
    options = ("--masks", tmp_path / "masks", "-o", tmp_path / "out")
    assert submit("--dataset", "ADE20K", *options) == 0
    assert np.array_equal(read(tmp_path / "out/ADE_test_00000001.png"), mask + 1)


def test_submission_mistakes(tmp_path, capsys):
    masks = tmp_path / "masks"
    options = ("--dataset", "CityScapes", "--masks", masks)
    assert submit(*options, "-o", tmp_path / "out") == 3
    assert "no PNG files there\n  fix: run inference.py first" in capsys.readouterr().err
    save_mask(masks / "a.png", np.full((4, 4), 19, np.uint8))
    assert submit(*options, "-o", tmp_path / "out") == 3
    assert "class ids [19], expected 0..18" in capsys.readouterr().err
    assert submit(*options, "-o", masks) == 2
    assert "holds the masks themselves" in capsys.readouterr().err
    Image.new("RGB", (4, 4)).save(masks / "a.png")
    assert submit(*options, "-o", tmp_path / "out") == 3
    assert "found mode RGB, expected a palette PNG of inference.py" in capsys.readouterr().err
    (masks / "a.png").write_bytes(b"nothing")
    assert submit(*options, "-o", tmp_path / "out") == 3
    assert "a.png: cannot be decoded" in capsys.readouterr().err
    save_mask(masks / "deeper/a.png", np.zeros((4, 4), np.uint8))
    assert submit(*options, "-o", tmp_path / "out") == 3
    assert "two masks of one name" in capsys.readouterr().err


def averaged(*arguments):
    return guard(average.main, [str(argument) for argument in arguments])


@pytest.fixture(name="files")
def _files(tmp_path):
    paths = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = MODELS["ENet"](num_classes=4)
        for buffer in model.buffers():
            if not buffer.is_floating_point():
                buffer.add_(10 * seed)
        paths.append(save_checkpoint(tmp_path / f"{seed}.pth", model))
    return paths


def test_weights_are_averaged(files, tmp_path, capsys):
    assert averaged(*files, "-o", tmp_path / "average.pth") == 0
    assert "average.pth: the average of 3 checkpoints" in capsys.readouterr().out
    result = load(tmp_path / "average.pth")
    states = [load(path)["state_dict"] for path in files]
    for name, value in result["state_dict"].items():
        if value.is_floating_point():
            expected = torch.stack([state[name] for state in states]).mean(0)
            torch.testing.assert_close(value, expected)
        else:
            assert value == 20
    assert "optimizer" not in result
    assert model_from_checkpoint(result)(torch.rand(1, 3, 40, 40)).shape == (1, 4, 40, 40)


def test_an_average_goes_into_a_new_folder_and_knows_its_plugins(tmp_path):
    path = save_checkpoint(tmp_path / "a.pth", MODELS["ENet"](num_classes=4), plugins=["mine.py"])
    assert averaged(path, "-o", tmp_path / "new" / "average.pth") == 0
    assert load(tmp_path / "new" / "average.pth")["plugins"] == ["mine.py"]


def test_averaged_weights_of_a_file_are_what_counts(files, tmp_path):
    content = load(files[0])
    doubled = {name: 2 * value for name, value in content["state_dict"].items()}
    path = save_checkpoint(
        tmp_path / "ema.pth", model_from_checkpoint(content), ema={"state_dict": doubled}
    )
    assert averaged(path, "-o", tmp_path / "average.pth") == 0
    result = load(tmp_path / "average.pth")
    assert "ema" not in result
    assert all(torch.equal(result["state_dict"][name], value) for name, value in doubled.items())


def test_different_networks_are_not_averaged(files, tmp_path, capsys):
    other = save_checkpoint(tmp_path / "o.pth", MODELS["ENet"](num_classes=4), classes=list("abcd"))
    assert averaged(files[0], other, "-o", tmp_path / "average.pth") == 4
    assert "o.pth: classes is ['a', 'b', 'c', 'd'], in" in capsys.readouterr().err
    other = save_checkpoint(tmp_path / "o.pth", MODELS["ENet"](num_classes=5))
    assert averaged(files[0], other, "-o", tmp_path / "average.pth") == 4
    assert "in the first file" in capsys.readouterr().err
    assert not (tmp_path / "average.pth").exists()

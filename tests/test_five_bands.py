"""Five bands of 16 bits through the commands: statistics, train, evaluate, inference."""

import json

import numpy as np
import pytest
from PIL import Image
from test_folder import write

import evaluate
import inference
import train
from tools import mean_std

SIDE, BANDS = 32, 5


def make(root, suffix):
    """The class is in the fourth band alone, which no conversion to RGB would keep."""
    rng = np.random.default_rng(0)
    for number in range(8):
        labels = np.kron(rng.integers(0, 2, (4, 4)), np.ones((8, 8), int)).astype(np.uint8)
        pixels = rng.integers(0, 60000, (SIDE, SIDE, BANDS)).astype(np.uint16)
        pixels[..., 3] = 260 + 200 * labels.astype(np.uint16)  # one value in 8 bits
        write(root / "images" / f"{number}{suffix}", pixels)
        write(root / "masks" / f"{number}.png", labels)


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_five_bands_from_files_to_masks(tmp_path, suffix, capsys):
    make(tmp_path, suffix)
    text = {
        "name": "bands",
        "arch": {"type": "UNet", "args": {"base_channels": 4}},
        "train_loader": {
            "type": "Folder",
            "args": {
                "data_dir": str(tmp_path),
                "classes": ["low", "high"],
                "val_split": 0.25,
                "batch_size": 2,
                "num_workers": 0,
                "augment": True,
                "flip": True,
                "crop_size": 32,
            },
        },
        "optimizer": {"type": "AdamW", "args": {"lr": 0.01}},
        "trainer": {"epochs": 8, "save_dir": str(tmp_path / "saved"), "tensorboard": False},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(text))
    assert mean_std.main(["--config", str(path)]) == 0
    text["train_loader"]["args"] |= json.loads("{" + capsys.readouterr().out.splitlines()[1] + "}")
    path.write_text(json.dumps(text))

    assert train.main(["--config", str(path), "--device", "cpu"]) == 0
    (run,) = (tmp_path / "saved" / "bands").iterdir()
    model = str(run / "best_model.pth")
    scored = ["--model", model, "--device", "cpu", "--output", str(tmp_path / "e")]
    assert evaluate.main(scored) == 0
    (scores,) = (tmp_path / "e").glob("*.json")
    assert json.loads(scores.read_text())["Mean_IoU"] > 0.9

    out = tmp_path / "out"
    command = ["--model", model, "--images", str(tmp_path / "images"), "--output", str(out)]
    assert inference.main([*command, "-e", suffix[1:], "-mo", "whole", "-d", "cpu"]) == 0
    agreement = [
        (np.asarray(Image.open(out / f"{number}.png")) == np.asarray(Image.open(mask))).mean()
        for number, mask in enumerate(sorted((tmp_path / "masks").iterdir()))
    ]
    assert min(agreement) > 0.9

"""The usual causes end to end: the line that the doctor prints is set, and training runs."""

import json
import re

import numpy as np
import pytest
from test_doctor import COLORS, make

import train
from utils.errors import DataError, guard


def config(root, classes, path):
    data = {"data_dir": str(root), "classes": classes, "batch_size": 3, "num_workers": 0}
    text = {
        "name": "mended",
        "arch": {"type": "UNet", "args": {"base_channels": 4}},
        "train_loader": {"type": "Folder", "args": data | {"augment": True, "crop_size": 32}},
        "val_loader": {"type": "Folder", "args": data | {"val": True}},
        "optimizer": {"type": "SGD", "args": {"lr": 0.01}},
        "trainer": {"epochs": 1, "save_dir": str(path / "saved"), "tensorboard": False},
    }
    (path / "config.json").write_text(json.dumps(text))
    return ["--config", str(path / "config.json"), "--device", "cpu"]


def as_settings(report):
    """What `--set` takes, of the one fix that a report has for each loader."""
    where, line = re.search(
        r"\n  fix: in (.*?)(?: \(\"type\": \"Folder\"\))?: (.*)", report
    ).groups()
    places = [""]
    if where == "the args of each loader":
        places = ["train_loader.args.", "val_loader.args."]
    lines = json.loads("{" + line + "}")
    return [f"{place}{key}={json.dumps(value)}" for place in places for key, value in lines.items()]


CAUSES = {
    "binary masks of 0 and 255": (2, lambda labels: labels * 255, {}),
    "color masks": (3, lambda labels: COLORS[labels], {}),
    "labels start at 1": (3, lambda labels: labels + 1, {}),
    "JPEG-compressed masks": (2, lambda labels: labels * 255, {"suffix": ".jpg", "quality": 70}),
    "void is 254 in the masks": (4, lambda labels: labels + 251 * (labels == 3), {}),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_printed_line_makes_training_run(tmp_path, cause, capsys):
    count, paint, options = CAUSES[cause]
    make(tmp_path, lambda labels: paint(labels).astype(np.uint8), classes=count, **options)
    # The train ids of void are no class.
    command = config(tmp_path, list("abc"[: min(count, 3)]), tmp_path)
    assert guard(train.main, command) == DataError.exit_code
    assert f"cause: {cause}" in capsys.readouterr().err
    assert not (tmp_path / "saved").exists()
    assert train.main([*command, "--check-data"]) == DataError.exit_code
    settings = as_settings(capsys.readouterr().out)
    assert train.main([*command, "--set", *settings]) == 0
    (run,) = (tmp_path / "saved" / "mended").iterdir()
    assert (run / "best_model.pth").exists()

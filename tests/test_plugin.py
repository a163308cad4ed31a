"""`--plugin`: CONTRIBUTING's three examples, as they stand there, from training to export."""

import json
import re
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import evaluate
import export
import inference
import train
from models import MODELS
from tables import TABLES, add_plugins
from utils.config.registry import signature_faults
from utils.errors import CheckpointError, ConfigError
from utils.losses.table import LOSSES

GUIDE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(autouse=True)
def _forget_plugins(monkeypatch):
    """What a plugin adds to this process goes again."""
    before = {kind: list(table) for kind, table in TABLES.items()}
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for kind, table in TABLES.items():
        for name in [name for name in table if name not in before[kind]]:
            del table[name]
    for name in set(sys.modules) - modules:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.fixture
def plugins(tmp_path):
    """The examples as files, and the flags that name them."""
    files = [tmp_path / name for name in ("my_model.py", "my_data.py", "my_loss.py")]
    for file, code in zip(files, EXAMPLES, strict=True):
        file.write_text(code)
    return [word for file in files for word in ("--plugin", str(file))]


@pytest.fixture
def config(tmp_path):
    """A config of nothing but plugins, and its data."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(4):
        mask = rng.integers(0, 3, (40, 40), np.uint8)
        image = np.repeat(mask[..., None] * 80, 3, axis=2)
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), image)
        cv2.imwrite(str(tmp_path / "masks" / f"{number}.png"), mask)
    args = {"data_dir": str(tmp_path), "batch_size": 2}
    content = {
        "name": "Fields",
        "arch": {"type": "Tiny", "args": {"kernel": 5}},
        "loss": "Brier",
        "optimizer": {"type": "Adam", "args": {"lr": 0.05}},
        "train_loader": {"type": "Fields", "args": args},
        "val_loader": {"type": "Fields", "args": args | {"val": True}},
        "trainer": {"epochs": 8, "tensorboard": False, "save_dir": str(tmp_path / "saved")},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    return path


def test_the_guides_examples_train_evaluate_predict_and_export(plugins, config, tmp_path, capsys):
    assert train.main(["-c", str(config), "-d", "cpu", *plugins]) == 0
    model = next(tmp_path.glob("saved/*/*/best_model.pth"))
    rows = (model.parent / "metrics.jsonl").read_text().splitlines()
    scores = [json.loads(row) for row in rows]
    assert scores[-1]["Mean_IoU"] > 0.9  # gray values tell the classes apart
    shared = ["-m", str(model), *plugins]
    output = ["-o", str(tmp_path / "out")]
    printed = dict(
        re.findall(r"^next: \S+ \S*?(\w+)\.py (.*)", capsys.readouterr().out, re.MULTILINE)
    )
    for command in (evaluate, inference):
        words = shlex.split(printed[command.__name__])
        assert command.main([*words, *output, "-d", "cpu"]) == 0
    assert export.main([*shared, "-o", str(tmp_path / "model.pt2")]) == 0
    assert train.main(["-r", str(model.parent), "--set", "trainer.epochs=9", *plugins]) == 0


def test_a_checkpoint_names_the_plugin_that_is_missing(plugins, config, tmp_path):
    train.main(["-c", str(config), "-d", "cpu", "--set", "trainer.epochs=1", *plugins])
    model = next(tmp_path.glob("saved/*/*/best_model.pth"))
    assert torch.load(model, weights_only=True)["plugins"] == plugins[1::2]
    del MODELS["Tiny"]
    with pytest.raises(
        CheckpointError, match=r"'Tiny'.*\n  it was trained with --plugin .*my_model"
    ):
        export.main(["-m", str(model), "-o", str(tmp_path / "model.onnx")])
    with pytest.raises(ConfigError, match=r"started with --plugin .*my_model\.py\n  fix: give it"):
        train.main(["-r", str(model.parent)])


def test_the_guides_loss_is_the_brier_score(plugins):
    add_plugins(plugins[1::2])
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 3, (2, 4, 5))
    target[0, 0, :3] = 255
    loss = LOSSES["Brier"](ignore_index=255)(logits, target)
    expected, count = 0.0, 0
    for n, y, x in np.ndindex(2, 4, 5):
        if (label := int(target[n, y, x])) == 255:
            continue
        probabilities = np.exp(logits[n, :, y, x].detach().numpy())
        probabilities /= probabilities.sum()
        expected += sum((p - (c == label)) ** 2 for c, p in enumerate(probabilities))
        count += 1
    assert loss.item() == pytest.approx(expected / count, rel=1e-12)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_of_that_name", r"my_x\.py, line 1: cannot be imported: ModuleNotFound"),
        (
            "from segmentation.models import MODELS",
            r"No module named 'segmentation'\n  fix: here it is: from models import MODELS$",
        ),
        ("x = 1\nx.y", r"my_x\.py, line 2: cannot be imported: AttributeError"),
        (
            "from utils.losses import LOSSES\nLOSSES['My'] = lambda **options: None",
            r"My: \*options takes anything",
        ),
        (
            "from models import MODELS\ndef My(num_classes: int, depth): pass\nMODELS['My'] = My",
            r"(?s)argument 'depth' needs an annotation.*no argument 'in_channels'",
        ),
    ],
)
def test_a_plugin_that_cannot_be_used_is_explained(code, message, tmp_path):
    file = tmp_path / "my_x.py"
    file.write_text(code)
    with pytest.raises(ConfigError, match=message):
        add_plugins([str(file)])


def test_a_plugin_must_be_a_file_of_its_own_name(tmp_path):
    with pytest.raises(ConfigError, match="found no such file"):
        add_plugins([str(tmp_path / "absent.py")])
    (tmp_path / "trainer.py").write_text("")
    with pytest.raises(ConfigError, match="'trainer' is there already; give the file another name"):
        add_plugins([str(tmp_path / "trainer.py")])


def test_our_own_entries_pass_the_check():
    for table in TABLES.values():
        for name, entry in table.items():
            assert signature_faults(name, entry) == []

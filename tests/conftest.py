"""One thread a process, so that results do not depend on the machine's load; a tiny run."""

import json

import pytest
import torch

torch.set_num_threads(1)
pytest.register_assert_rewrite("parallel_cases")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
    """What a run remembers of its data goes to the user's cache; here to a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def tiny_config(folder, **trainer) -> dict:
    """ENet (it has dropout) on 12 + 4 images of 64 x 64: three iterations an epoch."""
    data = {"height": 64, "width": 64, "batch_size": 4, "num_workers": 0}
    return {
        "name": "tiny",
        "arch": {"type": "ENet"},
        "train_loader": {
            "type": "Shapes",
            "args": {
                **data,
                "length": 12,
                "shuffle": True,
                "augment": True,
                "flip": True,
                "rotate": True,
                "blur": True,
                "base_size": 64,
                "crop_size": 64,
            },
        },
        "val_loader": {
            "type": "Shapes",
            "args": {**data, "length": 4, "split": "val", "val": True},
        },
        "optimizer": {"type": "SGD", "args": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}},
        "trainer": {
            "epochs": 2,
            "save_dir": str(folder / "saved"),
            "log_dir": str(folder / "saved" / "runs"),
            "save_period": 1,
            "val_per_epochs": 1,
            "log_per_iter": 2,
            "tensorboard": False,
            **trainer,
        },
    }


@pytest.fixture
def write_config(tmp_path):
    """Write a tiny config, changed by what is given, and return its path."""

    def write(change=None, **trainer):
        config = tiny_config(tmp_path, **trainer)
        if change is not None:
            change(config)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config))
        return path

    return write


@pytest.fixture
def run_folder(tmp_path):
    """The only run folder under this test's save_dir."""

    def find():
        (folder,) = (tmp_path / "saved" / "tiny").iterdir()
        return folder

    return find

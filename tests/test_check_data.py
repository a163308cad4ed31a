"""What --check-data calls sound, a training accepts: both refuse the same, and leave nothing."""

import pytest

import train
from utils.errors import guard


def small(config):
    config["arch"] = {"type": "UNet", "args": {"base_channels": 4}}


def part_of_no_name(config):
    config["loss"] = {"type": "Sum", "args": {"parts": [{"type": "DiceLos"}]}}


REFUSED = {
    "a loss that does not exist": (2, lambda c: c.update(loss="DiceLos")),
    "a part of a loss that does not exist": (2, part_of_no_name),
    "an argument that does not exist": (2, lambda c: c["arch"]["args"].update(depht=3)),
    "a weight too few": (2, lambda c: c.update(class_weights=[1.0, 2.0])),
    "channels that the images do not have": (2, lambda c: c["arch"]["args"].update(in_channels=5)),
    "images of several sizes": (3, lambda c: c["train_loader"]["args"].pop("crop_size")),
    "weights that are not there": (4, lambda c: c.update(init_from="nowhere.pth")),
    "a folder that is a file": (2, lambda c: c["trainer"].update(save_dir=__file__)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_check_refuses_what_a_training_refuses(tmp_path, write_config, capsys, what):
    code, change = REFUSED[what]

    def changed(config):
        small(config)
        change(config)

    command = ["--config", str(write_config(changed)), "--device", "cpu"]
    assert guard(train.main, [*command, "--check-data"]) == code
    shown = "".join(capsys.readouterr())
    assert guard(train.main, command) == code
    # Of data the check reports more than a training; the reason is the same line.
    word = "problem: " if code == 3 else "error: "
    (reason,) = [line for line in capsys.readouterr().err.splitlines() if word in line]
    assert reason in shown
    assert not (tmp_path / "saved").exists()


def test_the_check_of_a_sound_config_writes_nothing(tmp_path, write_config, capsys):
    command = ["--config", str(write_config(small)), "--device", "cpu", "--check-data"]
    assert guard(train.main, command) == 0
    assert capsys.readouterr().out.count("generated images") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("args", "usable"),
    [
        ({}, True),  # augmented: turned and flipped, of the size that all have
        ({"base_size": 80}, False),  # and rescaled by chance
        ({"base_size": 80, "scale": False}, True),
        ({"base_size": 80, "crop_size": 64}, True),
        ({"base_size": 80, "batch_size": 1}, True),
    ],
)
def test_sizes_are_those_that_the_network_would_see(write_config, args, usable, capsys):
    def changed(config):
        small(config)
        given = config["train_loader"]["args"]
        del given["crop_size"], given["base_size"]
        given |= args

    command = ["--config", str(write_config(changed)), "--device", "cpu", "--check-data"]
    assert (guard(train.main, command) == 0) == usable
    assert ("images of one batch differ in size" in capsys.readouterr().out) != usable

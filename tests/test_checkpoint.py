"""A checkpoint is old or new, never torn; whatever is wrong with one is said, and nothing runs."""

import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from utils.errors import CheckpointError, ResourceError
from utils.run import checkpoint

CONTENT = {
    "arch": "ENet",
    "config": {"arch": {"type": "ENet"}, "train_loader": {"args": {}}, "trainer": {}, "lr": 0.1},
    "state_dict": {"weight": torch.arange(1000.0), "count": torch.tensor(3)},
    "classes": ["a", "b"],
    "palette": [[0, 0, 0], [255, 0, 0]],
    "mean": [0.5],
    "std": [0.2],
    "ignore_index": 255,
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "last.pth"
    checkpoint.save([path], CONTENT)
    return path


def test_what_is_saved_is_loaded(saved):
    content = checkpoint.load(saved)
    assert torch.equal(content["state_dict"]["weight"], CONTENT["state_dict"]["weight"])
    assert content["config"] == CONTENT["config"]
    assert content["format_version"] == checkpoint.FORMAT_VERSION


def test_numpy_scalars_and_tuples_become_plain(tmp_path):
    path = tmp_path / "plain.pth"
    checkpoint.save([path], {**CONTENT, "best": np.float64(0.5), "mean": (np.float32(0.25),)})
    content = checkpoint.load(path)
    assert type(content["best"]) is float
    assert content["mean"] == [0.25]


@pytest.mark.parametrize("foreign", [object(), {1.5: 2}, {"a": {3}}], ids=["object", "key", "set"])
def test_what_could_not_be_loaded_safely_is_not_saved(tmp_path, foreign):
    with pytest.raises(TypeError, match="a checkpoint cannot hold"):
        checkpoint.save([tmp_path / "x.pth"], {**CONTENT, "foreign": foreign})
    assert list(tmp_path.iterdir()) == []


def test_every_truncation_is_refused(saved, tmp_path):
    data = saved.read_bytes()
    cut = tmp_path / "cut.pth"
    for length in range(0, len(data), max(1, len(data) // 40)):
        cut.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="not a checkpoint, or cut short"):
            checkpoint.load(cut)


def test_a_flipped_byte_is_refused_or_harmless(saved, tmp_path):
    data = saved.read_bytes()
    flipped, refused = tmp_path / "flipped.pth", 0
    for position in range(0, len(data), 37):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        flipped.write_bytes(damaged)
        try:
            content = checkpoint.load(flipped)
        except CheckpointError:
            refused += 1
        else:
            assert torch.equal(content["state_dict"]["weight"], CONTENT["state_dict"]["weight"]), (
                position
            )
    assert refused > 50


def test_a_flip_in_the_weights_names_the_record(saved):
    data = bytearray(saved.read_bytes())
    position = data.find(torch.arange(1000.0).numpy().tobytes()[:64])
    assert position > 0
    data[position + 8] ^= 1
    saved.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"the checksum of .*data/\d+ does not match"):
        checkpoint.load(saved)


def test_a_damaged_structure_under_right_checksums_is_refused_or_harmless(saved, tmp_path):
    """Whoever packs a file anew, as some tools that copy do, gives it checksums that fit."""
    with zipfile.ZipFile(saved) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in records if name.endswith("data.pkl")]
    whole, path, refused = records[name], tmp_path / "packed.pth", 0
    damaged = [whole[:end] for end in range(0, len(whole), 5)]
    damaged += [whole[:at] + bytes([at % 256]) + whole[at + 1 :] for at in range(0, len(whole), 2)]
    damaged += [whole[:at] + whole[at + 3 :] for at in range(0, len(whole), 3)]
    for data in damaged:
        with zipfile.ZipFile(path, "w") as archive:
            for record, content in {**records, name: data}.items():
                archive.writestr(record, content)
        try:
            checkpoint.load(path)
        except CheckpointError:
            refused += 1
    assert refused > len(damaged) / 2


class _Payload:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "pickle"])
def test_a_malicious_file_is_refused_and_never_executed(tmp_path, legacy):
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    if legacy:
        path.write_bytes(pickle.dumps(_Payload(canary)))
    else:
        torch.save({**CONTENT, "payload": _Payload(canary)}, path)
    with pytest.raises(
        CheckpointError, match=r"it holds \w+\.mkdir|not a checkpoint, or"
    ) as caught:
        checkpoint.load(path)
    assert not canary.exists()
    assert "weights_only" not in str(caught.value)  # no advice to load it unsafely


def test_a_compressed_archive_is_refused(saved, tmp_path):
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(bomb, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(bomb)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "it holds a list"),
        ({"state_dict": {}, "epoch": 3}, r"not a checkpoint of this program .*epoch, state_dict"),
        ({"format_version": 99}, "written by format version 99, this program reads up to 1"),
        ({"format_version": 1, "arch": "ENet"}, "incomplete: config, state_dict, classes"),
        (
            {**CONTENT, "format_version": 1, "kind": "training"},
            r"incomplete: .*optimizer.* missing",
        ),
    ],
    ids=["list", "foreign", "newer", "incomplete", "no state to resume"],
)
def test_foreign_content_is_explained(tmp_path, content, message):
    path = tmp_path / "foreign.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path)


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="not a file"):
        checkpoint.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"nothing\.pth: cannot be read \(No such file"):
        checkpoint.load(tmp_path / "nothing.pth")


STEPS = ("write", "fsync", "replace")


@pytest.mark.parametrize("step", STEPS)
def test_a_failing_disk_leaves_the_old_file(saved, monkeypatch, step):
    before = saved.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if step == "write":
        monkeypatch.setattr("pathlib.Path.open", fail)
    elif step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(
        ResourceError, match=r"No space left on device\n  needed: [\d,]+ bytes, free"
    ):
        checkpoint.save([saved], {**CONTENT, "epoch": 2})
    monkeypatch.undo()
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["last.pth"]


def test_content_is_on_disk_before_its_name_is(saved, monkeypatch):
    """The order that survives a power loss: fsync of the file, rename, fsync of the folder."""
    calls = []
    real_sync, real_replace = os.fsync, type(saved).replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), real_sync(handle)))
    monkeypatch.setattr(
        type(saved), "replace", lambda self, to: (calls.append("rename"), real_replace(self, to))
    )
    checkpoint.save([saved], CONTENT)
    assert calls == ["fsync", "rename", "fsync"]


def test_a_kill_at_every_call_leaves_the_old_file_or_the_new(tmp_path):
    """SIGKILL before and after each call of the protocol, and in the middle of writing."""
    command = [sys.executable, "-m", "tests.kill_points", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    trials = [line.split() for line in done.stdout.splitlines()]
    assert len(trials) == 16
    epochs = [int(epoch) for state, epoch, _ in trials if state == "killed"]
    assert len(epochs) >= 10
    assert set(epochs) == {1, 2}
    assert all(epoch == "2" for state, epoch, _ in trials if state == "survived")

"""Weight files of any program: read without running code, and not believed."""

import argparse
import os

import pytest
import torch
from safetensors.torch import save_file

from utils.errors import CheckpointError
from utils.files.tensor_files import read, weights_in

WEIGHTS = {"conv.weight": torch.arange(8.0).reshape(2, 4), "norm.count": torch.tensor(3)}


def load(path):
    return weights_in(read(path), path)


def save(content, path):
    torch.save(content, path)


def save_as_before(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


WRITERS = {"zip": save, "before torch 1.6": save_as_before, "safetensors": save_file}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_saved_is_read(writer, tmp_path):
    WRITERS[writer](WEIGHTS, tmp_path / "w")
    found = load(tmp_path / "w")
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], value) for name, value in WEIGHTS.items())


@pytest.mark.parametrize("writer", WRITERS)
def test_every_truncation_is_refused(writer, tmp_path):
    WRITERS[writer](WEIGHTS, tmp_path / "w")
    data = (tmp_path / "w").read_bytes()
    for length in range(0, len(data), max(1, len(data) // 40)):
        (tmp_path / "w").write_bytes(data[:length])
        with pytest.raises(CheckpointError):  # of the old form also for a name that was cut
            load(tmp_path / "w")


def test_a_flipped_bit_of_a_number_is_noticed(tmp_path):
    """It made 3.2e37 of a weight of an encoder."""
    save(WEIGHTS, tmp_path / "w")
    data = bytearray((tmp_path / "w").read_bytes())
    data[data.find(WEIGHTS["conv.weight"].numpy().tobytes()) + 7] ^= 0x40
    (tmp_path / "w").write_bytes(data)
    assert torch.load(tmp_path / "w")["conv.weight"].max() > 1e9
    with pytest.raises(CheckpointError, match=r"the checksum of .*data/\d+ does not match"):
        load(tmp_path / "w")


class Payload:
    def __reduce__(self):
        return os.mkdir, ("canary",)


@pytest.mark.parametrize("writer", ["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    ("extra", "name"),
    [(Payload(), r"\w+\.mkdir"), (argparse.Namespace(lr=1), r"argparse\.Namespace")],
)
def test_nothing_but_tensors_and_plain_values_is_unpickled(
    writer, extra, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    WRITERS[writer]({"state_dict": WEIGHTS, "args": extra}, tmp_path / "w")
    with pytest.raises(CheckpointError, match=rf"refused: it holds {name}, more than") as caught:
        load(tmp_path / "w")
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "canary").exists()


NO_WEIGHTS = {
    "not a number": (torch.tensor([1, float("nan"), 2]), "1 of 3 not finite"),
    "infinite": (torch.full((2, 2), float("-inf")), "4 of 4 not finite"),
    "infinite as float32": (torch.tensor(1e300, dtype=torch.float64), "1 of 1 not finite"),
    "complex": (
        torch.ones(2, dtype=torch.complex64),
        "torch.complex64 on cpu, expected plain real",
    ),
    "sparse": (torch.eye(3).to_sparse(), "expected plain real numbers"),
    "eight bits": (torch.ones(2).to(torch.float8_e5m2), "torch.float8_e5m2 on cpu, expected"),
    "without storage": (torch.empty(3, device="meta"), "torch.float32 on meta, expected plain"),
    "larger than the file": (torch.ones(1).expand(10**6, 10**6), "more than the file holds"),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_no_network_can_use_is_refused(kind, tmp_path):
    value, message = NO_WEIGHTS[kind]
    save(WEIGHTS | {"bad": value}, tmp_path / "w")
    with pytest.raises(CheckpointError, match=rf"w: bad: .*{message}"):
        load(tmp_path / "w")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1], torch.ones(2), {}])
def test_a_file_without_weights_says_what_it_holds(content, tmp_path):
    save(content, tmp_path / "w")
    with pytest.raises(CheckpointError, match="holds no weights; found: "):
        load(tmp_path / "w")

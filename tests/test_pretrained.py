"""Pretrained weights over a network: asked for before the data, fetched once, verified."""

import hashlib
import logging
import os
import subprocess
import sys
import threading
import time

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
import timm
import torch
from local_hub import LocalHub
from safetensors.torch import save

import train
from models.backbones import build_backbone
from models.pretrained import from_hub, weights_of
from utils.errors import CheckpointError, ConfigError, guard

REPOSITORY = "timm/test_resnet.r160_in1k"
PATH = f"/{REPOSITORY}/resolve/main/model.safetensors"


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(7)
    return timm.create_model("test_resnet", pretrained=False).state_dict()


@pytest.fixture(scope="module")
def content(state):
    return save({name: value.contiguous() for name, value in state.items()})


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Let the hub's client, which reads HF_ENDPOINT when it is imported, use another hub."""

    def use(url):
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for module in (huggingface_hub.constants, huggingface_hub.file_download):
            monkeypatch.setattr(module, "ENDPOINT", url, raising=False)
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    return use


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts]


def damaged(content):
    return content[:-5] + bytes([content[-5] ^ 0x40]) + content[-4:]


def test_weights_are_downloaded_once_and_it_shows(
    state, content, use, tmp_path, monkeypatch, caplog, capsys
):
    monkeypatch.setenv("TQDM_POSITION", "-1")  # a bar where there is no terminal
    caplog.set_level(logging.INFO, logger="segmentation")
    with LocalHub(PATH, content) as server:
        use(server.url)
        backbone = build_backbone("test_resnet", pretrained=True)
        assert server.requests.count("GET") == 1
        del server.requests[:]
        build_backbone("test_resnet", pretrained=True)
        assert server.requests == []
    loaded = backbone.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())
    said = f"downloading {server.url}{PATH} (1.9 MB) to {tmp_path / 'cache'}"
    assert caplog.messages == [said]
    assert "model.safetensors: 100%" in capsys.readouterr().err


def test_a_download_that_breaks_off_leaves_nothing(content, use, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the client's attempts
    with LocalHub(PATH, content, cut=len(content) // 2) as server:
        use(server.url)
        with pytest.raises(
            ConfigError, match=r"cannot download the weights of test_resnet"
        ) as error:
            build_backbone("test_resnet", pretrained=True)
    assert f"  from: {server.url}{PATH}\n" in str(error.value)
    assert max(path.stat().st_size for path in files(tmp_path)) < 1000
    with LocalHub(PATH, content) as server:
        use(server.url)
        build_backbone("test_resnet", pretrained=True)


def test_a_wrong_checksum_is_refused_and_mended_by_the_next_start(content, use):
    with LocalHub(PATH, content, sent=damaged(content)) as server:
        use(server.url)
        with pytest.raises(CheckpointError, match=r"its SHA-256 is [0-9a-f]{16}\.\.\., the hub's"):
            build_backbone("test_resnet", pretrained=True)
    with LocalHub(PATH, content) as server:
        use(server.url)
        build_backbone("test_resnet", pretrained=True)


def test_bits_that_rot_in_the_cache_are_noticed(content, use, tmp_path):
    with LocalHub(PATH, content) as server:
        use(server.url)
        build_backbone("test_resnet", pretrained=True)
    blob = next(path for path in files(tmp_path) if path.stat().st_size == len(content))
    blob.write_bytes(damaged(content))
    with pytest.raises(CheckpointError, match="damaged on the way or on this disk"):
        build_backbone("test_resnet", pretrained=True)


def test_a_second_process_waits_for_the_first(content, use, tmp_path):
    call = f"hf_hub_download({REPOSITORY!r}, 'model.safetensors')"
    with LocalHub(PATH, content) as server:
        server.gate.clear()
        own = {"HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(tmp_path / "cache")}
        environment = {**os.environ, **own}
        command = [sys.executable, "-c", f"from huggingface_hub import hf_hub_download; {call}"]
        with subprocess.Popen(command, env=environment) as first:
            wait_for(lambda: "GET" in server.requests)
            use(server.url)
            found = []
            second = threading.Thread(
                target=lambda: found.append(from_hub(REPOSITORY, only_ask=False))
            )
            asked = len(server.requests)
            second.start()
            wait_for(lambda: len(server.requests) == asked + 2)  # has asked, and needs the file
            second.join(0.1)
            assert found == []
            server.gate.set()
            second.join(60)
            assert first.wait(60) == 0
    assert found[0].read_bytes() == content
    assert server.requests.count("GET") == 1


def wait_for(happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def without_data(config):
    """No data: whatever is told before was found without them."""
    for loader in ("train_loader", "val_loader"):
        args = {"data_dir": "nowhere", "split": "train", "batch_size": 2}
        config[loader] = {"type": "VOC", "args": args}
    config["arch"] = {"type": "UNetResnet", "args": {"backbone": "test_resnet"}}


def test_weights_are_asked_for_before_the_data_and_fetched_after(
    content, use, write_config, capsys
):
    path = str(write_config(without_data))
    with LocalHub("/elsewhere", content) as server:
        use(server.url)
        assert guard(train.main, ["--config", path]) == 2
        assert "cannot download the weights of test_resnet" in capsys.readouterr().err
    assert guard(train.main, ["--config", path]) == 2  # nobody answers
    assert "cannot download the weights of test_resnet" in capsys.readouterr().err
    with LocalHub(PATH, content) as server:
        use(server.url)
        assert guard(train.main, ["--config", path]) == 3
        assert "nowhere" in capsys.readouterr().err
        assert server.requests == ["HEAD"]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"init_from": "none.pth"}, 4, "none.pth: cannot be read (No such file"),
        ({"arch.args.pretrained": "none.pth"}, 4, "arch.args.pretrained: no such file: none.pth"),
        ({"arch.args.backbone": "resnt50"}, 2, "unknown encoder 'resnt50'; did you mean"),
    ],
)
def test_what_needs_no_data_is_told_before_them(change, code, message, write_config, capsys):
    words = [f"{key}={value}" for key, value in change.items()]
    assert guard(train.main, ["--config", str(write_config(without_data)), "--set", *words]) == code
    assert message in capsys.readouterr().err


def test_weights_beside_the_hub_are_verified_by_their_name(tmp_path, monkeypatch):
    weights = {"conv.weight": torch.ones(3)}
    torch.save(weights, tmp_path / "source.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "source.pth").read_bytes()
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with LocalHub(f"/{name}", content) as server:
        known = timm.models.PretrainedCfg(url=f"{server.url}/{name}")
        monkeypatch.setattr("timm.models.get_pretrained_cfg", lambda _: known)
        assert weights_of("net", pretrained=True, only_ask=True) is None
        assert server.requests == []
        assert weights_of("net", pretrained=True).keys() == weights.keys()
        assert weights_of("net", pretrained=True).keys() == weights.keys()
        assert server.requests == ["GET"]
    (tmp_path / "hub" / "checkpoints" / name).unlink()
    with LocalHub(f"/{name}", content, sent=damaged(content)) as server:
        known = timm.models.PretrainedCfg(url=f"{server.url}/{name}")
        with pytest.raises(ConfigError, match=r"the weights of net \(invalid hash"):
            weights_of("net", pretrained=True)

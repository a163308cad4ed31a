"""Several processes compute what one does; each way to start them works."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distributed_worker import ten_steps
from evaluation_cases import evaluated
from parallel_cases import (
    assert_equal_to_one,
    assert_gradients_are_shared_and_statistics_are_not,
    in_two_processes,
    ten_step_config,
)
from processes import free_port
from small_models import VARIANTS, UperNetOnSwin, arch_of
from training import plain_config

import train
from models import MODELS
from utils.hardware import distributed
from utils.run import checkpoint

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _one_thread_a_process(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What ten steps give in each of two processes, and their config."""
    folder = tmp_path_factory.mktemp("two")
    config = ten_step_config(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(ROOT)
        return in_two_processes(config, folder, "cpu"), config


def test_two_processes_equal_one(two_processes):
    found, config = two_processes
    assert_equal_to_one(found, ten_steps(config), tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Linear", *VARIANTS])
def test_two_processes_train_every_kind_of_encoder_as_one(tmp_path, monkeypatch, name):
    monkeypatch.setitem(MODELS, "UperNetOnSwin", UperNetOnSwin)
    config = ten_step_config(tmp_path)
    config["arch"] = arch_of(name, freeze_bn=True)
    found = in_two_processes(config, tmp_path, "cpu")
    assert_equal_to_one(found, ten_steps(config), tolerance=1e-4, flips=1e-3)


def test_two_processes_evaluate_as_one(two_processes):
    for two in two_processes[0]:
        assert two["evaluation"] == evaluated()


def test_gradients_are_shared_and_statistics_are_not(two_processes):
    assert_gradients_are_shared_and_statistics_are_not(two_processes[0])


def three_epochs(folder):
    """A run whose rates do not depend on how many epochs are planned."""
    folder.mkdir()
    config = plain_config(folder, epochs=3)
    config["lr_scheduler"] = {"type": "Step", "args": {"milestones": [0.99], "gamma": 0.5}}
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def only_run(folder):
    (run,) = (folder / "saved" / "tiny").iterdir()
    return run


@pytest.mark.slow
def test_torchrun_goes_on_with_a_run_of_one_process_and_back(tmp_path):
    alone, mixed = tmp_path / "alone", tmp_path / "mixed"
    assert train.main(["--config", str(three_epochs(alone)), "--device", "cpu"]) == 0
    first = ["--config", str(three_epochs(mixed)), "--set", "trainer.epochs=1"]
    assert train.main([*first, "--device", "cpu"]) == 0
    run = only_run(mixed)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    second = ["train.py", "--resume", str(run), "--set", "trainer.epochs=2", "--device", "cpu"]
    done = subprocess.run([*torchrun, *second], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "batch_size: 4 in all, 2 a device" in done.stderr
    # The first process alone speaks.
    assert len(re.findall(r"^model +UNet", done.stderr, re.MULTILINE)) == 1
    assert done.stdout.count("run folder:") == 1
    third = ["--resume", str(run), "--set", "trainer.epochs=3", "--device", "cpu"]
    assert train.main(third) == 0
    ours, theirs = (checkpoint.load(only_run(folder) / "last.pth") for folder in (mixed, alone))
    assert ours["epoch"] == theirs["epoch"] == 3
    for name, value in ours["state_dict"].items():
        assert torch.allclose(value, theirs["state_dict"][name], rtol=1e-4, atol=1e-6), name
    assert [path.name for path in sorted(run.glob("checkpoint*"))] == [
        f"checkpoint-epoch{epoch}.pth" for epoch in (1, 2, 3)
    ]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["event"] == "val"] == [1, 2, 3]


def test_the_launcher_hands_on_the_exit_code_of_the_process_that_failed(tmp_path, capfd):
    script = tmp_path / "fails.py"
    script.write_text(
        "import os, sys, time\n"
        "if os.environ['RANK'] == '0':\n    time.sleep(60)\n"
        "sys.stderr.write('why\\n')\nsys.exit(3)\n"
    )
    started, handler = time.monotonic(), signal.getsignal(signal.SIGTERM)
    assert distributed.launch([str(script)], processes=2) == 3
    assert signal.getsignal(signal.SIGTERM) == handler  # torch leaves one that raises
    assert time.monotonic() - started < 50  # the other one is not waited for
    assert capfd.readouterr().err == "why\n"


def test_n_gpu_starts_a_process_a_gpu(tmp_path, monkeypatch, caplog):
    started = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        distributed, "launch", lambda *args, **options: started.append((args, options)) or 7
    )
    config = plain_config(tmp_path)
    config["n_gpu"] = 4
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    arguments = ["--config", str(path)]
    assert train.main(arguments) == 7
    assert started == [(([train.__file__, *arguments],), {"processes": 2})]
    assert "n_gpu: 4 asked for, 2 there: using 2" in caplog.text


@pytest.mark.slow
def test_two_nodes_train_an_epoch(tmp_path):
    config = plain_config(tmp_path, epochs=1)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node"]
    agent += ["1", "--rdzv_backend", "c10d", "--rdzv_id", "test"]
    agent += ["--rdzv_endpoint", f"127.0.0.1:{free_port()}", "train.py", "-c", str(path)]
    agents = [
        subprocess.Popen([*agent, "-d", "cpu"], stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    errors = [process.communicate(timeout=200)[1] for process in agents]
    assert [process.returncode for process in agents] == [0, 0], errors
    assert "batch_size: 4 in all, 2 a device" in "".join(errors)
    content = checkpoint.load(only_run(tmp_path) / "last.pth")
    assert (content["epoch"], content["step"]) == (1, 3)


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_the_run(tmp_path):
    config = plain_config(tmp_path, epochs=500, val=False)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    call = f"distributed.launch(['train.py', '-c', {str(path)!r}, '-d', 'cpu'], processes=2)"
    launcher = f"import sys; from utils.hardware import distributed; sys.exit({call})"
    process = subprocess.Popen([sys.executable, "-c", launcher], stderr=subprocess.PIPE, text=True)
    saved = tmp_path / "saved" / "tiny"
    deadline = time.monotonic() + 100
    while not list(saved.glob("*/last.pth")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    state = checkpoint.load(only_run(tmp_path) / "last.pth")
    assert f"SIGTERM at iteration {state['step']}: saved" in errors


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_a_message(tmp_path):
    config = plain_config(tmp_path, epochs=500, val=False)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    command = [sys.executable, "train.py", "-c", str(path), "-d", "cpu"]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    first, second = (
        subprocess.Popen(
            command, env={**os.environ, **shared, "RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in "01"
    )
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("saved/tiny/*/last.pth")) and time.monotonic() < deadline:
        time.sleep(0.1)
    second.kill()
    _, errors = first.communicate(timeout=100)
    second.communicate()
    assert first.returncode == 6
    assert "error: lost contact with the other processes" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("nccl", [True, False])
def test_where_there_is_no_nccl_a_gpus_tensors_travel_over_gloo(monkeypatch, nccl):
    """Windows has none; what was asked for is read by torch's own parser."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "is_nccl_available", lambda: nccl)
    asked = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: asked.append(backend))
    with distributed.process_group("cuda"):
        pass
    config = dist.distributed_c10d.BackendConfig(dist.Backend(asked[0]))
    backends = config.get_device_backend_map()
    assert backends["cpu"] == "gloo"
    assert backends["cuda"] == ("nccl" if nccl else "gloo")

"""Who starts how many processes, and what wraps the network on several devices."""

import logging
import os

import pytest
import torch
from parallel_cases import (
    assert_collectives_work,
    assert_gradients_of_micro_batches_travel_once,
    assert_replicas_give_the_step_of_one,
    one_process,
)
from small_models import build_small
from torch import nn
from training import plain_config

from models.building import check_batch
from utils.config.config import parse_config
from utils.errors import ConfigError
from utils.hardware import devices, distributed, parallel
from utils.hardware.parallel import convert_sync_batchnorm

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def clean_environment(monkeypatch):
    for name in VARIABLES:
        # Set first, so that what the code under test writes is taken back as well.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


# SLURM.

SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu3",
}


def set_all(environment, **variables):
    for name, value in variables.items():
        environment.setenv(name, value)


def seen():
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def test_sruns_variables_are_those_of_torchrun(clean_environment):
    set_all(clean_environment, **SRUN)
    assert distributed.local_rank() == 1  # first: with n_gpu 1 nothing else has asked before
    assert distributed.started_by_launcher()
    assert distributed.environment_rank() == 5
    assert seen() == {
        "WORLD_SIZE": "8",
        "RANK": "5",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "gpu3",
        "MASTER_PORT": "19711",
    }


@pytest.mark.parametrize(
    ("nodes", "first"), [("gpu3", "gpu3"), ("gpu3,gpu7", "gpu3"), ("gpu[03-04],cpu1", "gpu03")]
)
def test_the_first_host_of_a_node_list(clean_environment, tmp_path, nodes, first):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        '#!/bin/sh\n[ "$3" = "gpu[03-04],cpu1" ] && printf "gpu03\\ngpu04\\ncpu1\\n"\n'
    )
    scontrol.chmod(0o755)
    set_all(clean_environment, **{**SRUN, "SLURM_STEP_NODELIST": nodes}, PATH=str(tmp_path))
    assert distributed.started_by_launcher()
    assert seen()["MASTER_ADDR"] == first


def test_torchruns_variables_win_over_sruns(clean_environment):
    set_all(clean_environment, **SRUN, WORLD_SIZE="2", RANK="0", LOCAL_RANK="0")
    assert distributed.environment_rank() == 0
    assert seen()["WORLD_SIZE"] == "2"


@pytest.mark.parametrize(
    "variables", [{}, {"SLURM_JOB_ID": "1"}, {**SRUN, "SLURM_STEP_NUM_TASKS": "1"}]
)
def test_a_batch_script_and_a_single_task_are_one_process(clean_environment, variables):
    set_all(clean_environment, **variables)
    assert not distributed.started_by_launcher()
    with distributed.process_group("cpu"):
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert distributed.collect("value") == ["value"]


def test_torchrun_with_one_process_starts_no_others(clean_environment):
    set_all(clean_environment, WORLD_SIZE="1", RANK="0", LOCAL_RANK="0")
    assert distributed.started_by_launcher()
    with distributed.process_group("cpu"):
        assert distributed.world_size() == 1


# How many processes.


@pytest.mark.parametrize(
    ("n_gpu", "mode", "gpus", "processes", "line"),
    [
        (1, "auto", 8, 1, None),
        (4, "auto", 8, 4, None),
        (4, "DDP", 4, 4, None),
        (8, "DDP", 2, 2, "n_gpu: 8 asked for, 2 there: using 2"),
        (2, "auto", 0, 1, "n_gpu: 2 asked for, 0 there: using the CPU"),
        (4, "DataParallel", 4, 1, None),
        (4, "DataParallel", 2, 1, "n_gpu: 4 asked for, 2 there: using 2"),
    ],
)
def test_a_process_a_gpu(n_gpu, mode, gpus, processes, line, caplog):
    assert parallel.processes_wanted(n_gpu, mode, gpus=gpus) == processes
    assert caplog.messages == ([line] if line else [])


@pytest.mark.parametrize(("visible", "index"), [(1, 0), (4, 3)])
def test_each_process_takes_its_own_gpu(monkeypatch, visible, index):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert devices.pick_device(None, local_rank=3) == torch.device("cuda", index)
    assert chosen == [index]


def test_a_gpu_is_not_asked_for_beside_a_config_without_one():
    assert devices.asked_device(None, n_gpu=0) == devices.asked_device("cpu", n_gpu=0) == "cpu"
    assert devices.asked_device("0,1", n_gpu=2) == "0,1"
    with pytest.raises(ConfigError, match="--device: found cuda, and n_gpu is 0"):
        devices.asked_device("cuda", n_gpu=0)


# What wraps the network.


def test_a_single_process_on_a_cpu_needs_no_wrapping():
    model = nn.Conv2d(1, 1, 1)
    for mode in ("auto", "DDP", "DataParallel"):
        assert parallel.spread(model, CPU, parallel=mode, n_gpu=8) is model
    assert parallel.shares(model) == 1


def test_a_step_through_data_parallel_is_the_step(tmp_path):
    """On a CPU torch has one replica; tests/test_gpu_parallel.py has two."""
    assert_replicas_give_the_step_of_one(tmp_path, "cpu", device_ids=None)


def test_data_parallel_refuses_synchronized_batch_norm(tmp_path):
    config = plain_config(tmp_path) | {"parallel": "DataParallel", "use_synch_bn": True}
    with pytest.raises(ConfigError, match=r"use_synch_bn: .*set parallel to \"DDP\""):
        parse_config(config)


def test_data_parallel_refuses_to_compile(tmp_path):
    config = plain_config(tmp_path, compile=True) | {"parallel": "DataParallel"}
    with pytest.raises(ConfigError, match=r"trainer\.compile: .*\"DDP\" or trainer\.compile to f"):
        parse_config(config)
    assert parse_config(config | {"parallel": "DDP"}).trainer.compile


def test_batch_norm_is_synchronized_where_it_can_be(monkeypatch, caplog):
    def synchronized(device, processes):
        monkeypatch.setattr(distributed, "world_size", lambda: processes)
        return parallel.synchronizes_batch_norm(device, use_synch_bn=True)

    with caplog.at_level(logging.INFO, "segmentation"):
        assert synchronized(CUDA, 2)
        assert caplog.messages == []
        assert not synchronized(CUDA, 1)
        assert not synchronized(CPU, 2)
        assert caplog.messages == ["use_synch_bn has no effect on a CPU or in a single process"] * 2
        assert not parallel.synchronizes_batch_norm(CUDA, use_synch_bn=False)


def test_synchronized_batch_norm_keeps_names_and_what_is_frozen():
    model = build_small("PSPNet", freeze_bn=True)
    names = list(model.state_dict())
    converted = convert_sync_batchnorm(model)
    norms = [part for part in converted.modules() if isinstance(part, nn.SyncBatchNorm)]
    assert len(norms) > 10
    assert not any(isinstance(part, nn.BatchNorm2d) for part in converted.modules())
    assert list(converted.state_dict()) == names
    converted.train()
    assert not any(norm.training for norm in norms)


@pytest.mark.parametrize(("smallest", "devices_", "enough"), [(4, 2, True), (3, 2, False)])
def test_a_device_with_too_few_images_is_refused(monkeypatch, smallest, devices_, enough, caplog):
    monkeypatch.setattr(distributed, "world_size", lambda: devices_)
    model = build_small("PSPNet")
    if enough:
        with caplog.at_level(logging.INFO, "segmentation"):
            check_batch(model, model, batch_size=5, smallest=smallest, crop_size=None)
        assert caplog.messages == ["batch_size: 5 in all, 2 a device"]
        return
    message = r"(?s)on 1 image at a time, and PSPNet .* pooled to 1x1: that needs 2\n.*freeze_bn"
    with pytest.raises(ConfigError, match=message):
        check_batch(model, model, batch_size=5, smallest=smallest, crop_size=None)


def test_one_image_that_becomes_one_value_is_refused():
    model = build_small("UNetResnet")
    message = (
        r"batch_size: .* on 1 image at a time, and UNetResnet .* crop_size 32, .* 1x1: that needs 2"
        r'.*larger "batch_size".*"crop_size", or "freeze_bn"'
    )
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        check_batch(model, model, batch_size=1, smallest=1, crop_size=32)
    check_batch(model, model, batch_size=1, smallest=1, crop_size=33)
    check_batch(model, model, batch_size=2, smallest=2, crop_size=32)


def test_statistics_of_all_devices_need_one_image_each(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    model = convert_sync_batchnorm(build_small("PSPNet"))
    check_batch(model, model, batch_size=2, smallest=2, crop_size=None)


def test_a_device_without_an_image_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    model = build_small("ENet")
    with pytest.raises(ConfigError, match=r"batch_size: 3 images for 4 devices, .* smaller n_gpu"):
        check_batch(model, model, batch_size=3, smallest=3, crop_size=None)


def test_collectives_work(monkeypatch):
    with one_process("gloo"):
        assert_collectives_work("cpu", monkeypatch)


def test_gradients_of_micro_batches_travel_once(tmp_path):
    with one_process("gloo"):
        assert_gradients_of_micro_batches_travel_once(tmp_path, "cpu")

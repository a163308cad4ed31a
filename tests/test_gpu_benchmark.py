"""benchmarks/gpu.py runs wherever torch does; its last line is for machines."""

import json

import pytest
import torch

from benchmarks import gpu
from dataloaders import DATASETS

ROWS = ["pspnet_64x64_b2", "enet_64x48_b2"]


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    monkeypatch.setattr(gpu, "keep_freed_memory", lambda: None)  # it stays with the process
    monkeypatch.setitem(DATASETS, "Noise", None)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_quick_run_measures_every_kind_of_row(capsys, device):
    gpu.main(["--device", device, "--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("| ")][1:] == ROWS
    figures = json.loads(lines[-1])
    assert figures.pop("torch") == torch.__version__
    assert device in figures.pop("device") or device == "cuda"
    figures.pop("driver")
    kinds = ("peak_gb", "ours", "bare", "plain", "share")
    modes = ("inference_whole", "inference_multiscale", "inference_sliding")
    expected = {f"{row}_{kind}" for row in ROWS for kind in kinds}
    expected |= {"peak_tflops", *modes, "files", "files_waiting", "evaluation"}
    assert expected <= set(figures)
    assert min(figures.values()) >= 0
    assert all(figures[f"{row}_{kind}"] > 0 for row in ROWS for kind in ("ours", "bare", "plain"))
    assert figures["files_waiting"] <= 1


def test_rows_without_time_are_named_and_the_last_line_stays(capsys):
    gpu.main(["--device", "cpu", "--quick", "--minutes", "0"])
    *lines, last = capsys.readouterr().out.splitlines()
    named = [line.partition(":")[0] for line in lines if "for want of time" in line]
    inference = [f"inference {mode}" for mode in ("whole", "multiscale", "sliding")]
    assert named == [*ROWS, *inference, "training from files", "evaluation"]
    assert set(json.loads(last)) == {"device", "driver", "torch", "peak_tflops"}


def test_a_row_that_needs_too_much_memory_costs_only_itself(capsys, monkeypatch):
    def too_large(*_arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    for row in ("train", "load", "evaluate"):
        monkeypatch.setattr(gpu.rows, row, too_large)
    monkeypatch.setattr(gpu.rows, "infer", lambda _net, run, mode: run.note(mode, 1.0))
    gpu.main(["--device", "cpu", "--quick"])
    *lines, last = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("out of memory") for line in lines) == 4
    assert json.loads(last)["sliding"] == 1

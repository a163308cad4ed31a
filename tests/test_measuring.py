"""--benchmark, the waiting for data, and what is said when memory runs out."""

import json
import logging
import re
import sys
from pathlib import Path

import pytest
import torch
from training import batches_of, plain_config, trainer_of

import train
from measuring import MeasuredTrainer
from utils.errors import ResourceError, guard
from utils.hardware.memory import memory_advice, peak_memory, ran_out, validation_memory_advice
from utils.run.stopwatch import PHASES, LoaderWarning, Phases, report


@pytest.fixture
def config_path(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(plain_config(tmp_path, accumulate=2)))
    return path


def test_benchmark_prints_every_figure_and_writes_nothing(config_path, tmp_path, capsys):
    assert train.main(["--config", str(config_path), "--benchmark", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 iterations of 8 images, on cpu"
    figures = {line.split()[0]: float(re.search(r"[\d.]+", line)[0]) for line in lines[1:]}
    assert list(figures) == ["images/s", "ms", *PHASES, "waiting", "peak"]
    assert sum(figures[name] for name in PHASES) == pytest.approx(figures["ms"], abs=0.3)
    assert figures["images/s"] == pytest.approx(8000 / figures["ms"], rel=0.01)
    assert min(figures["forward"], figures["backward"], figures["peak"]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark", "0"], "--benchmark: found 0, expected a number of iterations"),
        (["--benchmark", "3", "--resume", "x"], "give --config instead of --resume"),
    ],
)
def test_a_benchmark_that_makes_no_sense_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as raised:
        train.main(arguments)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_time_goes_to_the_phase_in_which_it_passed(monkeypatch):
    clock = iter([0.0, 0.0, 1.0, 1.0, 3.0, 10.0])
    phases = Phases(torch.device("cpu"))
    monkeypatch.setattr("utils.run.stopwatch.time.perf_counter", lambda: next(clock))
    with phases.timed("iteration"):
        with phases.timed("data"):
            pass
        with phases.timed("forward"):
            pass
    seconds = phases.seconds()
    assert seconds == {"data": 1, "forward": 2, "backward": 0, "optimizer": 0, "rest": 7}
    phases.reset()
    assert set(phases.seconds().values()) == {0}
    lines = report(seconds, iterations=2, images=20, peak=2**30)
    assert [line.split()[:3] for line in lines[:3]] == [
        ["images/s", "2.0"],
        ["ms", "5000.0", "an"],
        ["data", "500.0", "10%"],
    ]
    assert lines[-2].split()[:2] == ["waiting", "10%"]
    assert lines[-1].split() == ["peak", "memory", "1024", "MiB"]


@pytest.mark.parametrize(
    ("workers", "cores", "fix"),
    [
        (0, 8, r"--set train_loader\.args\.num_workers=2 \(now 0\)"),
        (2, 8, r"--set train_loader\.args\.num_workers=4 \(now 2\)"),
        (6, 8, r"--set train_loader\.args\.num_workers=8 \(now 6\)"),
        (8, 8, r"all 8 cores load already .* store smaller images"),
    ],
)
def test_a_slow_loader_is_named_once_with_the_line_to_change(
    workers, cores, fix, caplog, monkeypatch
):
    monkeypatch.setattr("utils.run.stopwatch.usable_cores", lambda: cores)
    warning = LoaderWarning(workers, shown=True)
    with caplog.at_level(logging.WARNING, "segmentation"):
        for share in (0.9, 0.1, 0.43, 0.6):
            warning.look(share)
    (message,) = caplog.messages
    assert re.fullmatch(
        rf"the loader is the bottleneck: 43 % of the time is waiting for data; {fix}.*", message
    )


def test_other_processes_say_nothing_of_the_loader(caplog):
    warning = LoaderWarning(1, shown=False)
    for _ in range(3):
        warning.look(0.9)
    assert caplog.messages == []


def test_a_run_that_waits_for_its_data_says_so(tmp_path, caplog):
    trainer = trainer_of(plain_config(tmp_path, log_per_iter=1))
    clock = iter(range(10**6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.run.stopwatch.time.perf_counter", lambda: next(clock))
        with caplog.at_level(logging.WARNING, "segmentation"):
            trainer.train_epoch(1)
    assert "the loader is the bottleneck" in caplog.text


# Memory.

MESSAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail] . DefaultCPUAllocator: not enough memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    MemoryError(),
]


@pytest.mark.parametrize("error", MESSAGES, ids=lambda error: type(error).__name__)
def test_memory_that_ran_out_is_recognized_on_any_device(error):
    assert ran_out(error)
    assert not ran_out(RuntimeError("size mismatch"))
    assert not ran_out(ValueError("out of memory"))


def advice(batch_size, accumulate, *, shares=1, smallest=1):
    context = memory_advice(batch_size, accumulate, shares=shares, smallest=smallest)
    with pytest.raises(ResourceError, match=r"^out of memory in training") as raised, context:
        raise MESSAGES[0]
    assert raised.value.exit_code == 6
    pairs = re.findall(r"batch_size=(\d+) trainer.accumulate=(\d+)", str(raised.value))
    return [(int(size), int(times)) for size, times in pairs]


def test_smaller_batches_keep_the_images_of_an_update():
    assert advice(8, 1) == [(4, 2), (2, 4), (1, 8)]
    assert advice(6, 2) == [(4, 3), (3, 4), (2, 6), (1, 12)]
    assert advice(16, 1, shares=4) == [(8, 2), (4, 4)]
    assert advice(16, 1, shares=2, smallest=2) == [(8, 2), (4, 4)]
    assert advice(1, 4) == []


def test_other_errors_are_left_alone():
    with (
        pytest.raises(RuntimeError, match=r"^size mismatch$"),
        memory_advice(8, 1, shares=1, smallest=1),
    ):
        raise RuntimeError("size mismatch")


def test_running_out_of_memory_in_training_exits_6(config_path, monkeypatch, capsys):
    monkeypatch.setattr("trainer.Normalize.forward", lambda *_: torch.empty(2**55))
    arguments = ["--config", str(config_path), "--set", "train_loader.args.batch_size=4"]
    assert guard(train.main, arguments) == 6
    message = capsys.readouterr().err
    assert "error: out of memory in training with batch_size 4 x accumulate 2: " in message
    assert "the same 8 images an update in less memory:" in message
    assert "--set train_loader.args.batch_size=2 trainer.accumulate=4" in message
    assert "--set trainer.recompute=true" in message
    assert "Traceback" not in message


def validation_advice(batch_size, **settings):
    context = validation_memory_advice(batch_size, **settings)
    with pytest.raises(ResourceError, match=r"^out of memory in validation") as raised, context:
        raise MESSAGES[0]
    return str(raised.value), re.findall(r"(?m)^    --set (.*)", str(raised.value))


def test_validation_is_told_to_take_fewer_or_smaller_images():
    later = "trainer.val=false  (and score later with evaluate.py --mode sliding)"
    message, lines = validation_advice(4, crop_size=None)
    assert "validation with batch_size 4 of whole images: CUDA out of memory" in message
    assert "what was saved is sound: go on with --resume and --set as above" in message
    assert lines == [
        "val_loader.args.batch_size=2",
        "val_loader.args.val=true val_loader.args.crop_size=512  (scores crops)",
        later,
    ]
    message, lines = validation_advice(1, crop_size=768)
    assert "validation with batch_size 1 of 768 x 768: " in message
    assert lines == [
        "val_loader.args.val=true val_loader.args.crop_size=384  (scores crops)",
        later,
    ]
    _, lines = validation_advice(8, crop_size=None, accumulate=1)  # val_split
    assert lines == ["train_loader.args.batch_size=4 trainer.accumulate=2", later]


def test_running_out_of_memory_in_validation_exits_6(tmp_path, config_path, monkeypatch, capsys):
    def starved(*_):
        raise MESSAGES[0]

    monkeypatch.setattr("validation.whole", starved)
    assert guard(train.main, ["--config", str(config_path)]) == 6
    message = capsys.readouterr().err
    assert "error: out of memory in validation with batch_size 4 of whole images: " in message
    assert "--set val_loader.args.batch_size=2" in message
    assert "Traceback" not in message
    assert len(list(tmp_path.glob("saved/tiny/*/last.pth"))) == 1


def test_running_out_of_memory_on_the_way_to_the_device_exits_6(config_path, monkeypatch, capsys):
    def starved(*_):
        raise MESSAGES[0]

    monkeypatch.setattr("utils.hardware.prefetch._moved", starved)
    assert guard(train.main, ["--config", str(config_path)]) == 6
    assert "error: out of memory in training with batch_size 4" in capsys.readouterr().err


def test_peak_memory_is_that_of_the_process():
    status = Path("/proc/self/status").read_text()
    highest = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    assert peak_memory(torch.device("cpu")) == pytest.approx(highest, rel=0.05)


def test_where_the_system_does_not_tell_there_is_no_peak(config_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert train.main(["--config", str(config_path), "--benchmark", "1"]) == 0
    shown = capsys.readouterr().out
    assert "waiting" in shown
    assert "peak" not in shown


def test_measuring_leaves_out_the_first_iterations(tmp_path):
    trainer = trainer_of(plain_config(tmp_path), kind=MeasuredTrainer)
    sizes = []
    iteration = trainer.train_iteration
    trainer.train_iteration = lambda group: (sizes.append(len(group)), iteration(group))
    seconds, images = trainer.measure(4)
    assert images == 16
    assert len(sizes) == 9
    assert len(batches_of(trainer)) == 3  # more than an epoch
    assert all(seconds[name] > 0 for name in PHASES)

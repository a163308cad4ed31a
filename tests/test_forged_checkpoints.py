"""Whatever a checkpoint says under right checksums: it is refused by name, or it is harmless."""

import copy
import re

import numpy as np
import pytest
import torch
from conftest import tiny_config
from PIL import Image
from training import batches_of, plain_config, trainer_of

import evaluate
import export
import inference
import train
from tools import average
from utils.errors import CheckpointError, ConfigError, guard
from utils.run import checkpoint

NAN, INF = float("nan"), float("inf")
WEIGHT = "start.0.0.weight"


def small(folder, **trainer):
    config = plain_config(folder, ema=0.9, **trainer)
    config["optimizer"] = {"type": "AdamW", "args": {"lr": 0.01}}
    return config


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """What a run saves after its first iteration."""
    trainer = trainer_of(small(tmp_path_factory.mktemp("run")))
    trainer.train_iteration(batches_of(trainer)[:1])
    return checkpoint.to_plain(trainer.state())


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """One that is about to go on with such a state."""
    return trainer_of(small(tmp_path_factory.mktemp("resumed")))


@pytest.fixture
def forge(state, tmp_path):
    """Write the state with one entry changed; give the file."""

    def forge(where, value):
        content = dict(copy.deepcopy(state))
        *parents, name = where
        part = content
        for key in parents:
            part = part[key]
        if value is DELETED:
            del part[name]
        else:
            part[name] = value
        path = tmp_path / "forged.pth"
        torch.save({"format_version": 1} | content, path)
        return path

    return forge


DELETED = object()
CIRCLE: list = []
CIRCLE.append(CIRCLE)
LAUGHS: list = []
for _ in range(40):
    LAUGHS = [LAUGHS, LAUGHS]
DEEP: list = []
for _ in range(200):
    DEEP = [DEEP]

FORGED = [
    ("arch", 7, "arch: expected text"),
    ("config", None, "config: expected an object"),
    ("config.arch", "UNet", "config.arch: expected an object"),
    ("config.arch.type", 3, "config.arch.type: expected text"),
    ("config.arch.args", [1], "config.arch.args: expected an object"),
    ("config.train_loader", DELETED, "incomplete: config.train_loader missing"),
    ("config.train_loader.args", None, "config.train_loader.args: expected an object"),
    ("config.train_loader.args.crop_size", -1, r"crop_size: expected a number >= 1, got -1"),
    ("config.trainer.precision", "fp8", "config.trainer.precision: expected 'auto', 'fp32'"),
    ("state_dict", [1], "state_dict: expected an object"),
    ("state_dict/" + WEIGHT, 1.5, rf"state_dict\.{WEIGHT}: expected a Tensor, got 1.5"),
    ("state_dict/" + WEIGHT, torch.full((4, 3, 3, 3), NAN), f"{WEIGHT}: 108 of 108 not finite"),
    ("state_dict/" + WEIGHT, torch.ones(4, 3, 3, 3) * 1j, f"{WEIGHT}: a tensor of torch.complex64"),
    ("classes", 7, "classes: expected a list"),
    ("classes", [], "classes: expected at least 1"),
    ("classes", [1, 2], r"classes\[0\]: expected text"),
    ("palette", None, "palette: expected a list"),
    ("palette", [[0, 0, 0]], "palette: 1 entries for 7 of classes"),
    ("palette", [[0, 0, 300]] * 7, r"palette\[0\]\[2\]: expected a number <= 255"),
    ("mean", "0.5", "mean: expected a list"),
    ("mean", [NAN] * 3, r"mean\[0\]: expected a finite plain value, got nan"),
    ("std", [0.0] * 3, r"std\[0\]: expected a number > 0"),
    ("std", [0.5], "std: 1 entries for 3 of mean"),
    ("ignore_index", 2**40, "ignore_index: expected a number <= 32767"),
    ("input_dtype", "int4", "input_dtype: expected 'uint8', 'uint16'"),
    ("epoch", "x", "epoch: expected an integer"),
    ("epoch", -1, "epoch: expected a number >= 0"),
    ("iteration", True, "iteration: expected an integer"),
    ("step", 1.5, "step: expected an integer"),
    ("optimizer", -5, "optimizer: expected an object"),
    ("optimizer.state", DELETED, "incomplete: optimizer.state missing"),
    ("optimizer.state.0.exp_avg", 3, r"optimizer\.state\[0\]\.exp_avg: expected a Tensor"),
    (
        "optimizer.state.0.step",
        torch.tensor(INF),
        r"optimizer\.state\[0\]\.step: 1 of 1 not finite",
    ),
    ("optimizer.param_groups", [7], r"optimizer\.param_groups\[0\]: expected an object"),
    ("optimizer.param_groups.0.lr", NAN, r"param_groups\[0\]\.lr: expected a finite plain value"),
    ("scaler", [], "scaler: expected an object"),
    ("scaler", {"scale": "x"}, r"scaler\.scale: expected a number"),
    ("ema", 1, "ema: expected an object"),
    ("ema.updates", -1, r"ema\.updates: expected a number >= 0"),
    ("ema.state_dict/" + WEIGHT, torch.full((4, 3, 3, 3), INF), "108 of 108 not finite"),
    ("monitor_best", "high", "monitor_best: expected a number"),
    ("monitor_epochs", [1], "monitor_epochs: expected at least 2 entries"),
    ("running", {}, "incomplete: running.iterations, running.losses, running.counts missing"),
    ("running.iterations", [0, 1, 2], "running.iterations: expected at most 2 entries"),
    ("running.losses", torch.tensor([NAN, 0]), r"running\.losses: 1 of 2 not finite"),
    ("log_bytes", None, "log_bytes: expected an integer"),
    ("extra", (1, 2), "extra: expected a finite plain value"),
    ("extra", CIRCLE, "more values or levels than any has"),
    ("extra", DEEP, "more values or levels than any has"),
    ("extra", LAUGHS, "more values or levels than any has"),
]


def keys(where):
    """`a.b.0/c.d` as the keys a, b, 0 and c.d."""
    dotted, _, name = where.partition("/")
    parts = [int(part) if part.isdigit() else part for part in dotted.split(".")]
    return parts + ([name] if name else [])


@pytest.mark.parametrize(("where", "value", "words"), FORGED)
def test_a_forged_field_is_named(where, value, words, forge, monkeypatch):
    monkeypatch.setattr("utils.files.tensor_files._MOST_VALUES", 10_000)
    with pytest.raises(CheckpointError, match=rf"forged\.pth: .*{words}"):
        checkpoint.load(forge(keys(where), value))


def test_what_a_run_saves_is_taken(state, forge):
    found = checkpoint.load(forge(["extra"], "more"))
    assert found.keys() == state.keys() | {"format_version", "extra"}


def test_every_command_refuses_weights_that_are_not_finite(forge, tmp_path, capsys):
    value = torch.full((4, 3, 3, 3), NAN)
    path = str(forge(["ema", "state_dict", WEIGHT], value))
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.jpg")
    out = str(tmp_path / "out")
    commands = [
        (train, ["--resume", path]),
        (evaluate, ["-m", path, "-o", out]),
        (inference, ["-m", path, "-i", str(tmp_path), "-o", out]),
        (export, ["-m", path, "-o", f"{out}.onnx"]),
        (average, [path, path, "-o", f"{out}.pth"]),
    ]
    start = tiny_config(tmp_path) | {"init_from": path}
    for command, words in commands:
        assert guard(command.main, words) == 4
        assert f"{WEIGHT}: 108 of 108 not finite" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=f"{WEIGHT}: 108 of 108 not finite"):
        trainer_of(start)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("channels", "words"),
    [(10**7, "not those of its UNet"), (10**30, "cannot be built|expected an integer of at most")],
)
def test_a_network_of_any_size_takes_no_memory(channels, words, forge, tmp_path, capsys):
    """Ten million channels would be a petabyte; it is told before any of it is asked for."""
    path = str(forge(["config", "arch", "args", "base_channels"], channels))
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.jpg")
    output = str(tmp_path / "out")
    for command, arguments in (
        (inference, ["-m", path, "-i", str(tmp_path), "-o", output]),
        (train, ["--resume", path]),
    ):
        assert guard(command.main, arguments) == 4
        assert re.search(words, capsys.readouterr().err)


SLOTS = [
    (
        "a moment too short",
        "exp_avg",
        lambda value: value.flatten()[:-4],
        "104 in the file, 4x3x3x3",
    ),
    ("of one number", "exp_avg_sq", lambda _: torch.ones(1), "1 in the file, 4x3x3x3 expected"),
    ("of whole numbers", "exp_avg", lambda value: value.long(), "4x3x3x3 int64 in the file"),
    ("a count of the moment's shape", "step", lambda _: torch.ones(4, 3, 3, 3), "scalar expected"),
    ("a count below 0", "step", lambda value: -value, "step: below 0"),
]


@pytest.mark.parametrize(("name", "change", "words"), [slot[1:] for slot in SLOTS])
def test_optimizer_state_of_another_shape_never_reaches_the_kernels(
    name, change, words, forge, state, trainer
):
    """The fused ones wrote past its end: heap corruption, SIGABRT."""
    index = next(i for i, slot in state["optimizer"]["state"].items() if slot["exp_avg"].dim() == 4)
    slot = state["optimizer"]["state"][index]
    shape = "x".join(map(str, slot["exp_avg"].shape))
    content = checkpoint.load(forge(["optimizer", "state", index, name], change(slot[name])))
    with pytest.raises(CheckpointError, match=rf"optimizer\.state\[{index}\]\.{name}: ") as caught:
        trainer.restore(content)
    assert words.replace("4x3x3x3", shape) in str(caught.value).replace("104", "104")


def test_state_is_brought_into_the_layout_of_its_parameter(forge, state, trainer):
    """Kernels go through memory in order: numbers in another order would meet the wrong weights."""
    index, slot = next(
        (i, slot) for i, slot in state["optimizer"]["state"].items() if slot["exp_avg"].dim() == 4
    )
    moment = slot["exp_avg"]
    crooked = moment.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert crooked.stride() != moment.stride()
    trainer.restore(checkpoint.load(forge(["optimizer", "state", index, "exp_avg"], crooked)))
    parameter = trainer.optimizer.param_groups[0]["params"][index]
    found = trainer.optimizer.state[parameter]["exp_avg"]
    assert torch.equal(found, moment)
    assert found.stride() == parameter.stride()


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (
            ["state_dict", WEIGHT],
            torch.ones(3),
            f"weights do not fit .*\n  {WEIGHT}: 3 in the file",
        ),
        (
            ["ema", "state_dict", WEIGHT],
            DELETED,
            f"averaged weights do not .*\n  {WEIGHT}: missing",
        ),
        (["running", "counts"], torch.ones(3, 3).long(), "sums do not .*\n  counts: 3x3 int64 in"),
        (
            ["running", "losses"],
            torch.ones(1),
            "sums do not fit .*\n  losses: 1 in the file, 2 exp",
        ),
    ],
)
def test_what_is_restored_has_the_names_and_shapes_of_what_is_here(
    where, value, words, forge, trainer
):
    with pytest.raises(CheckpointError, match=words):
        trainer.restore(checkpoint.load(forge(where, value)))


def test_groups_that_name_other_parameters_are_refused(forge, state, trainer):
    count = len(state["optimizer"]["param_groups"][0]["params"])
    path = forge(["optimizer", "param_groups", 0, "params"], [0] * count)
    with pytest.raises(ConfigError, match=r"does not fit this config's \(other groups in the file"):
        trainer.restore(checkpoint.load(path))


@pytest.mark.parametrize(
    "optimizer",
    [
        {"type": "SGD", "args": {"lr": 0.1, "momentum": 0.9}},
        {"type": "AdamW", "args": {"lr": 0.1, "amsgrad": True}},
        {"type": "RMSprop", "args": {"lr": 0.1}},
    ],
)
def test_state_of_another_optimizer_is_refused(optimizer, forge, tmp_path):
    trainer = trainer_of(small(tmp_path) | {"optimizer": optimizer})
    with pytest.raises(
        ConfigError, match=r"the checkpoint's optimizer does not fit .* \(no \w+ in"
    ):
        trainer.restore(checkpoint.load(forge(["extra"], 1)))


@pytest.mark.parametrize("field", ["iteration", "step", "log_bytes"])
def test_a_position_beyond_the_run_ends_it_or_is_harmless(field, forge, capsys):
    path = str(forge([field], 2**62))
    assert guard(train.main, ["--resume", path, "--set", "trainer.epochs=1"]) in (0, 2, 4)
    assert "Traceback" not in capsys.readouterr().err


def test_a_faulty_config_in_a_checkpoint_is_the_checkpoint_s_fault(forge, capsys, tmp_path):
    path = str(forge(["config", "trainer", "epochs"], 0))
    for command, words in ((train, ["--resume", path]), (evaluate, ["-m", path])):
        assert guard(command.main, words) == 4
        said = capsys.readouterr().err
        assert f"the config in {path}: trainer.epochs: expected a number >= 1, got 0" in said


def test_an_average_begun_on_resume_begins_with_the_weights(forge, state, trainer):
    trainer.restore(checkpoint.load(forge(["ema"], None)))
    averaged = trainer.ema.model.state_dict()
    assert all(torch.equal(averaged[name], value) for name, value in state["state_dict"].items())
    assert trainer.ema.updates == 0


def test_a_scaler_begun_on_resume_starts_anew(forge, trainer, monkeypatch):
    monkeypatch.setattr(trainer, "scaler", torch.amp.GradScaler("cpu", enabled=True))
    fresh = trainer.scaler.state_dict()
    trainer.restore(checkpoint.load(forge(["extra"], 1)))
    assert trainer.scaler.state_dict() == fresh

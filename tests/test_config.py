"""The config: every bad one has its message, every good one its meaning."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
from bad_configs import BAD, SHORT, TOP
from hypothesis import given, settings
from hypothesis import strategies as st

from base.parts import RunOptions
from utils.config.config import Config, load_config, parse_config
from utils.config.sections import OptimizerSection, TrainerSection
from utils.errors import ConfigError

ROOT = Path(__file__).parent.parent
DOCUMENTED = Path(__file__).parent / "documented.json"


def over_short(changes):
    return {key: value for key, value in (SHORT | changes).items() if value is not None}


def refusal(config):
    try:
        parse_config(config, source="c.json")
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_a_bad_config_has_its_message(changes, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(f'c.json: {message}')}$"):
        parse_config(over_short(changes), source="c.json")


@pytest.mark.parametrize("name", ["console", "com10", "a.con", "nullify", "Ω 1"])
def test_a_name_that_only_looks_like_a_device_is_taken(name):
    assert parse_config(over_short({"name": name}), source="c.json").name == name


def test_all_faults_are_reported_at_once():
    config = {
        "nme": "x",
        "arch": {"type": "UNet", "args": {"pretrained": 1, "depth": 3}},
        "train_loader": {"type": "Shapes", "args": {"batch_size": 0}},
        "optimizer": {"type": "SGD"},
        "trainer": {"epochs": 0, "epoch": 3},
    }
    with pytest.raises(ConfigError) as caught:
        parse_config(config, source="c.json")
    first, *lines = str(caught.value).splitlines()
    assert first == "c.json: 7 faults"
    assert [line.partition(":")[0].strip() for line in lines] == [
        "trainer.epoch",
        "nme",
        "trainer.epochs",
        "arch.args.pretrained",
        "arch.args.depth",
        "train_loader.args.batch_size",
        "optimizer.args.lr",
    ]


def test_the_documented_config_keeps_its_meaning():
    config = load_config(DOCUMENTED)
    assert (config.name, config.n_gpu, config.use_synch_bn) == ("PSPNet", 1, True)
    assert config.arch.type == "PSPNet"
    assert config.arch.args == {
        "backbone": "resnet50",
        "freeze_bn": False,
        "freeze_backbone": False,
    }
    assert config.train_loader.args["split"] == "train_aug"
    assert config.val_loader is not None
    assert config.val_loader.args["crop_size"] == 480
    assert config.optimizer.differential_lr is True
    assert config.optimizer.args == {"lr": 0.01, "weight_decay": 1e-4, "momentum": 0.9}
    assert (config.loss.type, config.loss.args) == ("CrossEntropyLoss2d", {})
    assert (config.ignore_index, config.lr_scheduler.type) == (255, "Poly")
    assert (
        config.trainer.model_dump()
        | {
            "epochs": 80,
            "save_dir": "saved/",
            "save_period": 10,
            "monitor": "max Mean_IoU",
            "early_stop": 10,
            "tensorboard": True,
            "log_dir": "saved/runs",
            "log_per_iter": 20,
            "val": True,
            "val_per_epochs": 5,
        }
        == config.trainer.model_dump()
    )


def test_a_short_config_has_the_documented_defaults():
    config = parse_config(SHORT)
    assert config.optimizer.type == "SGD"
    assert config.optimizer.args == {"lr": 0.01, "weight_decay": 1e-4, "momentum": 0.9}
    assert (config.loss.type, config.lr_scheduler.type) == ("CrossEntropyLoss2d", "Poly")
    assert (config.n_gpu, config.ignore_index, config.seed, config.aux_weight) == (1, 255, 0, 0.4)
    assert (config.trainer.epochs, config.trainer.monitor, config.trainer.early_stop) == (
        80,
        "max Mean_IoU",
        0,
    )


def test_without_validation_nothing_is_monitored():
    config = parse_config(over_short({"val_loader": None, "trainer": {"val": False}}))
    assert config.val_loader is None
    assert config.trainer.monitor == "off"


def test_the_resolved_config_is_the_config():
    for config in (load_config(DOCUMENTED), parse_config(SHORT | {"$schema": "x.json"})):
        assert parse_config(config.resolved()) == config
    assert parse_config(SHORT).resolved().keys() == Config.model_fields.keys() - {"schema_uri"}


def test_a_config_does_not_change():
    config = parse_config(SHORT)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # pyrefly: ignore[read-only]
    assert SHORT["arch"] == {"type": "UNet"}


@pytest.mark.parametrize(("data", "kind"), [([1], "list"), ("x", "str"), (None, "NoneType")])
def test_what_is_no_object_is_refused(data, kind):
    with pytest.raises(ConfigError, match=rf"^x\.pth: expected an object in {{ }}, got {kind}$"):
        parse_config(data, source="x.pth")


def test_what_no_file_can_say_is_refused_too():
    message = (
        r"^config with --set: arch\.args\.a: text with .* half a surrogate pair cannot be used$"
    )
    with pytest.raises(ConfigError, match=message):
        parse_config(SHORT, overrides=["arch.type=X", "arch.args.a=\udcff"])
    with pytest.raises(ConfigError, match=r"^config with --set: name: text with "):
        parse_config(SHORT, overrides=["name=\udcff"])  # what the shell makes of a stray byte
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ConfigError, match=r"^x\.pth: nested too deep$"):
        parse_config(SHORT | {"arch": {"type": "X", "args": {"a": deep}}}, source="x.pth")


def test_an_unlisted_name_is_left_to_build():
    config = parse_config(
        over_short({"arch": {"type": "MyNet", "args": {"what": [1, {"a": None}]}}})
    )
    assert config.arch.args == {"what": [1, {"a": None}]}


@pytest.mark.parametrize("name", ["run 7", "Δ_net-1.2", "a=b,c@(d)+", "7", "x" * 100])
def test_a_name_that_can_be_a_folder_is_accepted(name, tmp_path):
    (tmp_path / parse_config(SHORT | {"name": name}).name).mkdir()


def test_every_key_has_an_effect():
    # A key that nobody reads would be a promise without effect: each stands as an attribute in a
    # command line, the only files that see a config, or is a field of the trainer's plan, which
    # train.py fills by name.
    read = {field.name for field in fields(RunOptions)}
    for path in ROOT.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    keys = [*Config.model_fields, *TrainerSection.model_fields, *OptimizerSection.model_fields]
    assert set(keys) - read == {"schema_uri"}  # for editors


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*TOP.split(", "), "type", "args", "lr", "x"]), inner)
    ),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*TOP.split(", "), "epochs", "x"]), JSON))
def test_any_object_is_accepted_or_refused(changes):
    message = refusal(SHORT | changes)
    assert message is None or message.startswith("c.json: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainer": {"accumulate": 2**64}}, "trainer.accumulate: expected an integer of at most"),
        ({"trainer": {"accumulate": 2**20}}, "trainer.accumulate: expected"),
        ({"arch": {"type": "UNet", "args": {"base_channels": 10**30}}}, "arch.args.base_channels:"),
        ({"train_loader": {"type": "Shapes", "args": {"batch_size": 2**53}}}, "batch_size: exp"),
        ({"train_loader": {"type": "Shapes", "args": {"batch_size": 2**20}}}, "batch_size: exp"),
        (
            {"train_loader": {"type": "Shapes", "args": {"batch_size": 2, "crop_size": 2**40}}},
            "train_loader.args.crop_size: expected",
        ),
        ({"trainer": {"epochs": 10**21}}, "trainer.epochs: expected an integer of at most"),
    ],
)
def test_absurd_numbers_are_refused_before_anything_counts_to_them(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_config({**SHORT, **change}, source="c.json")

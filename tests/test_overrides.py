"""`--set key=value`: what it sets, and what it refuses."""

import copy
import re

import pytest
from bad_configs import SHORT

from utils.config.config import load_config, parse_config
from utils.config.overrides import apply_overrides
from utils.errors import ConfigError

SET = {
    "number": ("trainer.epochs=2", {"trainer": {"epochs": 2}}),
    "text without quotes": ("name=run7", {"name": "run7"}),
    "digits that are no number of JSON5": ("name=007", {"name": "007"}),
    "text in quotes": ("name='7'", {"name": "7"}),
    "text with an equals sign": ("name=a=b", {"name": "a=b"}),
    "path": ("a.data_dir=../data/x y", {"a": {"data_dir": "../data/x y"}}),
    "empty text": ("name=", {"name": ""}),
    "true": ("trainer.val=false", {"trainer": {"val": False}}),
    "null": ("trainer.keep=null", {"trainer": {"keep": None}}),
    "number with exponent": ("optimizer.args.lr=1e-3", {"optimizer": {"args": {"lr": 0.001}}}),
    "list": ("a.b=[1, 'x', {c: 2}]", {"a": {"b": [1, "x", {"c": 2}]}}),
    "section": ("loss={type: 'DiceLoss'}", {"loss": {"type": "DiceLoss"}}),
    "word that is no number": ("name=NaNny", {"name": "NaNny"}),
    "word that is not Python": ("name=Nonesuch", {"name": "Nonesuch"}),
}

REFUSED = {
    "no value": ("foo", "--set: 'foo': expected key=value, such as trainer.epochs=2"),
    "no key": ("=3", "--set: '=3': expected key=value, such as trainer.epochs=2"),
    "empty part of a path": (
        "a..b=3",
        "--set: 'a..b=3': expected key=value, such as trainer.epochs=2",
    ),
    "through a number": ("seed.x=3", "--set: seed.x: seed is not an object in { }"),
    "deep through a number": ("seed.x.y=3", "--set: seed.x: seed is not an object in { }"),
    "outside a list": ("list.2=3", "--set: list.2: list is a list of 2 entries, numbered from 0"),
    "name in a list": ("list.x.y=3", "--set: list.x: list is a list of 2 entries, numbered from 0"),
    "long value": (
        "seed=[" + "x" * 60,
        "--set: seed:1:2: unexpected x\n    [" + "x" * 60 + "\n     ^",
    ),
    "Python": ("a=None", "--set: a=None:1:1: None is Python; write null\n    None\n    ^"),
    "Python in a list": (
        "a=[True]",
        "--set: a=[True]:1:2: True is Python; write true\n    [True]\n     ^",
    ),
    "NaN": ("seed=NaN", "--set: seed=NaN:1:1: the value: expected a finite number, got NaN"),
    "too large": (
        "seed=4294967296",
        (
            "--set: seed=4294967296: the value: expected an integer of at most 4294967295, "
            "got 4294967296"
        ),
    ),
    "open bracket": (
        "seed=[1",
        (
            "--set: seed=[1:1:3: the text ends here, before the last } or quote or comment is "
            "closed\n"
            "    [1\n      ^"
        ),
    ),
}


@pytest.mark.parametrize(("override", "expected"), SET.values(), ids=SET)
def test_a_value_is_set(override, expected):
    assert apply_overrides({}, [override]) == expected


@pytest.mark.parametrize(("override", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_set_is_refused(override, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        apply_overrides({"seed": 1, "list": [1, 2]}, [override])


def test_all_wrong_overrides_are_reported_at_once():
    with pytest.raises(ConfigError, match=r"^--set: 2 faults\n  'x': expected.*\n  '=': expected"):
        apply_overrides({}, ["x", "seed=3", "="])


def test_a_later_override_wins_and_the_rest_stays():
    before = copy.deepcopy(SHORT)
    result = apply_overrides(SHORT, ["arch.type=ENet", "arch.type=FCN8", "arch.args.a.b=1"])
    assert result == SHORT | {"arch": {"type": "FCN8", "args": {"a": {"b": 1}}}}
    assert before == SHORT


def test_an_entry_of_a_list_is_set():
    assert apply_overrides({"a": [1, {"b": 2}]}, ["a.0=3", "a.1.b=4"]) == {"a": [3, {"b": 4}]}


def test_a_bare_loss_takes_arguments():
    config = parse_config(SHORT | {"loss": "DiceLoss"}, overrides=["loss.args.smooth=2"])
    assert (config.loss.type, config.loss.args) == ("DiceLoss", {"smooth": 2})


def test_null_on_the_way_becomes_an_object():
    assert apply_overrides({"a": None}, ["a.b=1"]) == {"a": {"b": 1}}


def test_overrides_are_checked_like_the_file(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"name": "x", "arch": {"type": "UNet"}}')
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["trainer.val=false", "trainer.epoch=3", "arch.args.base_chanels=8"])
    message = str(caught.value)
    assert message.startswith(f"{path} with --set: 3 faults\n  train_loader: missing")
    assert "trainer.epoch: unknown key; did you mean 'epochs'?" in message
    assert (
        "arch.args.base_chanels: unknown argument of UNet; did you mean 'base_channels'?" in message
    )
    loader = 'train_loader={type: "Shapes", args: {batch_size: 4}}'
    config = load_config(path, ["trainer.val=false", loader, "arch.args.base_channels=8"])
    assert config.train_loader.args == {"batch_size": 4}
    assert config.arch.args == {"base_channels": 8}


def test_text_that_begins_at_home_is_a_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = {"a": {"data_dir": "~/x", "b": ["~/y", "~you", 1]}, "name": "a~/b"}
    expected = {"a": {"data_dir": "/home/me/x", "b": ["/home/me/y", "~you", 1]}, "name": "a~/b"}
    assert apply_overrides(given, ["c=~/z"]) == expected | {"c": "/home/me/z"}
    assert given["a"]["data_dir"] == "~/x"

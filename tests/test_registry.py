"""`build`: what it checks, what it says, and what the tables may hold."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import pytest
import torch
from annotated_types import Ge, Lt
from torch import Tensor

from utils.config.messages import hint, nearest
from utils.config.registry import build, choose_loader
from utils.errors import ConfigError

if TYPE_CHECKING:
    from decimal import Decimal


class Net:
    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: Annotated[int, Ge(1)] = 3,
        backbone: str = "resnet50",
        pretrained: bool | str = True,
        scales: tuple[float, ...] = (1.0,),
        size: Annotated[int, Ge(32)] | tuple[int, int] | None = None,
        mode: Literal["fast", "slow"] = "fast",
        dropout: Annotated[float, Ge(0), Lt(1)],
    ):
        self.got = {key: value for key, value in locals().items() if key != "self"}


class Plain:
    def __init__(self, num_classes, in_channels=3, *, width=8):
        self.got = (num_classes, in_channels, width)


NETS = {"Net": Net, "Plain": Plain}
KNOWN = "backbone, dropout, in_channels, mode, pretrained, scales, size"

FAULTS = {
    "misspelt": (
        {"bacbone": "x"},
        f"arch.args.bacbone: unknown argument of Net; did you mean 'backbone'? Known: {KNOWN}",
    ),
    "unknown": ({"zzz": 1}, f"arch.args.zzz: unknown argument of Net. Known: {KNOWN}"),
    "of another": (
        {"width": 4},
        'arch.args.width: unknown argument of Net (but of Plain); delete the line "width": 4',
    ),
    "of the program": (
        {"num_classes": 4},
        (
            "arch.args.num_classes: set by the program, from the classes of the data set; delete "
            "it here"
        ),
    ),
    "range": ({"in_channels": 0}, "arch.args.in_channels: expected a number >= 1, got 0"),
    "number": ({"scales": [1, "x"]}, 'arch.args.scales[1]: expected a number, got "x"'),
    "no list": ({"scales": 1}, "arch.args.scales: expected a list in [ ], got 1"),
    "text": ({"backbone": 50}, "arch.args.backbone: expected text in quotes, got 50"),
    "true for a number": (
        {"in_channels": True},
        "arch.args.in_channels: expected an integer, got true",
    ),
    "fraction": ({"in_channels": 3.0}, "arch.args.in_channels: expected an integer, got 3.0"),
    "either": (
        {"pretrained": 1},
        "arch.args.pretrained: expected true or false or text in quotes, got 1",
    ),
    "one of three": (
        {"size": "big"},
        'arch.args.size: expected an integer or a list in [ ], got "big"',
    ),
    "choice": (
        {"mode": "fats"},
        "arch.args.mode: expected 'fast' or 'slow', got \"fats\"; did you mean 'fast'?",
    ),
    "not finite": (
        {"dropout": float("nan")},
        "arch.args.dropout: expected a finite number, got NaN",
    ),
}


def build_net(args, **supplied):
    return build("arch", NETS, "Net", args, num_classes=5, in_channels=4, **supplied)


@pytest.mark.parametrize(("args", "message"), FAULTS.values(), ids=FAULTS)
def test_a_wrong_argument_has_its_message(args, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        build_net({"dropout": 0.5} | args)


def test_all_faults_come_at_once():
    with pytest.raises(ConfigError) as caught:
        build_net({"size": 3, "zzz": 1, "dropuot": 1})
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "arch.args.size",
        "arch.args.zzz",
        "arch.args.dropuot",  # and nothing about the missing dropout, which it was meant to be
    ]


def test_an_unknown_name_is_answered_with_the_nearest():
    message = "arch.type: unknown name 'net'; did you mean 'Net'? Known: Net, Plain"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        build("arch", NETS, "net", {})


def test_not_every_owner_of_an_argument_is_listed():
    table = {"Net": Net} | {f"Plain{number}": Plain for number in range(5)}
    message = (
        "unknown argument of Net (but of Plain0, Plain1, Plain2, Plain3, ...); delete the line"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        build("arch", table, "Net", {"width": 4}, num_classes=5)
    del table["Plain4"]
    with pytest.raises(ConfigError, match=r"\(but of Plain0, Plain1, Plain2, Plain3\); delete"):
        build("arch", table, "Net", {"width": 4}, num_classes=5)


def test_a_missing_argument_is_named():
    with pytest.raises(ConfigError, match=r"^arch\.args\.dropout: missing; Net needs it$"):
        build_net({})


def test_what_the_program_passes_must_be_taken():
    message = (
        "arch.type: Net has no argument 'depth', which the program passes; add it to its signature"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        build_net({"dropout": 0}, depth=3)


def test_values_arrive_as_the_signature_wants_them():
    got = build_net({"dropout": 0, "scales": [1, 2.5], "size": [64, 32], "pretrained": "x.pth"}).got
    assert got["dropout"] == 0.0
    assert isinstance(got["dropout"], float)
    assert got["scales"] == (1.0, 2.5)
    assert got["size"] == (64, 32)
    assert (got["num_classes"], got["in_channels"], got["pretrained"]) == (5, 4, "x.pth")


def test_the_config_wins_where_it_may():
    assert build_net({"dropout": 0, "in_channels": 7}).got["in_channels"] == 7


def test_without_annotations_values_pass():
    net = build("arch", NETS, "Plain", {"width": [1, {"a": None}]}, num_classes=2)
    assert net.got == (2, 3, [1, {"a": None}])


def test_what_json_cannot_express_is_not_checked():
    def entry(a: Tensor, b: Callable[[int], int], c: float | Tensor, d: "Decimal"):
        return a, b, c, d

    def later(a: "Decimal", b: int):
        return a, b

    table = {"entry": entry, "later": later}
    assert build("loss", table, "entry", {"a": 1, "b": 2, "c": 3, "d": 4}) == (1, 2, 3, 4)
    assert build("loss", table, "later", {"a": "x", "b": "y"}) == ("x", "y")

    def union(c: float | Tensor, betas: tuple[float | Tensor, float]):
        return c, betas

    message = (
        'loss.args.c: expected a number, got "x"\nloss.args.betas[0]: expected a number, got []'
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        build("loss", {"union": union}, "union", {"c": "x", "betas": [[], 1]})


def test_torch_s_own_refusals_are_the_user_s():
    params = [torch.nn.Parameter(torch.zeros(2))]
    table = {"SGD": torch.optim.SGD}
    message = "optimizer.args: SGD refuses its arguments: Invalid momentum value: -1.0"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        build("optimizer", table, "SGD", {"momentum": -1}, params=params)


def test_our_own_value_errors_stay_bugs():
    def entry(a: int):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match=r"^a bug$"):
        build("loss", {"entry": entry}, "entry", {"a": 1})


class Data:
    def __init__(self, *, data_dir: str, split: Literal["train", "val"] = "train", seed: int):
        self.got = (data_dir, split, seed)


class Batches:
    def __init__(
        self, dataset: Sequence, *, batch_size: Annotated[int, Ge(1)], seed: int, rank: int
    ):
        self.got = (dataset, batch_size, seed, rank)


def test_a_loader_s_arguments_are_divided():
    args = {"batch_size": 4, "data_dir": "x", "split": "val"}
    data, batches = choose_loader("val_loader", {"Data": Data}, "Data", args, loader=Batches)
    assert data.args == {"data_dir": "x", "split": "val"}
    assert batches.args == {"batch_size": 4}
    assert data.build(seed=1).got == ("x", "val", 1)
    assert batches.build(dataset="abc", seed=1, rank=0).got == ("abc", 4, 1, 0)


def test_a_loader_s_faults_come_at_once():
    with pytest.raises(ConfigError) as caught:
        choose_loader(
            "val_loader",
            {"Data": Data},
            "Data",
            {"bach_size": 4, "split": "test", "rank": 1},
            loader=Batches,
        )
    assert str(caught.value).splitlines() == [
        (
            "val_loader.args.bach_size: unknown argument of Data; did you mean 'batch_size'? "
            "Known: batch_size, data_dir, split"
        ),
        "val_loader.args.split: expected 'train' or 'val', got \"test\"",
        "val_loader.args.rank: set by the program, from the process; delete it here",
        "val_loader.args.data_dir: missing; Data needs it",
    ]
    with pytest.raises(
        ConfigError, match=r"^val_loader\.type: unknown name 'Dat'; did you mean 'D"
    ):
        choose_loader("val_loader", {"Data": Data}, "Dat", {}, loader=Batches)


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("epoch", ["epochs", "seed"], "epochs"),
        ("pspnet", ["PSPNet", "UNet"], "PSPNet"),
        ("l", ["lr", "eps"], "lr"),
        ("rl", ["lr", "eps"], "lr"),
        ("lx", ["lr", "eps"], "lr"),
        ("batchsize", ["batch_size", "base_size"], "batch_size"),
        ("zebra", ["lr", "eps"], None),
        ("x", ["y"], None),
        ("rlq", ["lrz"], None),
        ("x", [], None),
    ],
)
def test_the_nearest_name_is_meant(name, known, expected):
    assert nearest(name, known) == expected


def test_a_hint_names_the_known():
    assert hint("x", ["b", "a"]) == ". Known: a, b"
    assert hint("epoch", ["epochs"]) == "; did you mean 'epochs'? Known: epochs"
    assert hint("x", []) == ". Known: (nothing)"


def test_the_registry_does_not_import_torch():
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in (Path(__file__).parent.parent / "utils" / "config").glob("*.py")
    )
    assert not re.search(r"^\s*(import|from) (torch|timm|numpy|cv2|PIL)", source, re.MULTILINE)

"""What is held out: a share, a fold, and whole groups of either."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataloaders.building import build_loaders, build_whole
from dataloaders.shapes import Shapes
from utils.config.config import parse_config
from utils.data.splits import fold_of, groups_of, share_of
from utils.errors import ConfigError, DataError
from utils.seeding import split_order

GROUPS = st.lists(st.integers(0, 9), min_size=2, max_size=60)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(groups=GROUPS, count=st.integers(2, 7), seed=st.integers(0, 99))
def test_folds_hold_each_sample_once_and_never_divide_a_group(groups, count, seed):
    folds = [fold_of(groups, index, count, seed=seed) for index in range(count)]
    assert sorted(place for fold in folds for place in fold) == list(range(len(groups)))
    for group in set(groups):
        assert sum(any(groups[place] == group for place in fold) for fold in folds) == 1
    sizes = [len(fold) for fold in folds]
    assert max(sizes) - min(sizes) <= max(Counter(groups).values())
    alone = [len(fold_of(range(len(groups)), index, count, seed=seed)) for index in range(count)]
    assert max(alone) - min(alone) <= 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(groups=GROUPS, share=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_a_share_takes_whole_groups_until_it_is_reached(groups, share, seed):
    chosen = share_of(groups, share, seed=seed)
    names = {groups[place] for place in chosen}
    assert chosen == [place for place, group in enumerate(groups) if group in names]
    over = len(chosen) - round(share * len(groups))
    assert over == 0 or 0 < over < max(Counter(groups).values())
    # Without groups it is the head of a permutation, as it was before there were groups.
    head = split_order(len(groups), seed=seed)[: round(share * len(groups))]
    assert share_of(range(len(groups)), share, seed=seed) == sorted(head.tolist())


def test_seeds_give_other_folds():
    assert len({tuple(fold_of(range(20), 0, 4, seed=seed)) for seed in range(5)}) == 5


def test_a_group_is_what_the_expression_finds():
    names = ["a/p1_x.png", "a/p1_y.png", "b/p12_x.png"]
    assert groups_of(names, r"p\d+") == ["p1", "p1", "p12"]
    assert groups_of(names, r"(\w+)/[^/]+$") == ["a", "a", "b"]
    with pytest.raises(DataError, match=re.escape('group: nothing in a/p1_x.png matches "q"')):
        groups_of(names, "q")
    with pytest.raises(ConfigError, match=re.escape('group: found "(", expected a regular expr')):
        groups_of(names, "(")


def test_the_loaders_and_the_evaluation_share_out_the_same_files(tmp_path):
    for patient in range(5):
        for view in range(patient + 1):
            for kind in ("images", "masks"):
                (tmp_path / kind).mkdir(exist_ok=True)
                pixels = np.random.default_rng(patient * 9 + view).integers(0, 2, (8, 8), np.uint8)
                Image.fromarray(pixels).save(tmp_path / kind / f"p{patient}_{view}.png")
    args = {"data_dir": str(tmp_path), "classes": ["a", "b"], "group": r"p\d+_", "batch_size": 2,
            "num_workers": 0, "augment": True, "crop_size": 4}  # fmt: skip
    validated = []
    for index in range(2):
        section = ("Folder", args | {"val_fold": [index, 2]})
        train, val = build_loaders(section, None, ignore_index=255, seed=3)
        sides = [sorted(loader.dataset.name(i) for i in range(len(loader.dataset)))
                 for loader in (train, val)]  # fmt: skip
        patients = [{re.search(r"p\d+_", name)[0] for name in side} for side in sides]
        assert not patients[0] & patients[1]
        assert train.dataset.augments
        assert not val.dataset.augments
        scored = build_whole("train_loader", *section, ignore_index=255, seed=3)
        assert sorted(scored.name(i) for i in range(len(scored))) == sides[1]
        validated += sides[1]
    assert len(validated) == len(set(validated)) == 15
    assert {len(side) for side in sides} == {7, 8}
    with pytest.raises(ConfigError, match=r"val_loader\.args\.val_fold: a share is held out of"):
        build_loaders(("Folder", args | {"group": None}), section, ignore_index=255, seed=3)


@pytest.mark.parametrize(("settings", "message"), [
    ({"val_fold": (0, 2), "val_split": 0.5}, "val_fold: found beside val_split"),
    ({"val_fold": (5, 5)}, "val_fold: found index 5 of 5, expected 0 to 4"),
    ({"group": "x"}, "group: has no effect without val_split or val_fold"),
])  # fmt: skip
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Shapes(length=10, **settings)


def test_one_group_leaves_nothing_to_train_on_or_nothing_to_validate():
    for fold, what in ((0, "train on"), (1, "validate")):
        with pytest.raises(DataError, match=f"val_fold: a fold of 4 images .* {what}"):
            Shapes(length=4, val_fold=(fold, 2), group="shapes").split_off()


def test_a_fold_beside_a_run_without_validation_is_refused():
    config = {
        "name": "x",
        "arch": {"type": "ENet"},
        "train_loader": {"type": "Shapes", "args": {"batch_size": 1, "val_fold": [0, 5]}},
    }
    assert parse_config(config).val_loader is None
    with pytest.raises(ConfigError, match="delete val_fold, or validate"):
        parse_config({**config, "trainer": {"val": False}})

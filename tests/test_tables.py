"""What every entry of a table has in common: a signature that a config can be checked against."""

import inspect

import pytest

from base.base_data_loader import BaseDataLoader
from dataloaders import DATASETS
from models import MODELS
from utils.config.signatures import SUPPLIED, offered_arguments
from utils.losses.table import LOSSES
from utils.optim.lr_scheduler import SCHEDULERS
from utils.optim.optimizers import OPTIMIZERS

TABLES = {
    "MODELS": MODELS,
    "DATASETS": DATASETS,
    "LOSSES": LOSSES,
    "SCHEDULERS": SCHEDULERS,
    "OPTIMIZERS": OPTIMIZERS,
}
ENTRIES = [(table, name) for table, entries in TABLES.items() for name in entries]


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_no_entry_swallows_arguments(table, name):
    kinds = {p.kind for p in inspect.signature(TABLES[table][name]).parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_every_argument_of_an_entry_is_checked(table, name):
    factory = TABLES[table][name]
    loader = offered_arguments(BaseDataLoader) if table == "DATASETS" else {}
    for key, argument in (offered_arguments(factory) | loader).items():
        assert argument.checker is not None, (
            f"{name}: {key} has an annotation that JSON cannot meet"
        )
        assert key not in SUPPLIED


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_what_each_config_may_say(name):
    arguments = offered_arguments(MODELS[name])
    assert {"in_channels", "pretrained", "freeze_bn", "freeze_backbone"} <= arguments.keys()
    assert next(iter(inspect.signature(MODELS[name]).parameters)) == "num_classes"

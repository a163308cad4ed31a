"""`"normalize": "weights"` takes the statistics that the encoder's weights were trained with."""

import logging

import pytest
import timm
import torch
from conftest import tiny_config
from training import trainer_of

from dataloaders import DATASETS
from models import MODELS
from models.input_statistics import take_statistics, weight_statistics
from utils.config.registry import choose
from utils.data.normalize import mean_color
from utils.errors import ConfigError

CONFIGURATION = timm.models.get_pretrained_cfg("test_vit.r160_in1k")
STATISTICS = (CONFIGURATION.mean, CONFIGURATION.std)
LINEAR = {"backbone": "test_vit", "pretrained": False}


def shapes(**arguments):
    return DATASETS["Shapes"](height=32, width=32, length=2, **arguments)


def test_both_loaders_and_the_run_take_them(tmp_path):
    config = {**tiny_config(tmp_path), "normalize": "weights"}
    config["arch"] = {"type": "Linear", "args": LINEAR}
    trainer = trainer_of(config)
    white = trainer.normalize(torch.full((1, 3, 1, 1), 255.0)).flatten().tolist()
    pairs = zip(*STATISTICS, strict=True)
    assert white == pytest.approx([(1 - mean) / std for mean, std in pairs], rel=1e-5)
    for loader in (trainer.parts.train_loader, trainer.parts.val_loader):
        assert (loader.dataset.mean, loader.dataset.std) == STATISTICS
        assert loader.dataset.border == mean_color(STATISTICS[0], "uint8")
    assert trainer.state()["mean"] == STATISTICS[0]  # what evaluation and inference read


def test_left_out_nothing_changes_and_a_large_difference_is_said(caplog):
    caplog.set_level(logging.INFO, "segmentation")
    data = shapes()
    own = (data.mean, data.std)
    near = tuple(tuple(value + 0.09 for value in values) for values in own)
    take_statistics([data], near, asked=False)
    assert caplog.messages == []
    far = (own[0], tuple(value + 0.11 for value in own[1]))
    take_statistics([data], far, asked=False)
    assert '"normalize": "weights"' in caplog.text
    assert (data.mean, data.std) == own


def test_weights_that_are_not_loaded_have_none_unless_they_are_asked_for():
    linear, unet = choose("arch", MODELS, "Linear", LINEAR), choose("arch", MODELS, "UNet", {})
    assert weight_statistics(linear, asked=False) is None
    assert weight_statistics(linear.but(pretrained=True), asked=False) == STATISTICS
    assert weight_statistics(linear, asked=True) == STATISTICS
    assert weight_statistics(unet, asked=False) is None
    with pytest.raises(ConfigError, match="normalize: UNet has no encoder with weights"):
        weight_statistics(unet, asked=True)


def test_images_of_other_channels_are_refused():
    take_statistics([shapes()], ((0.5,) * 5, (0.5,) * 5), asked=False)
    with pytest.raises(ConfigError, match="saw images of 5 channels, these have 3"):
        take_statistics([shapes()], ((0.5,) * 5, (0.5,) * 5), asked=True)

"""Normalization equals its formula, for every dtype and layout, and leaves its input alone."""

import numpy as np
import pytest
import torch

from utils.data.normalize import FULL_SCALE, Normalize


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", FULL_SCALE)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_it_equals_the_formula(channels, dtype, layout):
    rng = np.random.default_rng(channels)
    full = FULL_SCALE[dtype]
    pixels = (rng.random((2, channels, 7, 9)) * full).astype(dtype)
    mean, std = rng.random(channels), rng.random(channels) + 0.1
    images = torch.from_numpy(pixels).to(memory_format=layout)
    before = images.clone()
    normal = Normalize(mean.tolist(), std.tolist(), input_dtype=dtype)(images)
    shape = (channels, 1, 1)
    expected = (pixels.astype(np.float64) / full - mean.reshape(shape)) / std.reshape(shape)
    assert normal.dtype == torch.float32
    assert np.abs(normal.numpy() - expected).max() < 1e-5
    assert normal.is_contiguous(memory_format=layout)
    assert torch.equal(images, before)

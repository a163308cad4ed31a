"""The memory ladder: faults are injected, the answer stays."""

import pytest
import torch

from utils.errors import ResourceError
from utils.inference.ladder import SmallerBatches
from utils.inference.predictor import Predictor, Settings


class Limited:
    """A pointwise model with room for so many pixels a call."""

    def __init__(self, pixels, *, fault=torch.OutOfMemoryError):
        self.pixels = pixels
        self.fault = fault
        self.seen = []

    def __call__(self, images):
        self.seen.append(tuple(images.shape))
        if images.shape[0] * images.shape[2] * images.shape[3] > self.pixels:
            raise self.fault("CUDA out of memory. Tried to allocate a lot")
        return torch.cat([images, 1 - images, images.square()], dim=1)


def logits(predictor, images):
    return predictor.ladder.within_memory(lambda: predictor.logits(images), images.shape[-2:])


IMAGES = torch.rand(1, 2, 300, 260)
MODES = ["whole", "multiscale", "sliding"]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_the_answer_survives_every_rung(mode, flip):
    settings = Settings(mode=mode, flip=flip, scales=None if mode == "whole" else (1.0, 1.5))
    plenty = Predictor(Limited(10**9), settings, say=str)
    expected = logits(plenty, IMAGES)
    for pixels in (200_000, 150_000, 60_000, 20_000):
        said = []
        predictor = Predictor(Limited(pixels), settings, say=said.append)
        found = logits(predictor, IMAGES)
        assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.99
        torch.testing.assert_close(
            found.softmax(1),
            expected.softmax(1),
            rtol=0,
            atol=2e-2 if mode != "whole" else 1e-5,
        )
        assert len(set(said)) == len(said), "a step was said twice"
        again = len(said)
        logits(predictor, IMAGES)
        assert len(said) == again, "what was learned was forgotten"


def test_the_order_is_batch_then_windows_then_host():
    said = []
    settings = Settings(mode="sliding", window=512, batch_size=4)
    predictor = Predictor(Limited(1), settings, say=said.append)
    with pytest.raises(
        ResourceError, match="even with windows of 128 pixels, one at a time"
    ) as caught:
        logits(predictor, torch.rand(1, 2, 600, 2000))
    assert "2000 x 600" in str(caught.value)
    assert said == [
        "out of memory: from here on 2 image(s) a call of the model",
        "out of memory: from here on 1 image(s) a call of the model",
        "out of memory: from here on windows of 256 pixels",
        "out of memory: from here on windows of 128 pixels",
        "out of memory: from here on windows of 512 pixels, sums kept on the host",
        "out of memory: from here on windows of 256 pixels, sums kept on the host",
        "out of memory: from here on windows of 128 pixels, sums kept on the host",
    ]


def test_whole_images_fall_back_to_windows():
    said = []
    model = Limited(2 * 256 * 256)
    predictor = Predictor(model, Settings(mode="whole"), say=said.append)
    found = logits(predictor, torch.rand(1, 2, 700, 900))
    assert found.shape[-2:] == (700, 900)
    assert said == [
        "out of memory: from here on windows of 512 pixels",
        "out of memory: from here on 1 image(s) a call of the model",
        "out of memory: from here on windows of 256 pixels",
    ]


def test_sums_on_the_host_when_the_device_cannot_hold_them(monkeypatch):
    """The sums do not fit on the device: everything but the model moves to the host."""
    import utils.inference.predictor as module

    real = module.sliding

    def sliding(model, images, *, store, **options):
        if store is None:
            raise torch.OutOfMemoryError("CUDA out of memory: the sums")
        return real(model, images, store=store, **options)

    monkeypatch.setattr(module, "sliding", sliding)
    said = []
    predictor = Predictor(Limited(10**9), Settings(mode="sliding"), say=said.append)
    assert logits(predictor, IMAGES).shape[-2:] == (300, 260)
    assert said[-1] == "out of memory: from here on windows of 512 pixels, sums kept on the host"


def test_other_faults_pass():
    def broken(_images):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    predictor = Predictor(broken, Settings(mode="whole"), say=str)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        logits(predictor, IMAGES)


def test_batches_are_halved_and_remembered():
    said = []
    model = Limited(3 * 64 * 64)
    batches = SmallerBatches(model, say=said.append)
    images = torch.rand(8, 2, 64, 64)
    expected = Limited(10**9)(images)
    assert torch.equal(batches(images), expected)
    assert said == [
        "out of memory: from here on 4 image(s) a call of the model",
        "out of memory: from here on 2 image(s) a call of the model",
    ]
    model.seen.clear()
    assert torch.equal(batches(images), expected)
    assert [shape[0] for shape in model.seen] == [2, 2, 2, 2]


def test_defaults_of_each_mode():
    assert Settings().used_scales == (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    assert Settings(mode="sliding").used_scales == (1.0,)
    assert Settings(mode="sliding").used_window == 512
    assert Settings().used_window is None
    assert Settings(mode="whole").used_scales == (1.0,)
    assert not Settings().flip

"""Every pixel lands where it belongs: a fake model answers with its own coordinates."""

import random
from functools import partial

import pytest
import torch
from small_models import VARIANTS, build_small, images

from utils.inference.prediction import SCALES, mirrored, multiscale, sliding, whole
from utils.inference.tiles import BandSums, axis, grid

random.seed(0)
SIZES = [(1, 1), (1, 90), (33, 1), (32, 32), (100, 31)] + [
    (random.randint(1, 90), random.randint(1, 90)) for _ in range(295)
]


def coordinates(height, width, number=1):
    """(N, 2, H, W): row and column of each pixel, and a hundred more for each further image."""
    down = torch.arange(height).float()[:, None].expand(height, width)
    right = torch.arange(width).float()[None].expand(height, width)
    image = torch.stack([down, right])
    return torch.stack([image + 100 * index for index in range(number)])


def echo(images):
    assert min(images.shape[-2:]) >= 32, "a model was given less than it needs"
    return images


@pytest.mark.parametrize("number", [1, 2])
def test_whole_keeps_every_pixel_in_place(number):
    for height, width in SIZES:
        images = coordinates(height, width, number)
        assert torch.equal(whole(echo, images), images)


def test_small_images_are_continued_by_their_mirror_image():
    seen = []

    def model(images):
        seen.append(images)
        return images

    whole(model, coordinates(3, 40))
    rows = seen[0][0, 0, :, 0].int().tolist()
    assert rows == [0, 1, 2, 1] * 8
    whole(model, coordinates(1, 2))
    assert seen[1].shape == (1, 2, 32, 32)


def test_sliding_keeps_every_pixel_in_place():
    generator = random.Random(1)
    for height, width in SIZES:
        number = generator.choice([1, 1, 3])
        images = coordinates(height, width, number)
        logits = sliding(
            echo,
            images,
            window=(generator.randint(1, 120), generator.randint(1, 120)),
            overlap=generator.choice([0, 0.1, 1 / 3, 0.5, 0.8]),
            blend=generator.choice(["hann", "gaussian", "constant"]),
            batch_size=generator.randint(1, 9),
        )
        assert logits.shape == images.shape
        torch.testing.assert_close(logits, images, rtol=0, atol=1e-3)


@pytest.mark.parametrize("predict", [whole, partial(sliding, window=48)], ids=["whole", "sliding"])
def test_multiscale_keeps_every_pixel_in_place(predict):
    for height, width in SIZES:
        images = coordinates(height, width)
        logits = multiscale(echo, images, scales=(0.75, 1.0, 2.0), predict=predict)
        assert logits.shape == images.shape
        assert (logits - images).abs().max() < 0.5


def test_multiscale_does_not_shift_at_any_default_scale():
    images = coordinates(80, 61)
    for scale in SCALES:
        inner = (multiscale(echo, images, scales=[scale]) - images)[..., 2:-2, 2:-2]
        assert inner.abs().max() < 1e-3, scale


def test_mirrored_averages_both_sides_in_place():
    images = coordinates(40, 50, 2)
    torch.testing.assert_close(mirrored(echo)(images), images)

    def left_is_high(images):
        return images + torch.linspace(1, 0, images.shape[-1])

    logits = mirrored(left_is_high)(images)
    torch.testing.assert_close(logits, images + 0.5)


def test_flip_inside_sliding_inside_multiscale():
    images = coordinates(70, 45)
    predict = partial(sliding, window=40, overlap=0.5)
    logits = multiscale(mirrored(echo), images, scales=(1.0, 1.5), predict=predict)
    assert (logits - images).abs().max() < 0.5


@pytest.mark.parametrize("blend", ["hann", "gaussian", "constant"])
def test_blending_weights_sum_to_one(blend):
    generator = random.Random(2)
    for _ in range(300):
        size, window = generator.randint(1, 700), generator.randint(1, 300)
        side = axis(size, window=window, overlap=generator.random() * 0.9, blend=blend)
        total = torch.zeros(size)
        for start, weights in zip(side.starts, side.weights, strict=True):
            assert start >= 0
            assert start + side.window <= size
            total[start : start + side.window] += weights
        torch.testing.assert_close(total, torch.ones(size), rtol=0, atol=1e-5)


@pytest.mark.parametrize("blend", ["hann", "gaussian"])
def test_no_seam_on_a_smooth_field(blend):
    def uneven(images):
        """As networks do, it answers differently near the border of what it sees."""
        side = torch.linspace(-1, 1, images.shape[-1]).square()
        return images / 40 + 8 * side + 8 * side[:, None]

    images = coordinates(300, 300)
    logits = sliding(uneven, images, window=96, overlap=1 / 3, blend=blend)
    side = axis(300, window=96, overlap=1 / 3, blend=blend)
    borders = {edge for start in side.starts for edge in (start, start + 96)} - {0, 300}
    for dimension in (2, 3):
        steps = logits.diff(dim=dimension).abs().amax(dim=(0, 1, 5 - dimension))
        at_border = torch.zeros(299, dtype=torch.bool)
        at_border[[border - 1 for border in borders]] = True
        assert steps[at_border].max() <= steps[~at_border].max()
    plain = sliding(uneven, images, window=96, overlap=1 / 3, blend="constant")
    steps = plain.diff(dim=2).abs().amax(dim=(0, 1, 3))
    assert steps[at_border].max() > steps[~at_border].max(), "the field would not show a seam"


def test_a_window_as_large_as_the_image_is_whole():
    images = coordinates(60, 90)
    seen = []

    def model(images):
        seen.append(images.shape)
        return images.cos()

    assert torch.allclose(sliding(model, images, window=500), whole(model, images))
    assert seen == [(1, 2, 60, 90), (1, 2, 60, 90)]


@pytest.mark.parametrize("name", ["Linear", *VARIANTS])
def test_one_window_is_whole_on_every_kind_of_encoder(name):
    model = build_small(name).eval()
    batch = images(65, 97, count=1)
    with torch.no_grad():
        expected = whole(model, batch)
        found = sliding(model, batch, window=97)
    assert torch.allclose(found, expected, atol=1e-6 * expected.abs().max().item())


def test_windows_are_batched_and_shifted_inside():
    seen = []

    def model(images):
        seen.append(images.shape[0])
        return images

    images = coordinates(100, 300)
    sliding(model, images, window=64, overlap=1 / 3, batch_size=4)
    # Width: 0 43 86 129 172 215 236; height: 0 36. Seven windows a row, two rows.
    assert seen == [4, 3, 4, 3]
    assert axis(300, window=64, overlap=1 / 3, blend="hann").starts[-2:] == (215, 236)


def test_logits_are_float32_before_they_are_averaged():
    def half(images):
        return images.to(torch.bfloat16)

    for predict in (whole, multiscale, sliding, lambda m, x: whole(mirrored(m), x)):
        assert predict(half, coordinates(40, 40)).dtype == torch.float32


def test_a_model_may_answer_with_a_tensor_that_it_keeps():
    kept = torch.ones(1, 3, 40, 40)
    for predict in (partial(multiscale, scales=[1.0, 1.0]), sliding):
        logits = predict(lambda _images: kept, coordinates(40, 40))
        torch.testing.assert_close(logits, torch.ones(1, 3, 40, 40))
    assert torch.equal(kept, torch.ones(1, 3, 40, 40))


def test_any_number_of_channels_and_classes():
    images = torch.rand(2, 5, 50, 40)

    def model(images):
        return images[:, :1].repeat(1, 7, 1, 1)

    for predict in (whole, multiscale, partial(sliding, window=33)):
        assert predict(model, images).shape == (2, 7, 50, 40)


@pytest.mark.parametrize("overlap", [0, 1 / 3, 0.7])
def test_bands_taken_up_again_give_the_same_bits(overlap):
    images = torch.rand(1, 3, 150, 70)
    windows = grid((150, 70), window=32, overlap=overlap)

    def run(begin):
        sums, found = BandSums(windows), {}
        for row, top in enumerate(windows.rows.starts):
            if top + 32 > begin:
                for columns, batch in windows.cut(images[:, :, top : top + 32], 2):
                    sums.add(row, columns, batch.sin())
                rows = sums.finished(row).clone()
                found |= {top: rows} if top >= begin else {}
        return found

    full = run(0)
    assert sum(rows.shape[2] for rows in full.values()) == 150
    for begin in list(full)[1:]:
        again = run(begin)
        assert list(again) == [top for top in full if top >= begin]
        assert all(torch.equal(rows, full[top]) for top, rows in again.items())


@pytest.mark.parametrize("scales", [(), (0.0, 1.0), (-1.0,)])
def test_scales_that_make_no_sense_are_refused(scales):
    with pytest.raises(ValueError, match="scales must be above zero"):
        multiscale(echo, coordinates(40, 40), scales=scales)


@pytest.mark.parametrize(("size", "window", "overlap"), [(0, 5, 0.1), (5, 0, 0.1), (5, 5, 1.0)])
def test_windows_that_make_no_sense_are_refused(size, window, overlap):
    with pytest.raises(ValueError, match="needed 1"):
        axis(size, window=window, overlap=overlap, blend="hann")

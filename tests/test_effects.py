"""What happens to the colors of a sample."""

import colorsys
import re

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from base.augmentation import AT_REST
from dataloaders.folder import Folder
from dataloaders.shapes import Shapes
from utils.data import effects
from utils.errors import ConfigError
from utils.seeding import effect_generator, sample_generator


def test_every_blur_has_an_effect_and_half_of_the_samples_are_blurred():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
    softened = []
    for index in range(600):
        blurred = effects.random_blur(image.copy(), sample_generator(0, 0, index))
        if (blurred != image).any():
            softened.append(blurred.std() / image.std())
    assert 0.44 < len(softened) / 600 < 0.56
    assert max(softened) < 0.85  # sigma 0.5, the weakest
    assert min(softened) < 0.25  # sigma 1.5, the strongest


def test_blur_of_one_channel_keeps_the_axis():
    image = np.random.default_rng(0).integers(0, 60000, (20, 20, 1)).astype(np.uint16)
    shapes = {effects.random_blur(image.copy(), sample_generator(0, 0, i)).shape for i in range(8)}
    assert shapes == {(20, 20, 1)}


def test_jitter_stays_in_range_and_leaves_the_pivot():
    pivot = (100.0, 110.0, 120.0)
    flat = np.full((4, 4, 3), pivot, np.uint8)
    ratios = []
    for index in range(800):
        changed = effects.random_jitter(flat, sample_generator(0, 0, index), jitter=0.2,
                                           pivot=pivot)  # fmt: skip
        ratios.append(changed[0, 0].astype(float).sum() / sum(pivot))
    # Contrast leaves the mean color alone, saturation its luma: brightness remains.
    assert min(ratios) < 0.83
    assert max(ratios) > 1.17
    assert min(ratios) >= 0.79
    assert max(ratios) <= 1.21


def test_jitter_changes_contrast_and_saturation():
    image = np.array([[[50, 100, 150], [200, 100, 50]]], np.uint8)
    contrasts, saturations = [], []
    for index in range(300):
        changed = effects.random_jitter(image, sample_generator(0, 0, index), jitter=0.3,
                                           pivot=(100.0,) * 3).astype(float)  # fmt: skip
        luma = changed @ np.array(effects.GRAY)
        saturations.append(np.ptp(changed[0, 0]) / luma.mean())
        contrasts.append(abs(luma[0, 0] - luma[0, 1]))
    assert np.ptp(contrasts) > 10
    assert np.ptp(saturations) > 0.5


def test_jitter_of_five_channels_saturates():
    image = np.full((2, 2, 5), 65000, np.uint16)
    changed = [
        effects.random_jitter(image, sample_generator(0, 0, i), jitter=0.5, pivot=(30000.0,) * 5)
        for i in range(20)
    ]
    assert max(c.max() for c in changed) == 65535
    assert changed[0].dtype == np.uint16


MEAN, STD = (100.0, 110.0, 120.0), (30.0, 40.0, 50.0)
PIXELS = np.random.default_rng(0).integers(60, 190, (40, 50, 3)).astype(np.uint8)


def apply(name, amount, image=PIXELS, *, seed=0, mean=MEAN, std=STD):
    """Apply one effect; also returns by how much it says it changed, from the same generator."""
    draw = effects.Draw(amount, effect_generator(name, 0, 0, seed), mean, std)
    twin = effects.Draw(amount, effect_generator(name, 0, 0, seed), mean, std)
    return effects.EFFECTS[name](image, draw), twin.change()


def both(check):
    """Run a check on a draw below and one above no change."""
    changes = [check(seed) for seed in range(4)]
    assert min(changes) < -0.05
    assert max(changes) > 0.05


def test_brightness_and_saturation_are_those_of_pillow():
    def check(seed, name, kind):
        changed, change = apply(name, 0.4, seed=seed)
        theirs = np.asarray(kind(Image.fromarray(PIXELS)).enhance(1 + change))
        assert np.abs(changed.astype(int) - theirs).max() <= 1
        return change

    both(lambda seed: check(seed, "brightness", ImageEnhance.Brightness))
    both(lambda seed: check(seed, "saturation", ImageEnhance.Color))


def test_contrast_is_about_the_mean_of_the_data():
    def check(seed):
        changed, change = apply("contrast", 0.4, seed=seed)
        expected = (PIXELS - np.array(MEAN)) * (1 + change) + MEAN
        assert np.abs(changed - expected.clip(0, 255)).max() <= 0.5 + 1e-6
        return change

    both(check)


def test_hue_turns_the_colors_of_analog_television():
    def check(seed):
        image = np.random.default_rng(1).uniform(0.4, 0.6, (4, 5, 3)).astype(np.float32)
        changed, change = apply("hue", 0.5, image, seed=seed)
        turn = np.exp(2j * np.pi * change)
        for before, after in zip(image.reshape(-1, 3), changed.reshape(-1, 3), strict=True):
            luma, i, q = colorsys.rgb_to_yiq(*before.tolist())
            turned = complex(q, i) * turn  # I and Q are V and U turned by 33 degrees
            expected = (turned.imag, turned.real)
            found = colorsys.rgb_to_yiq(*after.tolist())
            assert abs(found[0] - luma) < 0.002
            assert np.abs(np.subtract(found[1:], expected)).max() < 0.003
        assert np.allclose(changed @ effects.GRAY, image @ effects.GRAY, atol=1e-5)
        return change

    both(check)


@pytest.mark.parametrize(("dtype", "low", "high"), [
    (np.uint8, 0, 255), (np.uint16, 0, 65535), (np.float32, -3.0, 5.0),
])  # fmt: skip
def test_gamma_is_a_power_of_the_full_scale(dtype, low, high):
    image = np.linspace(low, high, 300).astype(dtype).reshape(30, 10, 1)

    def check(seed):
        changed, change = apply("gamma", 0.4, image, seed=seed)
        power = ((image.astype(float) - low) / (high - low)) ** (1 + change)
        error = np.abs(changed - (low + (high - low) * power)).max()
        assert error <= (1e-5 if dtype == np.float32 else 0.5 + 1e-6)
        return change

    both(check)
    flat = np.full((3, 3, 1), high, dtype)
    assert (apply("gamma", 0.4, flat)[0] == flat).all()


def test_noise_is_in_standard_deviations_of_each_channel():
    image = np.full((60, 60, 3), 128, np.uint8)
    noises = [apply("noise", 0.5, image, seed=seed)[0] - 128.0 for seed in range(60)]
    strengths = np.array([noise.std((0, 1)) / STD for noise in noises])
    assert np.ptp(strengths, axis=1).max() < 0.05
    assert 0.45 < strengths.max() <= 0.52
    assert abs(strengths.mean() - 0.25) < 0.06
    assert abs(np.mean(noises)) < 0.1


def test_a_hole_is_one_rectangle_of_the_mean_color_anywhere():
    seen = np.zeros((40, 50), int)
    sides = []
    for seed in range(200):
        hole = (apply("cutout", 0.5, seed=seed)[0] != PIXELS).any(2)
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        sides.append((len(rows), len(columns)))
        if hole.any():
            box = np.ix_(range(rows[0], rows[-1] + 1), range(columns[0], columns[-1] + 1))
            assert hole[box].mean() > 0.97  # but for pixels of that very color
            assert (apply("cutout", 0.5, seed=seed)[0][hole] == MEAN).all()
        seen += hole
    assert np.max(sides, axis=0).tolist() == [20, 25]
    assert all(edge.any() for edge in (seen[0], seen[-1], seen[:, 0], seen[:, -1]))
    assert (seen[10:30, 10:40] > 0).all()


@pytest.mark.parametrize("name", effects.EFFECTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_effects_keep_shape_and_dtype_and_their_input(name, dtype, channels):
    if name in ("saturation", "hue") and channels != 3:
        return
    image = (np.random.default_rng(0).random((20, 30, channels)) * 250).astype(dtype)
    before = image.copy()
    facts = {"mean": (100.0,) * channels, "std": (50.0,) * channels}
    results = [apply(name, 0.5, image, seed=seed, **facts)[0] for seed in range(3)]
    assert {(one.shape, one.dtype) for one in results} == {(image.shape, image.dtype)}
    assert (image == before).all()
    assert all((one != image).any() for one in results)
    assert all(np.isfinite(one).all() for one in results)


STRENGTHS = dict.fromkeys(effects.EFFECTS, 0.4)


def test_each_setting_draws_from_its_own_stream():
    old = {"augment": True, "crop_size": 64, "flip": True, "rotate": True, "blur": True}
    plain = Shapes(**old)
    for name in STRENGTHS:
        alone, all_others = Shapes(**old, **{name: 0.4}), Shapes(**old, **(STRENGTHS | {name: 0}))
        sample = alone[(3, 5)]
        assert (sample.mask == plain[(3, 5)].mask).all()
        assert (sample.image != plain[(3, 5)].image).any()
        assert (sample.image != alone[(4, 5)].image).any()
        assert (sample.image == Shapes(**old, **{name: 0.4})[(3, 5)].image).all()
        every = Shapes(**old, **STRENGTHS)[(3, 5)].image
        assert (every != all_others[(3, 5)].image).any()
    holes = Shapes(**old, cutout=0.4)[(3, 5)].image != plain[(3, 5)].image
    assert 0 < holes.mean() < 0.4**2  # what blur, and nothing else, did is as it was


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter_beside_one_of_its_parts_is_refused(name):
    with pytest.raises(ConfigError, match=f'jitter: changes .*, and so does "{name}"\n  fix'):
        Shapes(augment=True, jitter=0.2, **{name: 0.1})
    Shapes(augment=True, jitter=0.2, hue=0.1)


@pytest.mark.parametrize("name", [*effects.EFFECTS, "vertical_flip", "rotate90", "rotate_range"])
@pytest.mark.parametrize("rest", [{}, {"val": True, "augment": True}])
def test_a_setting_without_effect_is_refused(name, rest):
    value = {"rotate_range": (-5, 5)}.get(name, AT_REST.get(name) is False or 0.3)
    with pytest.raises(ConfigError, match=f'{name}: has no effect without "augment"'):
        Shapes(**rest, **{name: value}, rotate=True)
    Shapes(augment=True, **{name: value}, rotate=True)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"jitter": 0.2}, 'jitter: has no effect without "augment"'),
        (
            {"scale_range": (0.9, 1.1), "augment": True, "crop_size": 64},
            'scale_range: has no effect without "augment" and "base_size" and "scale"',
        ),
    ],
)
def test_jitter_and_scales_without_effect_are_refused(args, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        Shapes(**args)
    Shapes(**args | {"augment": True, "base_size": 64})


def test_hue_needs_rgb(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / folder / "a.png")
    with pytest.raises(ConfigError, match="saturation, hue: are of RGB images, and these have 1"):
        Folder(data_dir=str(tmp_path), classes=("a", "b"), mean=(0.5,), std=(0.2,), augment=True,
               hue=0.1)  # fmt: skip

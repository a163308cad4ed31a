import itertools
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataloaders.shapes import Shapes
from utils.data import transforms
from utils.errors import ConfigError
from utils.seeding import sample_generator

VOID = -1
STEP = 32  # image values per pixel of the ramps


def draw(seed, height, width, *, upended=False, turns=0, **options):
    knobs = {
        "base_size": None,
        "crop_size": None,
        "scale_range": None,
        "rotate_range": None,
        "flip": False,
    }
    size = (width, height) if turns % 2 else (height, width)
    view = transforms.training_view(*size, rng=np.random.default_rng(seed), **(knobs | options))
    return view._replace(source=(height, width), upended=upended, turns=turns).geometry()


def grown(mask):
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def test_a_signed_mask_is_warped_as_an_unsigned_one():
    """OpenCV has ways of its own for int16: 4.13.0 takes nearly every pixel from elsewhere."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 150, (120, 160)).astype(np.uint8)
    for seed in range(20):
        geometry = draw(seed, 120, 160, base_size=160, crop_size=150, scale_range=(0.5, 2),
                        rotate_range=(-10, 10), flip=True)  # fmt: skip
        expected = transforms.warp_mask(mask, geometry, 255).astype(np.int16)
        for void in (255, VOID, -32768, 300):
            warped = transforms.warp_mask(mask.astype(np.int16), geometry, void)
            assert warped.dtype == np.int16
            assert np.array_equal(warped, np.where(expected == 255, void, expected))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(8, 150),
    width=st.integers(8, 150),
    base_size=st.none() | st.integers(8, 160),
    crop_size=st.none() | st.integers(8, 120),
    scale=st.booleans(),
    rotate=st.booleans(),
    flip=st.booleans(),
    validation=st.booleans(),
    upended=st.booleans(),
    turns=st.integers(0, 3),
)
def test_an_image_made_from_its_mask_stays_equal_to_it(
    seed, height, width, base_size, crop_size, scale, rotate, flip, validation, upended, turns
):
    """Masks hold the pixel's row and column; the image holds the same numbers times STEP."""
    if validation and crop_size is not None:
        geometry = transforms.validation_geometry(height, width, crop_size=crop_size)
    else:
        geometry = draw(
            seed, height, width, base_size=base_size, crop_size=crop_size,
            scale_range=(0.5, 2.0) if scale else None, rotate_range=(-10, 10) if rotate else None,
            flip=flip, upended=upended, turns=turns,
        )  # fmt: skip
    rows, columns = np.mgrid[:height, :width].astype(np.int16)
    image = np.stack([rows, columns, rows, columns], axis=2).astype(np.uint16) * STEP
    border = (60000.0,) * 4
    warped = transforms.warp_image(image, geometry, border)
    turned = [transforms.warp_mask(mask, geometry, VOID) for mask in (rows, columns)]
    outside = turned[0] == VOID
    assert (outside == (turned[1] == VOID)).all()
    # The outermost half pixel of the source blends with the border.
    inside = ~outside & (away(turned[0], height) > 0) & (away(turned[1], width) > 0)
    for channel in (0, 1):
        assert turned[channel].shape == geometry.size == warped.shape[:2]
        error = warped[..., channel] / STEP - turned[channel]
        assert np.abs(error[inside]).max(initial=0) <= 0.5 + 2 / STEP
    # A pixel outside the source, give or take OpenCV's 1/32, nothing of it can show.
    down, across = np.indices(geometry.size)
    places = np.tensordot(geometry.matrix, np.stack([across, down, np.ones_like(down)]), 1)
    last = np.array([width - 1, height - 1]).reshape(2, 1, 1)
    far = np.maximum(-places, places - last).max(axis=0) > 1 + 2 / 32
    assert outside[far].all()
    assert (warped[far] == 60000).all()


def away(turned, side):
    """Distance of a label from the first and last row (or column) of the source."""
    return np.minimum(turned, side - 1 - turned)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    height=st.integers(8, 120), width=st.integers(8, 120), crop=st.integers(8, 120),
    fraction=st.floats(0.3, 3),
)  # fmt: skip
def test_scale_and_crop_equal_a_resize_and_a_cut(height, width, crop, fraction):
    rng = np.random.default_rng(height * width)
    mask = rng.integers(0, 20, (height, width)).astype(np.uint8)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.uint8), (5, 5), 2)
    longest = max(1, round(max(height, width) * fraction))
    geometry = draw(7, height, width, base_size=longest, crop_size=crop)
    canvas = [max(1, round(side * longest / max(height, width))) for side in (height, width)]
    resized = cv2.resize(mask, canvas[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    blurred = cv2.resize(smooth, canvas[::-1], interpolation=cv2.INTER_LINEAR)
    top, left = offset_of(geometry, canvas)
    cut = np.full((crop, crop), 255, np.uint8)
    picture = np.full((crop, crop, 3), 99, np.uint8)
    target = tuple(slice(max(0, -at), max(0, -at) + min(crop, side)) for at, side in
                   zip((top, left), canvas, strict=True))  # fmt: skip
    source = tuple(slice(max(0, at), max(0, at) + min(crop, side)) for at, side in
                   zip((top, left), canvas, strict=True))  # fmt: skip
    cut[target], picture[target] = resized[source], blurred[source]
    warped = transforms.warp_mask(mask, geometry, 255)
    assert (warped == cut)[~ties(geometry)].all()
    image = transforms.warp_image(smooth, geometry, (99.0,) * 3)
    interior = ~grown(cut == 255)
    interior &= ~edge_of(canvas, geometry, (top, left))
    assert np.abs(image.astype(int) - picture)[interior].max(initial=0) <= 2


def ties(geometry):
    """Output pixels whose center lies between two source pixels; either one will do."""
    near = np.zeros(geometry.size, bool)
    for axis, row in ((0, geometry.matrix[1, 1:]), (1, geometry.matrix[0, ::2])):
        positions = np.arange(geometry.size[axis]) * row[0] + row[1] + 0.5
        tie = np.abs(positions - np.round(positions)) < 1e-2
        near |= tie[:, None] if axis == 0 else tie[None, :]
    return near


def offset_of(geometry, canvas):
    down, across = (side / scaled for side, scaled in zip(geometry.source, canvas, strict=True))
    return (
        round((geometry.matrix[1, 2] - 0.5 * down + 0.5) / down),
        round((geometry.matrix[0, 2] - 0.5 * across + 0.5) / across),
    )


def edge_of(canvas, geometry, offset):
    """Output pixels near the source's own edge, which a resize repeats and a warp blends."""
    frame = np.zeros(geometry.size, bool)
    for axis in (0, 1):
        positions = np.arange(geometry.size[axis]) + offset[axis]
        margin = max(1.0, canvas[axis] / geometry.source[axis])
        near = (positions < margin) | (positions >= canvas[axis] - margin)
        frame |= near[:, None] if axis == 0 else near[None, :]
    return frame


def test_a_crop_without_scaling_copies_pixels():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
    geometry = draw(3, 60, 80, crop_size=32)
    top, left = int(geometry.matrix[1, 2]), int(geometry.matrix[0, 2])
    warped = transforms.warp_image(image, geometry, (0.0,) * 3)
    assert (warped == image[top : top + 32, left : left + 32]).all()


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("upended", [False, True])
@pytest.mark.parametrize("flipped", [False, True])
def test_flips_and_quarter_turns_copy_pixels(turns, upended, flipped):
    mask = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9)
    expected = np.rot90(mask, -turns)
    expected = expected[:: -1 if upended else 1, :: -1 if flipped else 1]
    whole = transforms.View((6, 9), expected.shape, expected.shape, 0.0, (0, 0), flipped, upended,
                            turns)  # fmt: skip
    assert (transforms.warp_mask(mask, whole.geometry(), 255) == expected).all()
    part = whole._replace(size=(4, 5), offset=(2, 1))
    # The cut is made before the flips.
    before = np.rot90(mask, -turns)[2:6, 1:6]
    before = before[:: -1 if upended else 1, :: -1 if flipped else 1]
    if expected.shape == (6, 9):
        assert (transforms.warp_mask(mask, part.geometry(), 255) == before).all()


def test_turns_and_flips_of_samples_are_equally_likely():
    data = Shapes(augment=True, vertical_flip=True, rotate90=True, height=32, width=48, cache="ram")
    data.open_cache()
    whole = data.load(0)[1]
    found = dict.fromkeys(itertools.product(range(4), (False, True)), 0)
    for epoch in range(400):
        sample = data[(epoch, 0)]
        assert data.sample_size(epoch, 0) == sample.mask.shape == sample.image.shape[:2]
        for turns, upended in found:
            same = np.rot90(whole, -turns)[:: -1 if upended else 1]
            found[turns, upended] += np.array_equal(sample.mask, same)
    assert sum(found.values()) == 400
    assert min(found.values()) > 30  # 50 are expected, three standard deviations are 20


def test_rotate_range_bounds_the_angle():
    angles = [
        np.degrees(np.arctan2(matrix[0, 1], matrix[1, 1]))
        for seed in range(300)
        for matrix in [draw(seed, 50, 50, rotate_range=(20, 70)).matrix]
    ]
    assert deviation(np.array(angles), 20, 70) < 0.09
    with pytest.raises(
        ConfigError, match=re.escape("rotate_range: found [5, -5], expected the sm")
    ):
        Shapes(augment=True, rotate=True, rotate_range=(5, -5))


def deviation(values, low, high):
    """The Kolmogorov distance from a uniform distribution."""
    ordered = (np.sort(values) - low) / (high - low)
    return np.abs(ordered - (np.arange(len(ordered)) + 0.5) / len(ordered)).max()


def test_scale_angle_and_flip_follow_the_documented_distributions():
    longs, angles, flips, tops = [], [], [], []
    for index in range(4000):
        geometry = transforms.training_view(
            300, 400, rng=sample_generator(1, 2, index), base_size=400, crop_size=64,
            scale_range=(0.5, 2.0), rotate_range=(-10, 10), flip=True,
        ).geometry()  # fmt: skip
        (a, b), (c, d) = geometry.matrix[:, :2]
        flipped = a * d - b * c < 0
        angles.append(np.degrees(np.arctan2(b, d)))
        longs.append(400 / np.hypot(b, d))
        flips.append(flipped)
    assert deviation(np.array(longs), 200, 800) < 0.03
    assert 199 <= min(longs) < 215
    assert 785 < max(longs) <= 801
    assert deviation(np.array(angles), -10, 10) < 0.03
    assert abs(np.mean(flips) - 0.5) < 0.03
    for index in range(4000):
        geometry = transforms.training_view(
            300, 400, rng=sample_generator(1, 2, index), base_size=None, crop_size=200,
            scale_range=None, rotate_range=None, flip=False,
        ).geometry()  # fmt: skip
        tops.append(geometry.matrix[1, 2])
    assert set(tops) == set(range(101))


def test_a_small_image_lands_anywhere_in_the_crop():
    lefts = {int(draw(seed, 10, 20, crop_size=30).matrix[0, 2]) for seed in range(300)}
    assert lefts == set(range(-10, 1))


def test_validation_takes_the_center_of_the_short_side():
    image = np.zeros((100, 200, 1), np.uint8)
    image[:, 50:150] = 200
    geometry = transforms.validation_geometry(100, 200, crop_size=50)
    assert geometry.size == (50, 50)
    assert (transforms.warp_image(image, geometry, (0.0,)) == 200).all()


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_channels_and_dtypes(channels, dtype):
    rng = np.random.default_rng(0)
    image = (rng.random((30, 40, channels)) * 200).astype(dtype)
    geometry = draw(1, 30, 40, base_size=60, crop_size=32, rotate_range=(-10, 10))
    border = tuple(float(channel + 1) for channel in range(channels))
    warped = transforms.warp_image(image, geometry, border)
    assert warped.shape == (32, 32, channels)
    assert warped.dtype == dtype
    for channel in range(channels):
        alone = transforms.warp_image(image[..., channel : channel + 1].copy(), geometry,
                                      border[channel : channel + 1])  # fmt: skip
        assert np.allclose(alone[..., 0], warped[..., channel], atol=1e-3)


def test_the_warp_follows_a_source_decoded_smaller():
    rows, columns = np.mgrid[:64, :96]
    ramp = np.stack([rows, columns], axis=2).astype(np.float32)
    half = ramp.reshape(32, 2, 48, 2, 2).mean(axis=(1, 3)).astype(np.float32)
    geometry = draw(5, 64, 96, base_size=40, crop_size=24, rotate_range=(-10, 10), flip=True)
    whole = transforms.warp_image(ramp, geometry, (-9.0,) * 2)
    reduced = transforms.warp_image(half, geometry.reduced(32, 48), (-9.0,) * 2)
    void = transforms.warp_mask(rows.astype(np.int16), geometry, VOID) == VOID
    kernel = np.ones((7, 7), np.uint8)
    inside = cv2.erode((~void).astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT,
                       borderValue=(0,)) > 0  # fmt: skip
    assert inside.sum() > 100
    assert np.abs(whole - reduced)[inside].max() < 0.05

"""JPEGs: the pixels are Pillow's whichever library decodes, and what is cut short is refused."""

import io
from unittest import mock

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataloaders.folder import Folder
from utils.errors import DataError
from utils.files.images import read_image


def photo(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    return Image.fromarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def encoded(image, **options):
    data = io.BytesIO()
    image.save(data, "JPEG", **options)
    return data.getvalue()


def read(folder, data):
    path = folder / "a.jpg"
    path.write_bytes(data)
    return read_image(path)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    quality=st.integers(1, 100),
    subsampling=st.integers(0, 2),
    progressive=st.booleans(),
    restart=st.sampled_from([0, 2]),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    tail=st.sampled_from([b"", b"\0\0"]),
)
def test_pixels_are_those_of_pillow(
    tmp_path_factory, height, width, quality, subsampling, progressive, restart, mode, tail
):
    data = encoded(
        photo(height, width, quality).convert(mode), quality=quality, subsampling=subsampling,
        progressive=progressive, restart_marker_blocks=restart,
    )  # fmt: skip
    pixels = read(tmp_path_factory.mktemp("jpeg"), data + tail)
    assert (pixels == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()


def test_a_whole_rgb_file_takes_the_fast_way(tmp_path):
    with mock.patch("PIL.ImageFile.ImageFile.load", side_effect=AssertionError("Pillow decodes")):
        assert read(tmp_path, encoded(photo(20, 30))).shape == (20, 30, 3)


@pytest.mark.parametrize("progressive", [False, True])
def test_every_truncation_is_refused(tmp_path, progressive):
    data = encoded(photo(24, 24), quality=95, progressive=progressive)
    for cut in range(0, len(data) - 2, 7):
        with pytest.raises(DataError, match=r"a\.jpg: cannot be decoded"):
            read(tmp_path, data[:cut])


def with_thumbnail(data, before):
    thumbnail = encoded(photo(8, 8))
    segment = b"\xff\xec" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    return data[:before] + segment, data[before:]


@pytest.mark.parametrize("thumbnail", [False, True])
def test_two_files_run_together_are_what_pillow_makes_of_them(tmp_path, thumbnail):
    data = encoded(photo(24, 24), quality=95)
    data = b"".join(with_thumbnail(data, 2)) if thumbnail else data
    refused = 0
    for cut in range(2, len(data), 5):
        joined = data[:cut] + data
        try:
            expected = np.asarray(Image.open(io.BytesIO(joined), formats=["JPEG"]))
        except OSError:
            refused += 1
            with pytest.raises(DataError, match=r"a\.jpg: cannot be decoded"):
                read(tmp_path, joined)
        else:
            assert (read(tmp_path, joined) == expected).all()
    assert refused > 20


def test_the_end_of_a_thumbnail_is_not_taken_for_the_end_of_the_file(tmp_path):
    data = encoded(photo(24, 24))
    for before in (2, data.index(b"\xff\xda")):  # ahead of all, or between tables and pixels
        head, rest = with_thumbnail(data, before)
        assert (read(tmp_path, head + rest) == read(tmp_path, data)).all()
        with pytest.raises(DataError, match=r"a\.jpg: cannot be decoded"):
            read(tmp_path, head)


@pytest.mark.parametrize("scale", [0.4, 0.9])
def test_an_image_of_twice_the_size_of_its_mask_is_refused(tmp_path, scale):
    """Decoded at half its resolution, it would look as if it fitted."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    photo(80, 120).save(tmp_path / "images" / "a.jpg")
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(tmp_path / "masks" / "a.png")
    data = Folder(
        data_dir=str(tmp_path), classes=("a", "b"), mean=(0.5,) * 3, std=(0.2,) * 3, augment=True,
        base_size=60, crop_size=16, scale_range=(scale, scale),
    )  # fmt: skip
    with pytest.raises(DataError, match=r"a mask of 60x40 pixels, expected 120x80"):
        data[(0, 0)]

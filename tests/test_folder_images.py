import re

import numpy as np
import pytest
import tifffile
from PIL import Image
from test_folder import folder, write

from base.base_data_loader import BaseDataLoader
from dataloaders.statistics import channel_statistics
from utils.config.config import load_config
from utils.data.normalize import Normalize
from utils.errors import ConfigError, DataError


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_five_bands_keep_their_dtype_to_the_device(tmp_path, suffix, dtype):
    rng = np.random.default_rng(0)
    full = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    bands = (rng.random((20, 30, 5)) * full).astype(dtype)
    write(tmp_path / "images" / f"a{suffix}", bands)
    write(tmp_path / "masks" / "a.png", rng.integers(0, 3, (20, 30)).astype(np.uint8))
    mean, std = (0.1, 0.2, 0.3, 0.4, 0.5), (0.5,) * 5
    data = folder(tmp_path, mean=mean, std=std, augment=True, crop_size=40, flip=True, blur=True,
                  rotate=True, base_size=30)  # fmt: skip
    assert data.size(0) == (20, 30)
    assert data.input_dtype == np.dtype(dtype).name
    assert (data.load(0)[0] == bands).all()
    batch = next(iter(BaseDataLoader(data, batch_size=1, num_workers=0)))
    assert batch.images.shape == (1, 5, 40, 40)
    assert str(batch.images.dtype) == f"torch.{data.input_dtype}"
    normal = Normalize(mean, std, input_dtype=data.input_dtype)(batch.images)
    void = batch.masks == 255
    assert void.any()
    # Padding is the mean color, so it is zero after normalization.
    far = (normal.abs().amax(dim=1) < 0.01) & void
    assert far.sum() > 0.5 * void.sum()


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_other_kinds_of_pixels_need_mean_and_std(tmp_path, suffix):
    write(tmp_path / "images" / f"a{suffix}", np.zeros((8, 12, 5), np.uint16))
    write(tmp_path / "masks" / "a.png", np.zeros((8, 12), np.uint8))
    with pytest.raises(ConfigError, match=r"5 channels of uint16(.|\n)*tools/mean_std\.py"):
        folder(tmp_path)


def test_an_image_of_another_kind_is_named(tmp_path):
    for name, channels in (("a", 5), ("b", 4)):
        write(tmp_path / "images" / f"{name}.npy", np.zeros((8, 12, channels), np.uint16))
        write(tmp_path / "masks" / f"{name}.png", np.zeros((8, 12), np.uint8))
    data = folder(tmp_path, mean=(0.5,) * 5, std=(0.5,) * 5)
    with pytest.raises(DataError, match=r"b\.npy: found 4 channels of uint16"):
        data.load(1)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "mean", "found"),
    [
        ("b.tif", (8, 12, 3), np.float32, None, "3 channels of float32, expected 3 .* uint8"),
        ("b.tif", (8, 12), np.float32, None, "1 channels of float32, expected 3 .* uint8"),
        ("b.tif", (8, 12, 5), np.uint8, None, "5 channels of uint8, expected 3 .* uint8"),
        ("b.npy", (8, 12, 3), np.uint16, None, "3 channels of uint16, expected 3 .* uint8"),
        ("b.png", (8, 12, 3), np.uint8, (0.5,), "3 channels of uint8, expected 1 .* uint8"),
        ("b.tif", (8, 12, 3), np.uint16, (0.5,) * 3, "3 channels of uint16, expected 3 .* uint8"),
    ],
)
def test_an_image_of_another_kind_is_found_in_its_header(tmp_path, name, shape, dtype, mean, found):
    write(tmp_path / "images" / "a.png", np.zeros((8, 12) if mean == (0.5,) else (8, 12, 3),
                                                  np.uint8))  # fmt: skip
    write(tmp_path / "images" / name, np.zeros(shape, dtype))
    for stem in "ab":
        write(tmp_path / "masks" / f"{stem}.png", np.zeros((8, 12), np.uint8))
    data = folder(tmp_path, mean=mean, std=mean)
    for read in (data.size, data.load):
        with pytest.raises(DataError, match=rf"{name}: found {found}(.|\n)*fix: "):
            read(1)


def test_gray_images_stay_gray_with_one_mean(tmp_path):
    gray = np.arange(96, dtype=np.uint8).reshape(8, 12)
    write(tmp_path / "images" / "a.png", gray)
    write(tmp_path / "masks" / "a.png", np.zeros((8, 12), np.uint8))
    assert folder(tmp_path).load(0)[0].shape == (8, 12, 3)
    image, _ = folder(tmp_path, mean=(0.5,), std=(0.2,)).load(0)
    assert (image[..., 0] == gray).all()
    assert image.shape == (8, 12, 1)


def test_sixteen_bit_gray_images(tmp_path):
    gray = np.arange(96, dtype=np.uint16).reshape(8, 12) * 600
    write(tmp_path / "images" / "a.png", gray)
    write(tmp_path / "masks" / "a.png", np.zeros((8, 12), np.uint8))
    data = folder(tmp_path, mean=(0.5,), std=(0.2,))
    assert data.input_dtype == "uint16"
    assert (data.load(0)[0][..., 0] == gray).all()


def one_image(root, pixels, suffix, mean=(0.5,)):
    write(root / "images" / f"a{suffix}", pixels)
    write(root / "masks" / "a.png", np.zeros(pixels.shape[:2], np.uint8))
    return folder(root, mean=mean, std=mean)


LIMITS = {
    "bool": (0, 1), "int8": (-128, 127), "int16": (-32768, 32767), "int32": (-(2**24), 2**24),
    "uint32": (0, 2**32 - 256), "float16": (-65504, 2.0**-24), "float64": (-1e30, 2.0**-149),
    ">i2": (-32768, 32767), ">f4": (-3e38, 0.1), ">u2": (0, 65535),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
@pytest.mark.parametrize("dtype", LIMITS)
def test_values_of_other_dtypes_are_read_exactly(tmp_path, dtype, suffix):
    """Mean and deviation are in the unit of the file."""
    values = np.resize(np.array([*LIMITS[dtype], 1], dtype), (8, 13))
    data = one_image(tmp_path, values, suffix)
    unsigned = np.dtype(dtype).name == "uint16"
    assert data.input_dtype == ("uint16" if unsigned else "float32")
    image = data.load(0)[0]
    assert image.dtype == np.dtype(data.input_dtype)
    exact = values.astype(np.float64)
    assert np.array_equal(image[..., 0], exact.astype(np.float32) if dtype == "float64" else exact)
    scale = 65535 if unsigned else 1
    mean, std = channel_statistics(data, count=1)
    np.testing.assert_allclose(
        [mean[0], std[0]], [exact.mean() / scale, exact.std() / scale], rtol=1e-6
    )


@pytest.mark.parametrize("dtype", ["int64", "uint64", "complex64", "U3", "f8,i4", "datetime64[s]"])
def test_other_dtypes_are_named_with_those_that_are_read(tmp_path, dtype):
    known = "uint8, uint16, float32, bool, int8, int16, int32, uint32, float16, float64"
    with pytest.raises(DataError, match=rf"a\.npy: found values of \S+, expected {known}\n  fix: "):
        one_image(tmp_path, np.zeros((8, 12), dtype), ".npy")
    if dtype in ("int64", "uint64", "complex64"):
        (tmp_path / "images/a.npy").unlink()
        with pytest.raises(DataError, match=rf"a\.tif: found values of {dtype}, expected {known}"):
            one_image(tmp_path, np.zeros((8, 12), dtype), ".tif")


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
@pytest.mark.parametrize(
    ("dtype", "value"), [("int32", 2**24 + 1), ("uint32", 2**32 - 1), ("float64", -1e39)]
)
def test_values_that_float32_does_not_hold_are_named(tmp_path, dtype, value, suffix):
    values = np.zeros((8, 12), dtype)
    values[3, 4] = value
    data = one_image(tmp_path, values, suffix)
    shown = re.escape(str(np.array(value, dtype)))
    with pytest.raises(DataError, match=rf"a\{suffix}: found {dtype} values .* as {shown}\n  fix"):
        data.load(0)


def test_a_signed_tiff_is_no_8_bit_image(tmp_path):
    """Pillow would give the upper byte of numbers that have a sign."""
    for name, dtype in (("a", np.uint8), ("b", np.int16)):
        write(tmp_path / "images" / f"{name}.tif", np.full((8, 12), 99, dtype))
        write(tmp_path / "masks" / f"{name}.png", np.zeros((8, 12), np.uint8))
    with pytest.raises(DataError, match=r"b\.tif: found 1 channels of float32, expected 3"):
        folder(tmp_path).load(1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    "options",
    [{"imagej": True}, {"ome": True}, {"ome": True, "tile": (16, 16)},
     {"ome": True, "compression": "zlib", "rowsperstrip": 5}],
)  # fmt: skip
def test_pages_of_a_tiff_may_be_channels(tmp_path, dtype, options):
    planes = (np.random.default_rng(0).random((3, 21, 12)) * 200).astype(dtype)
    write(tmp_path / "masks" / "a.png", np.zeros((21, 12), np.uint8))
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images/a.tif", planes, metadata={"axes": "CYX"},
                     photometric="minisblack", **options)  # fmt: skip
    data = folder(tmp_path, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert data.size(0) == (21, 12)
    assert np.array_equal(data.load(0)[0], np.moveaxis(planes, 0, 2))


@pytest.mark.parametrize("target", ["images", "masks"])
@pytest.mark.parametrize("axes", ["ZYX", "TYX"])
def test_a_stack_of_images_is_refused(tmp_path, axes, target):
    stack = np.zeros((5, 8, 12), np.uint8)
    for kind in ("images", "masks"):
        write(tmp_path / kind / "a.tif", stack[0])
    tifffile.imwrite(tmp_path / target / "a.tif", stack, imagej=True, metadata={"axes": axes})
    with pytest.raises(
        DataError, match=rf"{target}/a\.tif: found a stack of 5 images \(axes {axes}\)"
    ):
        folder(tmp_path).load(0)


def test_overviews_and_thumbnails_make_no_stack(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (tmp_path / "images").mkdir()
    with tifffile.TiffWriter(tmp_path / "images/a.tif") as file:
        file.write(pixels, photometric="rgb", subifds=0)
        file.write(pixels[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(pixels[::4, ::4], photometric="rgb")
    write(tmp_path / "masks" / "a.png", np.zeros((64, 64), np.uint8))
    assert np.array_equal(folder(tmp_path).load(0)[0], pixels)


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_a_mask_of_another_size_than_its_array(tmp_path, suffix, dtype):
    """Of an array and of a raster that Pillow cannot open: the sizes are the message."""
    write(tmp_path / "images" / f"a{suffix}", np.zeros((8, 12, 3), dtype))
    write(tmp_path / "masks" / "a.png", np.zeros((9, 12), np.uint8))
    data = folder(tmp_path, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(
        DataError, match=r"masks/a\.png: found a mask of 12x9 pixels, expected 12x8"
    ):
        data.load(0)


# ---- mean and std ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "mean", "std", "fix"),
    [
        (np.uint8, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375),
         '"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]'),
        (np.uint8, (0.5, 0.25, 1.5), (0.1,) * 3, '"mean": [0.001961, 0.0009804, 0.005882]'),
        (np.uint8, (0.5,) * 3, (51.0,) * 3, '"std": [0.2, 0.2, 0.2]'),
        (np.uint16, (6553.5,) * 3, (655.35,) * 3,
         '"mean": [0.1, 0.1, 0.1], "std": [0.01, 0.01, 0.01]'),
    ],
)  # fmt: skip
def test_mean_and_std_of_0_to_255_are_refused_with_the_fractions(tmp_path, dtype, mean, std, fix):
    write(tmp_path / "images" / "a.npy", np.zeros((8, 12, 3), dtype))
    write(tmp_path / "masks" / "a.png", np.zeros((8, 12), np.uint8))
    with pytest.raises(ConfigError) as caught:
        folder(tmp_path, mean=mean, std=std)
    assert str(caught.value).endswith(f"\n  fix: {fix}")
    assert f"full scale of {np.dtype(dtype).name}" in str(caught.value)


def test_mean_and_std_of_floats_are_in_their_unit(tmp_path):
    data = one_image(tmp_path, np.zeros((8, 12), np.int16), ".npy", mean=(300.0,))
    assert data.border == (300.0,)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot be decoded"), (b"\x93NUMPY broken", "cannot be decoded")],
)
def test_damaged_arrays_are_named(tmp_path, content, message):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.npy").write_bytes(content)
    write(tmp_path / "masks" / "a.png", np.zeros((8, 12), np.uint8))
    with pytest.raises(DataError, match=rf"a\.npy: {message}"):
        folder(tmp_path, mean=(0.5,), std=(0.2,))


def test_a_deviation_of_zero_is_refused_before_anything_is_read(write_config):
    def change(config):
        args = {"data_dir": "nowhere", "classes": ["a", "b"], "mean": [0.5], "std": [0.0]}
        config["train_loader"] = {"type": "Folder", "args": args | {"batch_size": 2}}

    with pytest.raises(ConfigError, match=r"train_loader\.args\.std\S* .*0"):
        load_config(write_config(change), [])


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_masks_whose_white_is_zero_are_read_as_displayed(tmp_path, compression):
    shown = np.zeros((20, 30), np.uint8)
    shown[5:9, 5:20] = 255
    write(tmp_path / "images" / "a.png", np.zeros((20, 30, 3), np.uint8))
    path = tmp_path / "masks" / "a.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, 255 - shown, photometric="miniswhite", compression=compression)
    data = folder(tmp_path, classes=("a", "b"), label_map={"0": 0, "255": 1})
    assert (data.load(0)[1] == shown // 255).all()
    with Image.open(path) as image:  # another reader
        assert (np.asarray(image.convert("L")) == shown).all()


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_tiff_has_the_size_of_what_is_read(tmp_path, orientation):
    path = tmp_path / "images" / "a.tif"
    path.parent.mkdir()
    stored = np.zeros((8, 12, 3), np.uint8)
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(path, stored, photometric="rgb", extratags=[tag])
    size = (12, 8) if orientation == 6 else (8, 12)
    write(tmp_path / "masks" / "a.png", np.zeros(size, np.uint8))
    data = folder(tmp_path)
    assert data.size(0) == size
    assert data.load(0)[0].shape[:2] == size


def test_a_one_bit_image_has_one_channel_where_one_is_expected(tmp_path):
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    ones = np.indices((8, 12)).sum(0) % 2 == 1
    Image.fromarray(ones).save(path)
    write(tmp_path / "masks" / "a.png", np.zeros((8, 12), np.uint8))
    data = folder(tmp_path, mean=(0.5,), std=(0.5,))
    assert (data.load(0)[0][..., 0] == 255 * ones).all()

import numpy as np
import pytest
from test_folder import folder, write

from base.base_data_loader import BaseDataLoader
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
    # Padding is the mean colour, so it is zero after normalisation.
    far = (normal.abs().amax(dim=1) < 0.01) & void
    assert far.sum() > 0.5 * void.sum()


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_other_kinds_of_pixels_need_mean_and_std(tmp_path, suffix):
    write(tmp_path / "images" / f"a{suffix}", np.zeros((8, 12, 5), np.uint16))
    write(tmp_path / "masks" / "a.png", np.zeros((8, 12), np.uint8))
    with pytest.raises(ConfigError, match=r"5 channels of uint16(.|\n)*tools/statistics\.py"):
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


def test_grey_pictures_stay_grey_with_one_mean(tmp_path):
    grey = np.arange(96, dtype=np.uint8).reshape(8, 12)
    write(tmp_path / "images" / "a.png", grey)
    write(tmp_path / "masks" / "a.png", np.zeros((8, 12), np.uint8))
    assert folder(tmp_path).load(0)[0].shape == (8, 12, 3)
    image, _ = folder(tmp_path, mean=(0.5,), std=(0.2,)).load(0)
    assert (image[..., 0] == grey).all()
    assert image.shape == (8, 12, 1)


def test_sixteen_bit_grey_pictures(tmp_path):
    grey = np.arange(96, dtype=np.uint16).reshape(8, 12) * 600
    write(tmp_path / "images" / "a.png", grey)
    write(tmp_path / "masks" / "a.png", np.zeros((8, 12), np.uint8))
    data = folder(tmp_path, mean=(0.5,), std=(0.2,))
    assert data.input_dtype == "uint16"
    assert (data.load(0)[0][..., 0] == grey).all()


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

import re
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from base.base_dataset import BaseDataset
from base.samples import Pair
from dataloaders.shapes import Shapes
from utils.errors import DataError


@dataclass(kw_only=True, eq=False, repr=False)
class Two(BaseDataset):
    """One pair of files."""

    image: object = None
    mask: object = None
    classes = ("a", "b", "c")
    palette = ((0, 0, 0), (1, 1, 1), (2, 2, 2))
    mean = (0.1, 0.2, 0.3)
    std = (0.2, 0.2, 0.2)

    def __post_init__(self):
        super().__post_init__()
        self.pairs = (Pair(self.image, self.mask),)


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(tmp_path / "i.png")
    Image.fromarray(rng.integers(0, 3, (20, 30)).astype(np.uint8)).save(tmp_path / "m.png")
    return {"image": tmp_path / "i.png", "mask": tmp_path / "m.png"}


def test_a_sample_without_augmentation_is_the_file(pair):
    data = Two(**pair, flip=True, rotate=True, blur=True, base_size=10)
    image, mask = data.load(0)
    sample = data[(5, 0)]
    assert (sample.image == image).all()
    assert (sample.mask == mask).all()
    assert data.augments is False


def test_val_wins_over_augment(pair):
    plain = Two(**pair, val=True, crop_size=10)[(0, 0)]
    for epoch in range(4):
        sample = Two(**pair, val=True, augment=True, crop_size=10, flip=True, blur=True)[(epoch, 0)]
        assert (sample.image == plain.image).all()
    assert plain.mask.shape == (10, 10)


def test_val_without_crop_size_is_the_whole_image(pair):
    assert Two(**pair, val=True)[(0, 0)].mask.shape == (20, 30)


@pytest.mark.parametrize("ignore_index", [255, -1])
def test_padding_is_void_under_the_mean_color(pair, ignore_index):
    data = Two(**pair, augment=True, crop_size=64, scale=False, ignore_index=ignore_index)
    sample = data[(0, 0)]
    outside = sample.mask == ignore_index
    assert outside.sum() == 64 * 64 - 20 * 30
    assert (sample.image[outside] == (26, 51, 76)).all()  # mean x 255, rounded half to even
    assert sample.mask.dtype == (np.uint8 if ignore_index == 255 else np.int16)


def test_each_knob_changes_the_sample(pair):
    plain = Two(**pair, augment=True)[(0, 0)]
    assert (plain.image == Two(**pair).load(0)[0]).all()
    for knob in ({"flip": True}, {"rotate": True}, {"blur": True}):
        samples = [Two(**pair, augment=True, **knob)[(epoch, 0)] for epoch in range(8)]
        assert any((sample.image != plain.image).any() for sample in samples), knob
    sizes = {Two(**pair, augment=True, base_size=60)[(e, 0)].mask.shape for e in range(8)}
    assert len(sizes) == 8
    fixed = {Two(**pair, augment=True, base_size=60, scale=False)[(e, 0)].mask.shape for e in "0"}
    assert fixed == {(40, 60)}


def test_epochs_seeds_and_indices_differ():
    def crop(seed=0, epoch=0, index=0):
        data = Shapes(augment=True, crop_size=64, flip=True, seed=seed)
        return data[(epoch, index)].image

    assert (crop() == crop()).all()
    assert (crop() != crop(epoch=1)).any()
    assert (crop() != crop(seed=1)).any()


def test_a_split_without_labels_is_all_void(pair):
    _, mask = Two(image=pair["image"], ignore_index=-1).load(0)
    assert (mask == -1).all()
    assert mask.shape == (20, 30)


def test_an_exif_turn_is_applied_and_named(tmp_path, pair):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.open(pair["image"])
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    data = Two(image=tmp_path / "turned.jpg", mask=pair["mask"])
    assert data.size(0) == (30, 20)
    expected = (
        r"m\.png: found a mask of 30x20 pixels, expected 20x30 .*after its EXIF orientation 6"
    )
    with pytest.raises(DataError, match=expected + re.escape("\n  hint: the image is displayed")):
        data.load(0)


def test_an_upright_mask_fits_a_turned_image(tmp_path, pair):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.open(pair["image"])
    picture.save(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(np.asarray(Image.open(pair["mask"])), -1)
    Image.fromarray(np.ascontiguousarray(upright)).save(tmp_path / "upright.png")
    image, mask = Two(image=tmp_path / "turned.png", mask=tmp_path / "upright.png").load(0)
    assert (image == np.rot90(np.asarray(picture), -1)).all()
    assert (mask == upright).all()

import re

import numpy as np
import pytest
from PIL import Image

from dataloaders.camvid import CamVid
from utils.errors import DataError


@pytest.fixture
def root(tmp_path):
    """Three splits; the list of `train` carries the prefix of the published lists."""
    for number, split in enumerate(("train", "val", "test")):
        for folder in (split, f"{split}annot"):
            (tmp_path / folder).mkdir()
        for name in ("b", "a"):
            value = 10 * number + (name == "b")
            write(tmp_path / split / f"{name}.png", np.full((6, 8, 3), value, np.uint8))
            write(tmp_path / f"{split}annot" / f"{name}.png", raw_mask())
    lines = [f"/SegNet/CamVid/train/{n}.png /SegNet/CamVid/trainannot/{n}.png" for n in "ba"]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n\n")
    return tmp_path


def raw_mask():
    return np.arange(48, dtype=np.uint8).reshape(6, 8) % 12


def write(path, pixels):
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_pairs_are_sorted_and_void_is_mapped(root, number):
    data = CamVid(data_dir=str(root), split=("train", "val", "test")[number], ignore_index=-1)
    assert len(data) == 2
    assert data.name(0).endswith("a.png")
    image, mask = data.load(1)
    assert (image == 10 * number + 1).all()
    assert (mask == np.where(raw_mask() == 11, -1, raw_mask().astype(int))).all()
    assert data.size(0) == (6, 8)


def test_eleven_classes():
    assert len(CamVid.classes) == len(set(CamVid.palette)) == 11


def test_a_list_chooses_images(root):
    (root / "val.txt").write_text("anything/at/all/b.png x/b.png\n")
    data = CamVid(data_dir=str(root), split="val")
    assert [data.name(i) for i in range(len(data))] == [str(root / "val" / "b.png")]


def test_a_listed_image_that_is_not_there_is_named(root):
    (root / "val.txt").write_text("val/c.png valannot/c.png\n")
    with pytest.raises(DataError, match=r"val\.txt: lists 1 images that .*val lacks: c\.png"):
        CamVid(data_dir=str(root), split="val")


def test_a_missing_folder_is_explained(tmp_path):
    with pytest.raises(DataError) as caught:
        CamVid(data_dir=str(tmp_path / "nowhere"), split="train")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'nowhere' / 'train'}: no such folder\n")
    assert "expected: data_dir/train/*.png and data_dir/trainannot/*.png" in message
    assert f"found: {tmp_path} holds nothing" in message
    assert '"data_dir"' in message


def test_an_empty_split_is_explained(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "trainannot").mkdir()
    (tmp_path / "train" / "notes.md").touch()
    with pytest.raises(DataError, match=r"train: no image found, the split is empty(.|\n)*notes"):
        CamVid(data_dir=str(tmp_path), split="train")


def test_missing_masks_are_listed(root):
    (root / "valannot" / "a.png").unlink()
    expected = re.escape(f"{root}: no mask for 1 of 2 images:\n    {root / 'val' / 'a.png'}\n")
    with pytest.raises(DataError, match=expected):
        CamVid(data_dir=str(root), split="val")


def test_a_mask_of_another_size_is_refused(root):
    write(root / "valannot" / "a.png", np.zeros((6, 7), np.uint8))
    expected = (
        r"valannot/a\.png: found a mask of 7x6 pixels, expected 8x6 as its image .*a\.png has"
    )
    with pytest.raises(DataError, match=expected):
        CamVid(data_dir=str(root), split="val").load(0)


def test_a_label_outside_the_classes_is_refused(root):
    write(root / "valannot" / "a.png", np.full((6, 8), 12, np.uint8))
    with pytest.raises(DataError, match=r"a\.png: label values outside the classes: 12 \(48 px\)"):
        CamVid(data_dir=str(root), split="val").load(0)

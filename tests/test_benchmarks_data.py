"""The four benchmark data sets, each in its native layout, traps included."""

import re
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dataloaders import DATASETS
from dataloaders.ade20k import ADE20K
from dataloaders.cityscapes import CityScapes
from dataloaders.coco import COCO
from dataloaders.coco_classes import UNUSED_LABELS
from dataloaders.voc import VOC
from utils.drawing.palette import VOID_COLOR, to_palette_image, voc_palette
from utils.errors import ConfigError, DataError
from utils.files.matlab import read_matrix

HEIGHT, WIDTH = 12, 16


def photo(path, value, *, gray=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (HEIGHT, WIDTH) if gray else (HEIGHT, WIDTH, 3)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def labels(path, values, *, palette=False):
    """Write a mask whose pixels repeat `values`; return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.resize(np.array(values, np.uint8), (HEIGHT, WIDTH))
    image = Image.fromarray(mask)
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path)
    return mask


def brightness(data):
    return [round(float(data.load(index)[0].mean())) for index in range(len(data))]


# ---- PASCAL VOC -----------------------------------------------------------------------------


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for number, name in enumerate(("2008_b", "2007_a", "2009_c.x")):
        photo(root / "JPEGImages" / f"{name}.jpg", 40 * (number + 1), gray=name == "2007_a")
        labels(root / "SegmentationClass" / f"{name}.png", [0, 20, 255], palette=True)
        labels(root / "SegmentationClassAug" / f"{name}.png", [0, 1, 2])
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split in ("train", "val", "trainval", "test"):
        (lists / f"{split}.txt").write_text("2008_b\n2007_a\n\n2009_c.x\n")
    for split in ("train_aug", "val_aug", "trainval_aug"):
        (lists / f"{split}.txt").write_text(
            "/JPEGImages/2008_b.jpg /SegmentationClassAug/2008_b.png\n2007_a\n"
        )
    (lists / "test_aug.txt").write_text("2008_b\n/JPEGImages/2007_a.jpg\n")
    return tmp_path


@pytest.mark.parametrize("split", ["train", "val", "trainval"])
def test_voc_reads_its_lists(voc, split):
    data = VOC(data_dir=str(voc), split=split, ignore_index=-1)
    assert brightness(data) == [40, 80, 120]
    image, mask = data.load(1)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert mask.ravel()[:4].tolist() == [0, 20, -1, 0]


@pytest.mark.parametrize("split", ["train_aug", "val_aug", "trainval_aug"])
def test_voc_aug_lists_hold_paths_or_ids(voc, split):
    data = VOC(data_dir=str(voc), split=split)
    assert brightness(data) == [40, 80]
    for index in (0, 1):
        assert data.load(index)[1].ravel()[:4].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(("split", "length"), [("test", 3), ("test_aug", 2)])
def test_voc_test_splits_are_all_void(voc, split, length):
    data = VOC(data_dir=str(voc), split=split)
    assert len(data) == length
    assert (data.load(1)[1] == 255).all()


def test_voc_may_be_given_the_inner_folder(voc):
    assert len(VOC(data_dir=str(voc / "VOCdevkit" / "VOC2012"), split="val")) == 3


def test_voc_names_the_path_it_tried(tmp_path):
    with pytest.raises(DataError) as caught:
        VOC(data_dir=str(tmp_path), split="train_aug")
    assert str(caught.value).startswith(f"{tmp_path}/VOCdevkit/VOC2012: no such folder\n")
    assert "ImageSets/Segmentation/train_aug.txt" in str(caught.value)


def test_voc_names_a_missing_list(voc):
    (voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt").unlink()
    with pytest.raises(DataError, match=r"train_aug\.txt: no such list(.|\n)*found: .*test\.txt"):
        VOC(data_dir=str(voc), split="train_aug")


def test_voc_names_missing_masks_and_the_tool(voc):
    (voc / "VOCdevkit/VOC2012/SegmentationClassAug/2007_a.png").unlink()
    with pytest.raises(DataError, match=r"lists 1 masks that are not(.|\n)*2007_a(.|\n)*tools/sbd"):
        VOC(data_dir=str(voc), split="train_aug")


def test_voc_names_missing_images(voc):
    (voc / "VOCdevkit/VOC2012/JPEGImages/2007_a.jpg").unlink()
    with pytest.raises(DataError, match=r"lists 1 images that are not there(.|\n)*2007_a\.jpg"):
        VOC(data_dir=str(voc), split="val")


def test_voc_refuses_a_line_of_three_fields(voc):
    (voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").write_text("a b c\n")
    with pytest.raises(DataError, match=r"val\.txt: found the line 'a b c'"):
        VOC(data_dir=str(voc), split="val")


# ---- Cityscapes -----------------------------------------------------------------------------

CITY_VALUES = [*range(34), 255]
CITY_TRAIN = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11,
              25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip


def cityscapes(root, split, *, kind, archives):
    extra = "trainextra" if split == "train_extra" else "trainvaltest"
    images = root / f"leftImg8bit_{extra}" / "leftImg8bit" if archives else root / "leftImg8bit"
    archive = "gtFine_trainvaltest" if kind == "gtFine" else "gtCoarse"
    masks = root / archive / kind if archives else root / kind
    for number, frame in enumerate(("ulm/ulm_2", "aachen/aachen_9", "aachen/aachen_10")):
        photo(images / split / f"{frame}_leftImg8bit.png", 10 * (number + 1))
        labels(masks / split / f"{frame}_{kind}_labelIds.png", CITY_VALUES)
        labels(masks / split / f"{frame}_{kind}_color.png", [0])
    return images / split, masks / split


@pytest.mark.parametrize("archives", [False, True], ids=["merged", "a folder an archive"])
@pytest.mark.parametrize(
    ("mode", "split"),
    [("fine", "train"), ("fine", "val"), ("coarse", "train"), ("coarse", "val"),
     ("coarse", "train_extra")],
)  # fmt: skip
def test_cityscapes_in_both_layouts(tmp_path, archives, mode, split):
    kind = "gtFine" if mode == "fine" else "gtCoarse"
    cityscapes(tmp_path, split, kind=kind, archives=archives)
    data = CityScapes(data_dir=str(tmp_path), split=split, mode=mode)
    assert brightness(data) == [30, 20, 10]
    raw = np.resize(CITY_VALUES, (HEIGHT, WIDTH))
    expected = np.vectorize(lambda value: CITY_TRAIN.get(value, 255))(raw)
    assert (data.load(0)[1] == expected).all()


def test_cityscapes_test_split_needs_no_masks(tmp_path):
    cityscapes(tmp_path, "test", kind="gtFine", archives=False)
    data = CityScapes(data_dir=str(tmp_path), split="test", ignore_index=19)
    assert (data.load(0)[1] == 19).all()


def test_cityscapes_names_the_images_without_masks(tmp_path):
    """The ancestor paired by position: one missing mask shifted all that followed."""
    _, masks = cityscapes(tmp_path, "val", kind="gtFine", archives=False)
    (masks / "aachen" / "aachen_9_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"no mask for 1 of 3 images:\n.*aachen_9_leftImg8bit\.png"):
        CityScapes(data_dir=str(tmp_path), split="val")


@pytest.mark.parametrize(("mode", "split"), [("fine", "train_extra"), ("coarse", "test")])
def test_cityscapes_refuses_what_does_not_exist(tmp_path, mode, split):
    with pytest.raises(ConfigError, match=f'the split "{split}" has no {mode} masks'):
        CityScapes(data_dir=str(tmp_path), split=split, mode=mode)


def test_cityscapes_names_the_folder_it_tried(tmp_path):
    with pytest.raises(DataError, match=r"leftImg8bit/train: no such folder\n.*gtFine/train"):
        CityScapes(data_dir=str(tmp_path), split="train")


def test_cityscapes_refuses_an_unknown_label(tmp_path):
    _, masks = cityscapes(tmp_path, "val", kind="gtFine", archives=False)
    labels(masks / "ulm" / "ulm_2_gtFine_labelIds.png", [7, 34])
    data = CityScapes(data_dir=str(tmp_path), split="val")
    with pytest.raises(DataError, match=r"ulm_2_gtFine_labelIds\.png: label values outside.*: 34 "):
        data.load(2)


# ---- ADE20K ---------------------------------------------------------------------------------


@pytest.fixture
def ade(tmp_path):
    for split, names in {"training": "zay", "validation": "cb"}.items():
        for number, name in enumerate(names):
            photo(
                tmp_path / "images" / split / f"ADE_{name}.jpg", 20 * (number + 1), gray=not number
            )
            labels(tmp_path / "annotations" / split / f"ADE_{name}.png", [0, 1, 150])
    return tmp_path


@pytest.mark.parametrize("ignore_index", [-1, 255, 150])
@pytest.mark.parametrize(
    ("split", "expected"),
    [("training", [40, 60, 20]), ("train", [40, 60, 20]), ("validation", [40, 20]),
     ("val", [40, 20])],
)  # fmt: skip
def test_ade_void_is_whatever_the_config_says(ade, split, expected, ignore_index):
    data = ADE20K(data_dir=str(ade), split=split, ignore_index=ignore_index)
    assert brightness(data) == expected
    assert data.load(0)[1].ravel()[:3].tolist() == [ignore_index, 0, 149]


def test_ade_may_be_one_folder_further_down(ade, tmp_path):
    (tmp_path / "ADEChallengeData2016").mkdir()
    for folder in ("images", "annotations"):
        (tmp_path / folder).rename(tmp_path / "ADEChallengeData2016" / folder)
    assert len(ADE20K(data_dir=str(tmp_path), split="train")) == 3


def test_ade_names_missing_masks(ade):
    (ade / "annotations" / "training" / "ADE_a.png").unlink()
    with pytest.raises(DataError, match=r"no mask for 1 of 3 images:\n.*ADE_a\.jpg"):
        ADE20K(data_dir=str(ade), split="training")


def test_ade_colors_belong_to_their_classes():
    """The ancestor's palette began with black, one row above its classes."""
    assert ADE20K.classes[0] == "wall"
    assert ADE20K.palette[0] == (120, 120, 120)
    assert ADE20K.classes[149] == "flag"
    assert len(ADE20K.classes) == len(ADE20K.palette) == 150


# ---- COCO-Stuff -----------------------------------------------------------------------------


@pytest.fixture
def coco164k(tmp_path):
    for split in ("train2017", "val2017"):
        for number, name in enumerate(("000000000009", "000000000001")):
            photo(tmp_path / "images" / split / f"{name}.jpg", 20 * (number + 1), gray=number == 0)
            labels(tmp_path / "annotations" / split / f"{name}.png", [0, 10, 12, 181, 255])
    return tmp_path


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_coco_counts_the_labels_that_occur(coco164k, split):
    data = COCO(data_dir=str(coco164k), split=split, ignore_index=-1)
    assert brightness(data) == [40, 20]
    assert data.load(1)[1].ravel()[:5].tolist() == [0, 10, 11, 170, -1]
    assert data.load(1)[0].shape == (HEIGHT, WIDTH, 3)


def test_coco_refuses_a_label_that_was_never_drawn(coco164k):
    labels(coco164k / "annotations" / "val2017" / "000000000001.png", [11])
    with pytest.raises(DataError, match=r"000000000001\.png: label values outside the classes: 11"):
        COCO(data_dir=str(coco164k), split="val2017").load(0)


def test_coco_has_171_classes_and_colors():
    assert len(COCO.classes) == len(set(COCO.classes)) == len(set(COCO.palette)) == 171
    assert COCO.palette == voc_palette(172)[1:]
    assert (0, 0, 0) not in COCO.palette
    assert len(UNUSED_LABELS) == 11


def matlab_file(path, values, *, name="S", compress=True):
    """Write a MATLAB 5 file with another variable before the named one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"captions": np.zeros((1, 3)), name: values}, do_compression=compress)


@pytest.fixture
def coco10k(tmp_path):
    values = np.resize(np.array([0, 1, 11, 13, 182], np.uint16), (HEIGHT, WIDTH))
    for number, name in enumerate(("COCO_train2014_2", "COCO_train2014_1")):
        photo(tmp_path / "images" / f"{name}.jpg", 20 * (number + 1), gray=number == 0)
        matlab_file(tmp_path / "annotations" / f"{name}.mat", values)
    (tmp_path / "imageLists").mkdir()
    for split, text in {"train": "COCO_train2014_2", "test": "COCO_train2014_1"}.items():
        (tmp_path / "imageLists" / f"{split}.txt").write_text(text + "\n")
    (tmp_path / "imageLists" / "all.txt").write_text("COCO_train2014_2\nCOCO_train2014_1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("split", "expected"), [("train", [20]), ("test", [40]), ("all", [40, 20])]
)
def test_coco_10k_reads_matlab_masks(coco10k, split, expected):
    data = COCO(data_dir=str(coco10k), split=split, partition="CocoStuff10k", ignore_index=255)
    assert brightness(data) == expected
    assert data.load(0)[1].ravel()[:5].tolist() == [255, 0, 10, 11, 170]
    assert data.load(0)[0].shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("dtype", [np.uint16, np.float64])
@pytest.mark.parametrize("shape", [(3, 4), (1, 12), (12, 1)])
def test_matlab_files_of_every_kind(tmp_path, compress, dtype, shape):
    values = np.arange(12).reshape(shape).astype(dtype)
    matlab_file(tmp_path / "m.mat", values, compress=compress)
    found = read_matrix(tmp_path / "m.mat", "S")
    assert found.dtype.kind in "iu"
    assert found.tolist() == values.astype(int).tolist()


@pytest.mark.parametrize("value", [1.5, np.nan, np.inf, 2.0**40])
def test_matlab_values_that_are_no_labels(tmp_path, value):
    matlab_file(tmp_path / "m.mat", np.full((3, 4), value))
    with pytest.raises(DataError, match=r"m\.mat: 'S' holds values that are no labels"):
        read_matrix(tmp_path / "m.mat", "S")


@pytest.mark.parametrize(
    "value",
    ["text", np.zeros((2, 3, 4)), np.array([1, "a"], object), {"Segmentation": np.zeros((2, 2))}],
    ids=["text", "three dimensions", "cells", "structure"],
)
def test_matlab_variables_that_are_no_masks(tmp_path, value):
    matlab_file(tmp_path / "m.mat", value)
    for names in (("S",), ("T",), ("S", "field"), ("captions", "field")):
        with pytest.raises(DataError, match=r"m\.mat: holds no matrix named '" + ".".join(names)):
            read_matrix(tmp_path / "m.mat", *names)


def test_a_field_of_an_empty_structure(tmp_path):
    matlab_file(tmp_path / "m.mat", np.zeros((0, 0), [("field", object)]))
    with pytest.raises(DataError, match=r"m\.mat: holds no matrix named 'S\.field'"):
        read_matrix(tmp_path / "m.mat", "S", "field")


def test_damaged_matlab_files_are_named(tmp_path):
    path = tmp_path / "m.mat"
    matlab_file(path, np.arange(12, dtype=np.uint16).reshape(3, 4))
    whole = path.read_bytes()
    for length in range(0, len(whole), 20):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"m\.mat: (not a MATLAB file|holds no matrix)"):
            read_matrix(path, "S")
    for place in range(128, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"m\.mat: "):
            read_matrix(path, "S")


def test_a_matlab_file_of_another_version_is_refused(tmp_path):
    # MATLAB 7.3 is HDF5 behind a text of 512 bytes, which ends in version and byte order.
    path = tmp_path / "m.mat"
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384)
    path.write_bytes(header + b"\x89HDF\r\n\x1a\n" + bytes(200))
    with pytest.raises(DataError, match=r"m\.mat: a MATLAB 7\.3 file(.|\n)*save it .* with -v7"):
        read_matrix(path, "S")


def test_without_scipy_a_matlab_mask_says_what_to_install(coco10k, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    data = COCO(data_dir=str(coco10k), split="all", partition="CocoStuff10k")
    with pytest.raises(DataError, match=r"_1\.mat: .*scipy(.|\n)*pip install -r requirements-mat"):
        data.load(0)


def test_coco_refuses_a_split_of_the_other_partition(tmp_path):
    with pytest.raises(ConfigError, match='"split": "train", but CocoStuff164k has train2017'):
        COCO(data_dir=str(tmp_path), split="train")


def test_coco_10k_names_listed_images_that_are_missing(coco10k):
    (coco10k / "images" / "COCO_train2014_1.jpg").unlink()
    with pytest.raises(DataError, match=re.escape("lists 1 images that are not there:")):
        COCO(data_dir=str(coco10k), split="all", partition="CocoStuff10k")


# ---- all ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATASETS)
def test_names_colors_and_statistics_belong_together(name):
    data = DATASETS[name]
    if not data.__dict__.get("classes"):
        return
    assert len(data.classes) == len(data.palette) == len(set(data.classes))
    assert VOID_COLOR not in data.palette
    assert len(data.mean) == len(data.std) == 3
    assert all(0 < value < 1 for value in data.mean + data.std)


def test_void_is_seen_in_its_own_color():
    mask = np.array([[0, 20, 255]], np.uint8)
    shown = np.asarray(to_palette_image(mask, VOC.palette, ignore_index=255).convert("RGB"))
    assert shown.tolist() == [[[0, 0, 0], [0, 64, 128], list(VOID_COLOR)]]

"""Inputs that are odd in one way each, and were once taken without a word or ended in a crash."""

import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from color_model import ColorModel, picture_of, save_checkpoint
from PIL import Image

import evaluate
import export
import inference
import train
from dataloaders.folder import Folder
from dataloaders.scored import Predictions, labelled_folders
from tools import plan
from utils.data.color_labels import parse_label_map
from utils.errors import ConfigError, DataError, guard
from utils.files.images import bits, opened
from utils.files.written import Written
from utils.inference.inputs import Expected, read_input

SIDE = 40
LABELS = np.zeros((SIDE, SIDE), np.uint8)
LABELS[8:16, 8:24] = 1
FLAGS = ("--extension", "png", "--mode", "whole")


@pytest.fixture(name="model_file")
def _model_file(tmp_path, monkeypatch):
    monkeypatch.setattr("models.model_from_checkpoint", lambda _content: ColorModel())
    return save_checkpoint(tmp_path / "best_model.pth", ColorModel())


def run(main, *arguments):
    return guard(main, [str(one) for one in arguments])


def deep_png(path, pixels):
    """Colors of 16 bits, (H, W, 3) or with alpha, which Pillow does not write."""
    height, width, channels = pixels.shape
    kind = {3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
            crc = zlib.crc32(name + data)
            file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc))


# ---- the disk cache -------------------------------------------------------------------------


def test_the_disk_cache_depends_on_the_void_value(tmp_path):
    """Which is in no key of this label_map: pixels without a value are void by it."""
    image = np.random.default_rng(0).uniform(0, 200, (SIDE, SIDE, 3)).astype(np.float32)
    image[:4] = np.nan
    for name, array in (("images", image), ("masks", LABELS)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", array)
    for void in (255, 254, 255):
        data = Folder(
            data_dir=str(tmp_path), classes=("a", "b"), label_map={"0": 0, "1": 1},
            mean=(60,) * 3, std=(40,) * 3, ignore_index=void,
            cache="disk", cache_dir=str(tmp_path / "cache"),
        )  # fmt: skip
        data.open_cache()
        mask = data[0, 0].mask
        assert np.array_equal(np.unique(mask[:4]), [void])
        assert np.array_equal(mask[4:], LABELS[4:])


def test_the_disk_cache_tells_values_from_colors_and_8_bits_from_16(tmp_path):
    """One pair, read in four ways, has four entries."""
    rgb = np.zeros((SIDE, SIDE, 3), np.uint8)
    for name, array in (("images", LABELS.astype(np.uint16) * 257), ("masks", LABELS)):
        (tmp_path / name).mkdir()
        Image.fromarray(array).save(tmp_path / name / "b.png")
    colors, values = {"#000000": 0, "#010101": 1, "#000001": 1}, {"0": 0, "65793": 1, "1": 1}
    for first in (rgb[..., 0], rgb[..., 0].astype(np.uint16)):  # decides what all are read as
        Image.fromarray(first).save(tmp_path / "images" / "a.png")
        Image.fromarray(LABELS).save(tmp_path / "masks" / "a.png")
        for label_map in (colors, values):
            data = Folder(
                data_dir=str(tmp_path), classes=("a", "b"), label_map=label_map,
                mean=(0.5,) * 3, std=(0.2,) * 3, cache="disk", cache_dir=str(tmp_path / "cache"),
            )  # fmt: skip
            data.open_cache()
            image = data[0, 1].image
            assert image.dtype == first.dtype
    assert len([*(tmp_path / "cache").iterdir()]) == 4


# ---- two names for one value ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("label_map", "what"),
    [
        ({"#000000": 0, "#FF0000": 1, "#ff0000": 0}, '"#FF0000": 1 and "#ff0000": 0, which are'),
        ({"1": 1, "0": 0, "01": 0}, '"1": 1 and "01": 0, which are one value'),
        ({"0": 0, "1": 1, "-0": "void"}, '"0": 0 and "-0": void, which are one value'),
    ],
)  # fmt: skip
def test_a_value_in_two_spellings_has_one_class(label_map, what):
    with pytest.raises(ConfigError, match=what):
        parse_label_map(label_map, num_classes=2, ignore_index=255)


def test_two_spellings_of_one_meaning_are_fine():
    colors = {"#FF0000": 1, "#ff0000": 1, "#000000": 0}
    assert parse_label_map(colors, num_classes=2, ignore_index=255)[1] == {0xFF0000: 1, 0: 0}
    values, _, _ = parse_label_map({"1": 0, "01": 0}, num_classes=2, ignore_index=255)
    assert values == {1: 0}


def test_the_doctor_refuses_a_color_in_two_spellings(tmp_path, capsys):
    for name, array in (("images", np.zeros((SIDE, SIDE, 3), np.uint8)), ("masks", LABELS)):
        (tmp_path / name).mkdir()
        Image.fromarray(array).save(tmp_path / name / "a.png")
    args = {"data_dir": str(tmp_path), "classes": ["a", "b"], "batch_size": 1}
    args["label_map"] = {"#000000": 0, "#FF0000": 1, "#ff0000": 0}
    config = {"name": "t", "arch": {"type": "UNet"}, "trainer": {"epochs": 1, "val": False}}
    config["train_loader"] = {"type": "Folder", "args": args}
    (tmp_path / "c.json").write_text(json.dumps(config))
    assert run(train.main, "-c", tmp_path / "c.json", "--check-data") == 2
    assert '"#FF0000": 1 and "#ff0000": 0' in capsys.readouterr().err


# ---- scoring --------------------------------------------------------------------------------


def masks_in(folder, suffix=""):
    folder.mkdir(exist_ok=True)
    Image.fromarray(LABELS).save(folder / f"a{suffix}.png")
    return folder


@pytest.mark.parametrize(
    ("classes", "what"),
    [
        (("bg=0", "fg=0", "x=1"), "--classes: found bg=0 and fg=0, expected one class for 0"),
        (("bg=0", "fg=1", "void=0"), "found bg=0 and void=0"),
        (("bg=0", "fg=00"), '"0": 0 and "00": 1, which are one value'),
        (("bg", "fg=0"), "found fg=0 and bg=0, expected one class for 0"),
    ],
)
def test_two_classes_of_one_value_are_refused(tmp_path, capsys, classes, what):
    folders = "--predictions", masks_in(tmp_path / "p"), "--masks", masks_in(tmp_path / "m")
    code = run(evaluate.main, *folders, "--classes", *classes, "-o", tmp_path / "out")
    assert (code, what in capsys.readouterr().err) == (2, True)


def test_a_class_may_have_several_values(tmp_path):
    made = Predictions(
        masks_in(tmp_path / "p"), masks_in(tmp_path / "m"), ["a=0", "b=1", "b=2", "b=2"]
    )
    assert made.num_classes == 2


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["a", "b", "void=7"], [0, 1, 255]),  # a class without a value has its number
        (["a", "b=7", "void=1"], [0, 255, 1]),
        (["a=0", "b=*"], [0, 1, 1]),
        (["a=0", "b=1", "void=*"], [0, 1, 255]),
    ],
)
def test_classes_without_values_and_every_other_value(tmp_path, classes, expected):
    for name in "pm":
        (tmp_path / name).mkdir()
        Image.fromarray(np.array([[0, 1, 7]], np.uint8)).save(tmp_path / name / "a.png")
    made = Predictions(tmp_path / "p", tmp_path / "m", classes)
    assert made.load(0)[1].tolist() == [expected]


def test_every_other_color_is_a_class(tmp_path):
    colors = np.array([[[0, 0, 0], [255, 0, 0], [1, 2, 3]]], np.uint8)
    for name in "pm":
        (tmp_path / name).mkdir()
        Image.fromarray(colors).save(tmp_path / name / "a.png")
    made = Predictions(tmp_path / "p", tmp_path / "m", ["a=#000000", "b=*"])
    assert made.load(0)[1].tolist() == [[0, 1, 1]]


@pytest.mark.parametrize(("classes", "expected"), [(["a", "b"], [0, 1, 255]), (["a", "b=7"], None)])
def test_nodata_of_a_raster_of_labels_is_void_unless_it_is_a_class(tmp_path, classes, expected):
    for name in "pm":
        (tmp_path / name).mkdir()
        tifffile.imwrite(
            tmp_path / name / "a.tif",
            np.array([[0, 1 if expected else 0, 7]], np.uint8),
            extratags=[(42113, "s", 0, "7", True)],
        )
    made = Predictions(tmp_path / "p", tmp_path / "m", classes)
    assert made.load(0)[1].tolist() == [expected or [0, 0, 1]]


def test_folders_without_what_is_scored_are_told(tmp_path, capsys, monkeypatch):
    """No other folders of where the user happens to stand are proposed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    masks_in(tmp_path / "images")
    masks_in(tmp_path / "masks")
    flags = ("--predictions", "images", "--masks", "empty", "--classes", "a", "b")
    assert run(evaluate.main, *flags, "-o", "out") == 3
    assert "--masks empty: found no mask there" in capsys.readouterr().err
    masks_in(tmp_path / "other")
    gray = {"mean": [0.5] * 3, "std": [0.5] * 3, "ignore_index": 255}
    about = gray | {"classes": ["a", "b"], "palette": [[0, 0, 0], [9, 9, 9]]}
    with pytest.raises(DataError) as caught:
        labelled_folders(Path("other"), Path("empty"), "Folder", {}, about)
    assert '"images"' not in str(caught.value)


@pytest.mark.parametrize("kind", ["values", "colors", "JPEG"])
def test_codes_that_the_classes_do_not_name_are_cured_by_a_flag(tmp_path, kind):
    mask = np.full((8, 8), 77, np.uint8)
    picture = Image.fromarray(mask).convert("L" if kind == "values" else "RGB")
    for name in "pm":
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / ("a.jpg" if kind == "JPEG" else "a.png"))
    names = ["a", "b"] if kind == "values" else ["a=#000000", "b=#FFFFFF"]
    with pytest.raises(DataError) as caught:
        Predictions(tmp_path / "p", tmp_path / "m", names).load(0)
    assert "label_" not in str(caught.value)
    assert "fix: --classes with what the masks hold" in str(caught.value)


def test_labels_are_not_scored_by_themselves(tmp_path, capsys):
    folder = masks_in(tmp_path / "m")
    (tmp_path / "link").symlink_to(folder)
    for other in (folder, tmp_path / "link", folder / "*.png"):
        flags = ("--predictions", other, "--masks", folder, "--classes", "a", "b")
        assert run(evaluate.main, *flags, "-o", tmp_path / "out") == 2
        assert "which is the file that --masks names too" in capsys.readouterr().err
    masks_in(folder, "_pred")
    (folder / "a.png").rename(folder / "a_mask.png")
    made = Predictions(folder / "*_pred.png", folder / "*_mask.png", ["a", "b"])
    assert [path.name for path in made.pairs[0]] == ["a_mask.png", "a_pred.png"]


@pytest.mark.parametrize("mean", [None, (0.5,), (0.5, 0.5)])
def test_alpha_beside_gray_is_no_channel_unless_two_are_expected(tmp_path, mean):
    masks_in(tmp_path / "masks")
    (tmp_path / "images").mkdir()
    Image.fromarray(LABELS).convert("LA").save(tmp_path / "images" / "a.png")
    data = Folder(
        data_dir=str(tmp_path),
        images="images",
        masks="masks",
        classes=("a", "b", "c"),
        mean=mean,
        std=mean,
    )
    channels = len(mean or "RGB")
    assert data.kind == (channels, "uint8")
    assert data.load(0)[0].shape == (*LABELS.shape, channels)


# ---- 16 bits --------------------------------------------------------------------------------


def test_the_bits_of_a_file_are_told_whatever_pillow_opens_it_as(tmp_path):
    gray = LABELS.astype(np.uint16) * 60000
    wide = np.repeat(gray[..., None], 4, 2)
    deep_png(tmp_path / "rgb.png", wide[..., :3])
    deep_png(tmp_path / "rgba.png", wide)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    tifffile.imwrite(tmp_path / "gray.tif", gray)
    tifffile.imwrite(tmp_path / "rgb.tif", wide[..., :3])
    tifffile.imwrite(tmp_path / "lzw.tif", wide[..., :3], compression="zlib")
    deep = sorted(tmp_path.iterdir())
    for suffix in ("png", "jpg", "tif", "bmp"):
        Image.fromarray(wide[..., :3].astype(np.uint8)).save(tmp_path / f"eight.{suffix}")
    Image.fromarray(LABELS).convert("P").save(tmp_path / "palette.png")
    for path in tmp_path.iterdir():
        with opened(path) as image:
            assert bits(image) == (16 if path in deep else 8), path


def test_one_line_warns_of_16_bits_for_a_model_of_8(model_file, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    image = picture_of(np.zeros((SIDE, SIDE), np.uint8))
    Image.fromarray(image).save(folder / "a.png")
    flags = ("-m", model_file, "-i", folder, *FLAGS)
    assert run(inference.main, *flags, "-o", tmp_path / "one") == 0
    assert "16 bits" not in capsys.readouterr().err
    for name in "bc":
        deep_png(folder / f"{name}.png", image.astype(np.uint16) * 257)
    assert run(inference.main, *flags, "-o", tmp_path / "two") == 0
    said = capsys.readouterr().err
    assert said.count("16 bits") == 1
    assert "b.png has 16 bits, of which the upper 8 are used" in said
    one, two = (np.asarray(Image.open(tmp_path / name)) for name in ("one/a.png", "two/b.png"))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_of_16_bits_is_read_by_its_upper_bytes_or_refused(tmp_path, planes, compression):
    pixels = np.random.default_rng(0).integers(0, 2**16, (SIDE, 30, 3)).astype(np.uint16)
    stored = pixels if planes == "contig" else pixels.transpose(2, 0, 1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, planarconfig=planes, photometric="rgb", compression=compression)
    expected = Expected(3, "uint8", (0.0,) * 3)
    if (planes, compression) == ("separate", None):  # which Pillow reads as noise
        with pytest.raises(DataError, match="found colors of 16 bits in separate planes"):
            read_input(path, expected)
    else:
        assert np.array_equal(read_input(path, expected).pixels, pixels >> 8)
    tifffile.imwrite(path, pixels[..., 0], extratags=[(284, 3, 1, 2, True)])  # one plane of gray
    assert np.array_equal(read_input(path, expected).pixels[..., 0], pixels[..., 0] >> 8)


# ---- a folder where a file is to be written -------------------------------------------------


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_a_folder_is_not_replaced_by_an_export(model_file, tmp_path, capsys, monkeypatch, flags):
    monkeypatch.setattr(export, "_export", None)  # nothing is done before it is refused
    (tmp_path / "dir.onnx").mkdir()
    assert run(export.main, "-m", model_file, "-o", tmp_path / "dir.onnx", *flags) == 2
    assert "dir.onnx: found a folder, expected to write a file of" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["there", "."])
@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_a_folder_is_not_replaced_by_a_plan(tmp_path, capsys, monkeypatch, output, flags):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert run(plan.main, "nowhere", "-o", output, *flags) == 2
    assert re.search(r"(there|\.): found a folder, expected", capsys.readouterr().err)


def test_a_link_to_a_folder_is_replaced_as_any_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "there")
    written = Written(tmp_path)
    written.refuse_others([tmp_path / "a"], overwrite=True)
    written.write(tmp_path / "a", lambda path: path.write_text("x"))
    assert (tmp_path / "a").read_text() == "x"
    assert (tmp_path / "there").is_dir()


def test_the_fix_that_export_prints_for_extensions_can_be_typed(model_file, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.webp"):
        Image.fromarray(picture_of(np.zeros((SIDE, SIDE), np.uint8))).save(folder / name)
    flags = ("-m", model_file, "-o", tmp_path / "m.pt2", "-i", folder, "--size", SIDE, SIDE)
    assert run(export.main, *flags) == 3
    fix = re.search("fix: (--extension .*)", capsys.readouterr().err)[1]
    assert sorted(fix.split()[1:]) == ["png", "webp"]
    assert run(export.main, *flags, *fix.split()) == 0
    assert capsys.readouterr().out.count("1 x 3 x 40 x 40") == 3  # one is generated


# ---- a palette raster's nodata --------------------------------------------------------------


def test_nodata_of_a_palette_mask_is_void(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    raw = np.where(LABELS, 20, 10).astype(np.uint8)
    raw[30:] = 0
    tifffile.imwrite(
        tmp_path / "masks" / "a.tif", raw, photometric="palette",
        colormap=np.zeros((3, 256), np.uint16), extratags=[(42113, 2, 2, "0", True)],
    )  # fmt: skip
    expected = np.where(np.arange(SIDE)[:, None] >= 30, 255, LABELS)
    args = {"data_dir": str(tmp_path), "classes": ("a", "b")}
    mapped = Folder(**args, label_map={"10": 0, "20": 1})
    assert np.array_equal(mapped.load(0)[1], expected)
    stated = Folder(**args, label_map={"10": 0, "20": 1, "0": 1})  # a class all the same
    assert np.array_equal(stated.load(0)[1], np.where(expected == 255, 1, expected))

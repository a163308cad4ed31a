import json
import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from dataloaders.folder import Folder
from utils.errors import ConfigError, DataError

CLASSES = ("field", "house", "water")
COLORS = {"#3C1098": 0, "#8429F6": 1, "#6EC1E4": 2, "#9B9B9B": "void"}


def write(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    else:
        Image.fromarray(pixels).save(path, **options)


def pair(root, image, mask, value=0, labels=(0, 1, 2, 255)):
    write(root / image, np.full((8, 12, 3), value, np.uint8), **({"quality": 100} if "jpg" in image
                                                                 else {}))  # fmt: skip
    write(root / mask, np.resize(np.array(labels, np.uint8), (8, 12)))


def folder(root, **options):
    return Folder(**({"data_dir": str(root), "classes": CLASSES} | options))


def values(data):
    return [int(data.load(index)[0][0, 0, 0]) for index in range(len(data))]


def test_a_drive_that_is_not_there_is_explained(monkeypatch):
    def missing(self):
        raise FileNotFoundError(2, "cannot find the path specified")

    monkeypatch.setattr(Path, "is_dir", lambda _: False)
    monkeypatch.setattr(Path, "iterdir", missing)
    with pytest.raises(DataError, match=r"no such folder(?s:.*)holds what cannot be listed"):
        folder("Z:/data")


# ---- which files belong together ------------------------------------------------------------


def test_sub_folders_of_any_depth_are_paired_by_relative_stem(tmp_path):
    for number, name in enumerate(("b/x.y", "a/x.y", "a b/ü 'q'", "z")):
        pair(tmp_path, f"images/{name}.PNG", f"masks/{name}.png", value=number)
    (tmp_path / "images" / ".DS_Store").touch()
    (tmp_path / "images" / "a" / "._x.png").touch()
    (tmp_path / "images" / "notes.txt").touch()
    data = folder(tmp_path)
    assert values(data) == [2, 1, 0, 3]
    assert data.load(0)[1].ravel()[:4].tolist() == [0, 1, 2, 255]


@pytest.mark.parametrize("layout", ["images/{split}", "{split}/images"])
def test_split_is_a_sub_folder(tmp_path, layout):
    for number, split in enumerate(("train", "val")):
        images = layout.format(split=split)
        pair(tmp_path, f"{images}/a.png", f"{images.replace('images', 'masks')}/a.png", number)
    assert values(folder(tmp_path, split="val")) == [1]


def test_patterns_are_paired_by_their_stars(tmp_path):
    for number, tile in enumerate(("Tile 2", "Tile 1", "Tile 10")):
        pair(tmp_path, f"{tile}/images/p_1.jpg", f"{tile}/masks/p_1_label.png", value=number * 50)
    options = {"images": "*/images/*.jpg", "masks": "*/masks/*_label.png"}
    assert values(folder(tmp_path, **options)) == [50, 100, 0]
    assert values(folder(tmp_path, **options, split=("Tile 2", "Tile 1"))) == [50, 0]
    assert values(folder(tmp_path, **options, split="Tile 10")) == [100]


def test_a_double_star_stands_for_any_folders(tmp_path):
    pair(tmp_path, "in/a/b/x.png", "out/a/b/x.png", value=1)
    pair(tmp_path, "in/x.png", "out/x.png", value=2)
    assert values(folder(tmp_path, images="in/**/*.png", masks="out/**/*.png")) == [2, 1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val.csv", "image,mask\nimages/b.png,masks/b.png\nimages/a.png,masks/a.png\n"),
        ("val.csv", "/images/b.png, masks/b.png\nimages/a.png,masks/a.png\n"),
        ("val.txt", "images/b.png masks/b.png\n\nimages/a.png masks/a.png\n"),
        ("val.txt", "b.png\na\n"),
        ("val.csv", "name\nb\na\n"),
        ("val.csv", "\ufeffimage,mask\nimages/b.png,masks/b.png\nimages/a.png,masks/a.png\n"),
        ("val.csv", "\ufeffb\na\n"),
        ("val.csv", "image_path,label_path\nimages/b.png,masks/b.png\nimages/a.png,masks/a.png\n"),
        ("val.csv", "img;msk\nimages/b.png;masks/b.png\nimages/a.png;masks/a.png\n"),
        ("val.csv", "images/b.png\tmasks/b.png\nimages/a.png\tmasks/a.png\n"),
        ("val.csv", "images\\b.png,masks\\b.png\nimages\\a.png,masks\\a.png\n"),
        ("val.csv", "{root}/images/b.png,{root}/masks/b.png\nimages/a.png,masks/a.png\n"),
        ("val.csv", "b.png,b.png\na.png,a.png\n"),
        ("val.txt", "images/b.png\nimages\\a.png\n"),
        ("val.txt", "{root}/images/b.png\n{root}/images/a.png\n"),
    ],
)
def test_split_is_a_list(tmp_path, name, text):
    for number, stem in enumerate("abc"):
        pair(tmp_path, f"images/{stem}.png", f"masks/{stem}.png", value=number)
    (tmp_path / name).write_text(text.format(root=tmp_path), encoding="utf-8")
    assert sorted(values(folder(tmp_path, split=name))) == [0, 1]


def test_a_list_may_hold_names_with_spaces(tmp_path):
    pair(tmp_path, "images/my photo.png", "masks/my mask.png", value=9)
    (tmp_path / "all.txt").write_text("images/my photo.png masks/my mask.png\n")
    assert values(folder(tmp_path, split="all.txt")) == [9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "train"}, r"images/train: no such folder\n.*data_dir/masks/train"),
        ({"images": "photos"}, r"photos: no such folder\n(.|\n)*holds images, masks"),
        ({"images": "*.tif", "masks": "*.png"}, r"no file matches \*\.tif\n  found: .* holds im"),
        ({"images": "*/images/*.png", "masks": "*/m/*.png", "split": ("x", "y")},
         r"no file matches .* with the first star one of x, y"),
        ({"images": "*/*.png", "masks": "*/*.png", "split": ("images", "imgaes")},
         r"\*/\*\.png: no file with the first star imgaes\n  found: .*images, masks"),
        ({"split": "val.txt"}, r"val\.txt: no such list"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(tmp_path, options, message):
    pair(tmp_path, "images/a.png", "masks/a.png")
    with pytest.raises(DataError, match=message):
        folder(tmp_path, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images/a.png masks/b.png\n", r"lists 1 masks that are not there:\n.*masks/b\.png"),
        ("images/c.png,masks/a.png\n", r"lists 1 images that are not there:\n.*images/c\.png"),
        ("zzz\n", r"lists 1 images that are not there:\n    zzz"),
        ("a,b,c\n", "found a line of 3 fields: a b c"),
        ("x\n", r"x could be any of p/x, q/x"),
    ],
)
def test_a_wrong_list_is_explained(tmp_path, text, message):
    for name in ("a", "p/x", "q/x"):
        pair(tmp_path, f"images/{name}.png", f"masks/{name}.png")
    (tmp_path / "all.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        folder(tmp_path, split="all.txt")


def test_masks_of_other_names_are_shown(tmp_path):
    pair(tmp_path, "images/a.png", "masks/a_mask.png")
    with pytest.raises(DataError) as caught:
        folder(tmp_path)
    assert "found: 1 masks without an image, such as a_mask.png\n" in str(caught.value)
    assert '"images": "images/*.png", "masks": "masks/*_mask.png"' in str(caught.value)
    assert values(folder(tmp_path, images="images/*.png", masks="masks/*_mask.png")) == [0]


def test_masks_of_other_names_in_sub_folders_are_shown(tmp_path):
    pair(tmp_path, "images/t/a.jpg", "masks/t/seg_a.png")
    with pytest.raises(DataError) as caught:
        folder(tmp_path)
    patterns = {"images": "images/**/*.jpg", "masks": "masks/**/seg_*.png"}
    assert json.dumps(patterns)[1:-1] in str(caught.value)
    assert values(folder(tmp_path, **patterns)) == [0]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    pair(tmp_path, "images/a.png", "masks/a.png")
    (tmp_path / "images" / "secret").mkdir()
    really = os.scandir

    def scandir(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"secret: the folder cannot be read: Permission denied"):
        folder(tmp_path)


def test_names_of_a_mac_and_of_others_are_the_same(tmp_path):
    mac, other = (unicodedata.normalize(form, "é") for form in ("NFD", "NFC"))
    pair(tmp_path, f"images/{mac}.png", f"masks/{other}.png")
    (tmp_path / "all.txt").write_text(f"{other}.png\n", encoding="utf-8")
    assert values(folder(tmp_path)) == [0]
    assert values(folder(tmp_path, split="all.txt")) == [0]
    assert values(folder(tmp_path, images="images/*.png", masks="masks/*.png")) == [0]


def test_a_folder_that_links_to_itself_is_read_once(tmp_path):
    pair(tmp_path, "images/a.png", "masks/a.png")
    pair(tmp_path, "more/b.png", "masks/more/b.png", value=1)
    (tmp_path / "images" / "self").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "more").symlink_to(tmp_path / "more")
    assert values(folder(tmp_path)) == [0, 1]


def test_missing_partners_and_double_names_are_refused(tmp_path):
    pair(tmp_path, "images/a.png", "masks/a.png")
    pair(tmp_path, "images/b.png", "masks/other.png")
    with pytest.raises(DataError, match=r"masks: no mask for 1 of 2 images:\n.*images/b\.png"):
        folder(tmp_path)
    pair(tmp_path, "images/b.jpg", "masks/b.png")
    with pytest.raises(DataError, match=r"two files share one name: b\.jpg and b\.png"):
        folder(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "*/i/*.png"}, "two sub-folders, or two patterns with stars"),
        ({"split": ("a", "b")}, '"split" is a list, but "images" has no star'),
        ({"label_map": {"x": 0}}, 'found the key "x"'),
        ({"label_map": {"#12345": 0}}, 'found "#12345", expected a color as "#RRGGBB"'),
        ({"label_map": {"0": 3}}, '"0" is mapped to 3, but there are 3 classes'),
        ({"label_map": {"0": 0, "#000000": 1}}, "values and colors are mixed"),
        ({"mean": (0.5,)}, '"mean" and "std" belong together'),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, '"mean" and "std" belong together'),
        ({"colours": ("#000000",)}, "1 colors for 3 classes"),
        ({"classes": ("a", "b", "a")}, 'found "a" twice in "classes"'),
        (
            {"classes": ("road",), "label_map": {"0": "void", "255": 0}},
            'fix: "classes": ["background", "road"], "label_map": {"0": 0, "255": 1}',
        ),
    ],
)
def test_wrong_settings_are_refused(tmp_path, options, message):
    pair(tmp_path, "images/a.png", "masks/a.png")
    with pytest.raises(ConfigError, match=re.escape(message)):
        folder(tmp_path, **options)


# ---- labels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ignore_index", [255, -1, 3])
def test_without_a_map_masks_hold_train_ids_and_ignore_index(tmp_path, ignore_index):
    pair(tmp_path, "images/a.png", "masks/a.png", labels=(0, 2, ignore_index % 256))
    data = folder(tmp_path, ignore_index=ignore_index)
    if ignore_index < 0:
        with pytest.raises(DataError, match=r"values outside the classes: 255"):
            data.load(0)
    else:
        assert data.load(0)[1].ravel()[:3].tolist() == [0, 2, ignore_index]


@pytest.mark.parametrize(
    ("label_map", "labels"),
    [(None, (0, 1, 2)), ({"7": 0, "8": 1, "9": 2, "255": "void"}, (7, 8, 9))],
)
def test_an_ignore_index_that_is_a_class_is_refused_with_what_makes_it_void(
    tmp_path, label_map, labels
):
    with pytest.raises(ConfigError) as caught:  # before any file is looked for
        folder(tmp_path, ignore_index=1, label_map=label_map)
    refused, mended, _, line = str(caught.value).splitlines()
    assert refused == (
        'ignore_index: found 1, the number of class "house": all of it would be void'
    )
    assert mended == '  fix: "ignore_index": 255'
    pair(tmp_path, "images/a.png", "masks/a.png", labels=labels)
    data = folder(tmp_path, ignore_index=255, **json.loads("{" + line + "}"))
    assert data.load(0)[1].ravel()[:3].tolist() == [0, 255, 2]


def test_values_are_mapped(tmp_path):
    pair(tmp_path, "images/a.png", "masks/a.png", labels=(0, 255, 7))
    label_map = {"0": 0, "255": 1, "7": "void"}
    data = folder(tmp_path, label_map=label_map, ignore_index=-1)
    assert data.load(0)[1].ravel()[:3].tolist() == [0, 1, -1]
    with pytest.raises(DataError, match=r"a\.png: label values outside the classes: 7"):
        folder(tmp_path, label_map={"0": 0, "255": 1}).load(0)


def color_mask(mode="RGB"):
    codes = [[int(key[i : i + 2], 16) for i in (1, 3, 5)] for key in COLORS]
    image = Image.fromarray(np.resize(np.array(codes, np.uint8), (8, 12, 3)))
    return image.quantize(8) if mode == "P" else image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("ignore_index", [255, -1])
def test_colors_are_mapped_and_shown(tmp_path, mode, ignore_index):
    pair(tmp_path, "images/a.png", "masks/a.png")
    color_mask(mode).save(tmp_path / "masks" / "a.png")
    data = folder(tmp_path, label_map=COLORS, ignore_index=ignore_index)
    for _ in range(2):  # colors that were met before take another path
        assert data.load(0)[1].ravel()[:5].tolist() == [0, 1, 2, ignore_index, 0]
    assert data.palette == ((0x3C, 0x10, 0x98), (0x84, 0x29, 0xF6), (0x6E, 0xC1, 0xE4))
    shown = folder(tmp_path, label_map=COLORS, colours=("#000001", "#000002", "#000003")).palette
    assert shown == ((0, 0, 1), (0, 0, 2), (0, 0, 3))


def test_an_unknown_color_is_named_with_its_cure(tmp_path):
    pair(tmp_path, "images/a.png", "masks/a.png")
    color_mask().save(tmp_path / "masks" / "a.png")
    less = {key: value for key, value in COLORS.items() if key != "#9B9B9B"}
    with pytest.raises(DataError) as caught:
        folder(tmp_path, label_map=less).load(0)
    assert "colors that label_map does not know: #9B9B9B (24 px)\n" in str(caught.value)
    assert "known: #3C1098, #8429F6, #6EC1E4\n" in str(caught.value)
    near = less | {"#9B9B99": "void"}
    with pytest.raises(DataError, match='within 2 of a known color: "label_tolerance": 2'):
        folder(tmp_path, label_map=near).load(0)
    assert folder(tmp_path, label_map=near, label_tolerance=2).load(0)[1][0, 3] == 255


def blocks():
    return np.kron(np.array([[0, 1], [1, 0]], np.uint8), np.ones((16, 16), np.uint8))


def test_jpeg_masks_need_a_tolerance(tmp_path):
    write(tmp_path / "images" / "a.png", np.zeros((32, 32, 3), np.uint8))
    write(tmp_path / "masks" / "a.jpg", blocks() * 255, quality=60)
    label_map = {"0": 0, "255": 1}
    with pytest.raises(DataError, match=r"a\.jpg: a JPEG-compressed mask"):
        folder(tmp_path, label_map=label_map).load(0)
    data = folder(tmp_path, label_map=label_map, label_tolerance=100)
    assert (data.load(0)[1] == blocks()).mean() > 0.99


def test_jpeg_color_masks_need_a_tolerance(tmp_path):
    write(tmp_path / "images" / "a.png", np.zeros((32, 32, 3), np.uint8))
    colours = np.array([[200, 30, 30], [20, 20, 220]], np.uint8)
    write(tmp_path / "masks" / "a.jpg", colours[blocks()], quality=80)
    label_map = {"#C81E1E": 0, "#1414DC": 1}
    with pytest.raises(DataError, match=r"a\.jpg: a JPEG-compressed mask(.|\n)*label_tolerance"):
        folder(tmp_path, label_map=label_map).load(0)
    data = folder(tmp_path, label_map=label_map, label_tolerance=90)
    assert (data.load(0)[1] == blocks()).mean() > 0.97


@pytest.mark.parametrize("suffix", [".png", ".npy", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_of_other_formats(tmp_path, suffix, dtype):
    write(tmp_path / "images" / "a.png", np.zeros((8, 12, 3), np.uint8))
    mask = np.resize(np.array([0, 1, 300 if dtype == np.uint16 else 30], dtype), (8, 12))
    write(tmp_path / "masks" / f"a{suffix}", mask)
    data = folder(tmp_path, label_map={"0": 0, "1": 2, "300": 1, "30": 1})
    assert data.load(0)[1].ravel()[:3].tolist() == [0, 2, 1]


@pytest.mark.parametrize("array", [np.zeros((8, 12), np.complex64), np.zeros((8, 12, 2), np.uint8)])
def test_a_mask_array_must_hold_integers(tmp_path, array):
    write(tmp_path / "images" / "a.png", np.zeros((8, 12, 3), np.uint8))
    write(tmp_path / "masks" / "a.npy", array)
    with pytest.raises(DataError, match=r"a\.npy: found .*expected integers \(H, W\)"):
        folder(tmp_path).load(0)


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_a_mask_of_broken_numbers_is_refused(tmp_path, suffix):
    write(tmp_path / "images" / "a.png", np.zeros((8, 12, 3), np.uint8))
    write(tmp_path / "masks" / f"a{suffix}", np.full((8, 12), 0.25, np.float32))
    with pytest.raises(DataError, match=rf"a\{suffix}: floating-point values, such as 0.25, exp"):
        folder(tmp_path).load(0)

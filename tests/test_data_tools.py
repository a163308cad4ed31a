import json

import numpy as np
import pytest
from PIL import Image, ImageFont
from scipy.io import savemat
from scipy.sparse import csc_matrix

from dataloaders.folder import Folder
from dataloaders.shapes import Shapes
from dataloaders.voc import VOC
from tools import mean_std, preview, sbd
from utils.drawing.palette import voc_palette
from utils.errors import ConfigError, DataError
from utils.evaluation.summary import short_names


def config(folder, data, **extra):
    """Write a config whose training data are `data`."""
    path = folder / "config.json"
    text = {
        "name": "tools",
        "arch": {"type": "UNet", "args": {}},
        "train_loader": {"type": data.pop("type"), "args": {"batch_size": 2, **data}},
        "trainer": {"val": False},
    }
    path.write_text(json.dumps(text | extra))
    return str(path)


@pytest.fixture
def bands(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    stack = []
    for name in "abc":
        pixels = rng.integers(0, 65536, (10, 12, 5)).astype(np.uint16) // np.arange(1, 6)
        stack.append(pixels)
        np.save(tmp_path / "images" / f"{name}.npy", pixels.astype(np.uint16))
        Image.fromarray(np.zeros((10, 12), np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path, np.stack(stack) / 65535


def test_statistics_are_those_of_numpy_and_make_the_config_work(bands, capsys):
    root, pixels = bands
    data = {"type": "Folder", "data_dir": str(root), "classes": ["a", "b"]}
    assert mean_std.main(["--config", config(root, data)]) == 0
    title, line = capsys.readouterr().out.splitlines()
    assert title == "3 of 3 images, 5 channels of uint16"
    found = json.loads("{" + line + "}")
    assert np.allclose(found["mean"], pixels.mean(axis=(0, 1, 2)), atol=1e-4)
    assert np.allclose(found["std"], pixels.std(axis=(0, 1, 2)), atol=1e-4)


def test_statistics_of_arrays_whose_channels_come_first(bands, capsys):
    root, pixels = bands
    for name in "abc":
        path = root / "images" / f"{name}.npy"
        np.save(path, np.load(path).transpose(2, 0, 1))
    data = {"type": "Folder", "data_dir": str(root), "classes": ["a", "b"]}
    assert mean_std.main(["--config", config(root, data)]) == 0
    found = json.loads("{" + capsys.readouterr().out.splitlines()[1] + "}")
    assert np.allclose(found["mean"], pixels.mean(axis=(0, 1, 2)), atol=1e-4)


def test_statistics_of_faint_bands_keep_their_digits(bands, capsys):
    root, _ = bands
    faint = np.random.default_rng(1).integers(0, 5, (3, 10, 12, 5)).astype(np.uint16)
    for name, pixels in zip("abc", faint, strict=True):
        np.save(root / "images" / f"{name}.npy", pixels)
    data = {"type": "Folder", "data_dir": str(root), "classes": ["a", "b"]}
    assert mean_std.main(["--config", config(root, data)]) == 0
    found = json.loads("{" + capsys.readouterr().out.splitlines()[1] + "}")
    assert np.allclose(found["std"], faint.std(axis=(0, 1, 2)) / 65535, rtol=1e-3)


def test_statistics_of_a_sample_and_of_generated_images(tmp_path, capsys):
    path = config(tmp_path, {"type": "Shapes", "length": 20, "height": 32, "width": 32})
    assert mean_std.main(["-c", path, "--images", "5", "--set", "seed=1"]) == 0
    assert "5 of 20 images, 3 channels of uint8" in capsys.readouterr().out


def test_statistics_refuse_what_makes_no_sense(bands):
    root, _ = bands
    with pytest.raises(ConfigError, match="--images: found 0, expected at least 1"):
        mean_std.main(["--images", "0"])
    for name in "abc":
        np.save(root / "images" / f"{name}.npy", np.full((10, 12, 5), 7, np.uint16))
    data = {"type": "Folder", "data_dir": str(root), "classes": ["a", "b"]}
    with pytest.raises(DataError, match="channel 0, 1, 2, 3, 4 has the same value everywhere"):
        mean_std.main(["--config", config(root, data)])


def test_a_contact_sheet_shows_samples_masks_and_classes(tmp_path, capsys):
    path = config(tmp_path, {"type": "Shapes", "length": 20, "height": 48, "width": 64,
                             "augment": True, "crop_size": 40, "flip": True})  # fmt: skip
    out = tmp_path / "sheet.png"
    assert preview.main(["-c", path, "-o", str(out), "-n", "6"]) == 0
    assert str(out) in capsys.readouterr().out
    sheet = np.asarray(Image.open(out))
    data = Shapes(length=20, height=48, width=64, augment=True, crop_size=40, flip=True)
    samples = [data[(0, index)] for index in range(20)]
    found = sum(any((tile == sample.image).all() for sample in samples) for tile in tiles(sheet))
    assert found == 6
    for color in Shapes.palette:  # bars of the histogram
        assert (sheet == color).all(axis=2).sum() >= 8


def tiles(sheet):
    for top in range(sheet.shape[0] - 40):
        for left in range(sheet.shape[1] - 40):
            corner = sheet[top, left]
            if (corner != preview.PAPER).any():
                yield sheet[top : top + 40, left : left + 40]


def test_what_is_held_out_is_neither_shown_nor_counted(tmp_path, capsys):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for value in range(15, 95, 10):  # half of each image is of a gray of its own
        pixels = np.full((16, 16, 3), value, np.uint8)
        pixels[8:] = 200
        Image.fromarray(pixels).save(tmp_path / f"images/{value:02}.png")
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / f"masks/{value:02}.png")
    data = {"type": "Folder", "data_dir": str(tmp_path), "classes": ["a", "b"]}
    whole = Folder(data_dir=str(tmp_path), classes=("a", "b"), val_split=0.25)
    held_out = whole.split_off()
    trained = [whole.load(index)[0] for index in range(6)]
    path = config(tmp_path, data | {"val_split": 0.25}, trainer={})
    assert mean_std.main(["-c", path]) == 0
    title, line = capsys.readouterr().out.splitlines()
    assert title == "6 of 6 images, 3 channels of uint8"
    found = json.loads("{" + line + "}")
    assert np.allclose(found["mean"], np.mean(trained, axis=(0, 1, 2)) / 255, rtol=1e-3)
    assert np.allclose(found["std"], np.std(trained, axis=(0, 1, 2)) / 255, rtol=1e-3)
    assert preview.main(["-c", path, "-o", str(tmp_path / "sheet.png")]) == 0
    assert "6 samples of 6" in capsys.readouterr().out
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))

    def is_shown(data, index):
        return (sheet == data.load(index)[0][0, 0]).all(axis=2).sum() >= 8 * 16

    assert all(is_shown(whole, index) for index in range(6))
    assert not any(is_shown(held_out, index) for index in range(2))


@pytest.mark.parametrize(("name", "lines"), [("short.png", 1), ("aachen_000000_000019_x.png", 2)])
def test_a_caption_shows_the_whole_name(name, lines):
    shown = preview._lines(name, 120)
    assert "".join(shown) == name
    assert len(shown) == lines
    assert max(map(ImageFont.load_default().getlength, shown)) <= 120


def test_a_contact_sheet_of_five_bands(bands, capsys):
    root, _ = bands
    data = {"type": "Folder", "data_dir": str(root), "classes": ["a", "b"],
            "mean": [0.5] * 5, "std": [0.2] * 5}  # fmt: skip
    out = root / "new" / "sheet.png"
    assert preview.main(["-c", config(root, data), "--output", str(out)]) == 0
    assert np.asarray(Image.open(out)).shape[2] == 3
    assert "3 samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["d/Tile 1/i/x.npy", "d/Tile 2/i/x.npy"], ["Tile 1/i/x.npy", "Tile 2/i/x.npy"]),
        (["d/i/x.npy", "d/i/y.npy"], ["x.npy", "y.npy"]),
        (["d/i/x.npy", "d/i/x.npy"], ["x.npy", "x.npy"]),
        (["x.npy"], ["x.npy"]),
        (["/a/x.npy", "/b/x.npy"], ["a/x.npy", "b/x.npy"]),
    ],
)
def test_samples_of_one_file_name_are_told_apart(names, expected):
    assert short_names(names) == expected


def test_a_contact_sheet_needs_a_sample(tmp_path):
    with pytest.raises(ConfigError, match="--number: found 0, expected at least 1"):
        preview.main(["-n", "0"])
    with pytest.raises(ConfigError, match="--epoch: found -1, expected at least 0"):
        preview.main(["--epoch", "-1"])


def write_sbd(path, mask):
    """Write a structure GTcls as SBD has it: outlines, labels, and which classes occur."""
    outlines = np.empty((20, 1), object)
    for label in range(20):
        outlines[label, 0] = csc_matrix(mask == label + 1)
    fields = {"Boundaries": outlines, "Segmentation": mask, "CategoriesPresent": np.unique(mask)}
    savemat(path, {"GTcls": fields}, do_compression=True)


@pytest.fixture
def release(tmp_path):
    """VOC with train `a` and val `b`; SBD with `b`, `c` and `d`."""
    home = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (home / folder).mkdir(parents=True)
    for name in "abcd":
        Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(home / f"JPEGImages/{name}.jpg")
    for split, name in (("train", "a"), ("val", "b")):
        (home / f"ImageSets/Segmentation/{split}.txt").write_text(f"{name}\n")
        own = Image.fromarray(np.full((6, 9), 255 if name == "a" else 7, np.uint8))
        own.putpalette(bytes(768))
        own.save(home / f"SegmentationClass/{name}.png")
    cls = tmp_path / "sbd" / "dataset" / "cls"
    cls.mkdir(parents=True)
    for number, name in enumerate("bcd"):
        write_sbd(
            cls / f"{name}.mat", np.arange(54, dtype=np.uint8).reshape(6, 9) % 21 // (number + 1)
        )
    return tmp_path


def test_sbd_makes_masks_and_lists_that_voc_reads(release, capsys):
    assert sbd.main(["--sbd", str(release / "sbd"), "--data-dir", str(release)]) == 0
    out = capsys.readouterr().out
    assert "4 masks in " in out
    assert "lists: train_aug 3, val_aug 1, trainval_aug 4" in out
    data = VOC(data_dir=str(release), split="train_aug")
    names = [data.name(index)[-5:] for index in range(len(data))]
    assert names == ["a.jpg", "c.jpg", "d.jpg"]  # nothing of val
    assert (data.load(0)[1] == 255).all()
    assert (data.load(1)[1] == np.arange(54).reshape(6, 9) % 21 // 2).all()
    # VOC's own mask wins over SBD's, and the colors are VOC's.
    mask = Image.open(release / "VOCdevkit/VOC2012/SegmentationClassAug/b.png")
    assert (np.asarray(mask) == 7).all()
    assert tuple(np.asarray(mask.convert("RGB"))[0, 0]) == voc_palette(8)[7]
    assert len(VOC(data_dir=str(release), split="trainval_aug")) == 4
    assert len(VOC(data_dir=str(release), split="val_aug")) == 1


def test_sbd_says_what_it_looked_for(release):
    arguments = ["--sbd", str(release / "nowhere"), "--data-dir", str(release)]
    with pytest.raises(DataError, match=r"dataset/cls: no such folder\n.*benchmark_RELEASE"):
        sbd.main(arguments)
    (release / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(DataError, match=r"val\.txt: no such list"):
        sbd.main(["--sbd", str(release / "sbd"), "--data-dir", str(release)])


def test_a_damaged_mask_of_sbd_is_named(release):
    path = release / "sbd/dataset/cls/c.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"c\.mat: not a MATLAB file that can be read"):
        sbd.main(["--sbd", str(release / "sbd"), "--data-dir", str(release)])


def test_an_empty_release_is_said(release):
    for path in (release / "sbd/dataset/cls").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"cls: no \*\.mat file, expected the class masks of SBD"):
        sbd.main(["--sbd", str(release / "sbd"), "--data-dir", str(release)])


def test_each_augmentation_is_shown_alone(tmp_path, capsys):
    data = {"type": "Shapes", "augment": True, "crop_size": 32, "flip": True, "hue": 0.2}
    path, out = config(tmp_path, {**data, "rare_crops": 0.5}), tmp_path / "each.png"
    assert preview.main(["-c", path, "-o", str(out), "--each"]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 16 samples of 1000, ")
    common = {"augment": True, "crop_size": 32, "scale": False}
    whole = Shapes(**common, flip=True, hue=0.2, rare_crops=0.5)
    alone = {"flip: True": {"flip": True}, "hue: 0.2": {"hue": 0.2},
             "rare_crops: 0.5": {"rare_crops": 0.5}, "nothing": {}}  # fmt: skip
    rows = preview.one_by_one(whole)
    assert rows.keys() == alone.keys()
    for name, row in rows.items():
        expected = Shapes(**common, **alone[name])[(1, 2)]
        assert (row[(1, 2)].image == expected.image).all()
    for nothing in ({"augment": False, "flip": True}, {"augment": True}):
        with pytest.raises(ConfigError, match="--each: the training images are not augmented"):
            preview.one_by_one(Shapes(**nothing, scale=False))

import json
import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from dataloaders.building import check_data
from dataloaders.doctor import SAMPLE, check, examine, overlap
from dataloaders.folder import Folder
from dataloaders.shapes import Shapes
from utils.errors import DataError

CLASSES = ("field", "house", "water")
SIDE = 48


def regions(number, count):
    """Labels 0..count-1 in stripes that differ from mask to mask."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return ((rows + columns * (1 + number % 3)) // 16 % count).astype(np.uint8)


def make(root, paint, *, count=6, suffix=".png", classes=3, **options):
    """Write pairs whose masks are `paint(labels)`; each image is unlike the others."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        Image.fromarray(noise).save(root / "images" / f"{number:04d}.png")
        painted = paint(regions(number, classes))
        Image.fromarray(painted).save(root / "masks" / f"{number:04d}{suffix}", **options)


def folder(root, **options):
    return Folder(**({"data_dir": str(root), "classes": CLASSES} | options))


def report(root, *, full=True, **options):
    return check({"train_loader": folder(root, **options)}, full=full)


def cure(text):
    """The keys of the config line that a report prints."""
    line = re.search(r"  fix: in [^:]*(?:: \"Folder\"\))?: (.*)", text)
    return json.loads("{" + line[1] + "}")


def mended(root, options, text):
    lines = cure(text)
    data = folder(root, **(options | lines))
    for index in range(len(data)):
        data[(0, index)]
    again, usable = check({"train_loader": data}, full=True)
    assert usable, again
    return data


def test_healthy_data_are_called_healthy(tmp_path):
    make(tmp_path, lambda labels: labels)
    text, usable = report(tmp_path)
    assert usable
    assert "train_loader: Folder, 6 images, 6 masks looked at" in text
    assert "no problem found" in text
    assert "labelled pixels: field 3" in text


def test_lists_of_many_classes_fit_a_screen_and_no_class_that_occurs_has_0_per_cent(tmp_path):
    names = tuple(f"class number {number}" for number in range(150))

    def paint(labels):
        mask = np.zeros((200, 200), np.uint8)
        mask[0] = np.arange(200) % 120
        return mask

    make(tmp_path, paint, count=1, classes=3)
    Image.new("RGB", (200, 200)).save(tmp_path / "images" / "0000.png")
    text, usable = report(tmp_path, classes=names)
    assert usable
    assert max(map(len, text.splitlines())) <= 110
    joined = " ".join(text.split())
    assert f"classes that occur in no mask: {', '.join(names[120:])}" in joined
    assert "class number 0 99.5%" in joined
    assert "class number 1 0.005%, class number 2 0.005%" in joined
    assert " 0.0%" not in joined


@pytest.mark.parametrize("ignore_index", [255, 254])
def test_binary_masks(tmp_path, ignore_index):
    make(tmp_path, lambda labels: labels * 255, classes=2)
    options = {"classes": ("ground", "house"), "ignore_index": ignore_index}
    text, usable = report(tmp_path, **options)
    assert not usable
    assert "cause: binary masks of 0 and 255" in text
    assert cure(text) == {"label_map": {"0": 0, "255": 1}}
    data = mended(tmp_path, options, text)
    assert (data.load(1)[1] == regions(1, 2)).all()


COLORS = np.array([(60, 16, 152), (132, 41, 246), (110, 193, 228)], np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_color_masks(tmp_path, mode):
    make(tmp_path, lambda labels: np.asarray(Image.fromarray(COLORS[labels]).convert(mode)))
    text, usable = report(tmp_path)
    assert not usable
    assert "cause: color masks (colors are taken for the classes by area" in text
    assert set(cure(text)["label_map"]) == {"#3C1098", "#8429F6", "#6EC1E4"}
    data = mended(tmp_path, {}, text)
    assert set(np.unique(data.load(0)[1])) == {0, 1, 2}


def test_gray_masks_saved_as_rgb(tmp_path):
    make(tmp_path, lambda labels: np.repeat(np.where(labels == 2, 255, labels)[..., None]
                                            .astype(np.uint8), 3, axis=2))  # fmt: skip
    text, _ = report(tmp_path)
    assert "cause: label values saved as RGB" in text
    assert cure(text) == {"label_map": {"#000000": 0, "#010101": 1, "#FFFFFF": "void"}}
    mended(tmp_path, {}, text)


@pytest.mark.parametrize(("first", "void"), [(1, {}), (0, {"0": "void"})])
def test_labels_off_by_one(tmp_path, first, void):
    make(tmp_path, lambda labels: labels + first, classes=3 if first else 4)
    text, usable = report(tmp_path)
    assert not usable
    assert "off by one" in text
    assert cure(text) == {"label_map": void | {"1": 0, "2": 1, "3": 2}}
    mended(tmp_path, {}, text)


def test_jpeg_masks(tmp_path):
    make(tmp_path, lambda labels: labels * 255, classes=2, suffix=".jpg", quality=70)
    options = {"classes": ("ground", "house")}
    text, usable = report(tmp_path, **options)
    assert not usable
    assert "cause: JPEG-compressed masks" in text
    assert cure(text)["label_map"] == {"0": 0, "255": 1}
    data = mended(tmp_path, options, text)
    assert (data.load(0)[1] == regions(0, 2)).mean() > 0.97


@pytest.mark.parametrize("saved", [{"quality": 90, "subsampling": 0}, {"quality": 75}])
def test_jpeg_color_masks(tmp_path, saved):
    colours = np.array([(250, 10, 10), (10, 10, 250)], np.uint8)
    make(tmp_path, lambda labels: colours[labels], classes=2, suffix=".jpg", **saved)
    options = {"classes": ("ground", "house")}
    text, _ = report(tmp_path, **options)
    assert "cause: JPEG-compressed masks" in text
    data = mended(tmp_path, options, text)
    assert len(np.unique(data.load(0)[1])) == 2


def test_a_tolerance_holds_for_masks_that_were_not_looked_at(tmp_path):
    make(tmp_path, lambda labels: labels * 255, classes=2, suffix=".jpg", quality=95)
    options = {"classes": ("ground", "house")}
    lines = cure(report(tmp_path, **options)[0])
    make(tmp_path, lambda labels: labels * 255, classes=2, suffix=".jpg", quality=30)
    data = folder(tmp_path, **(options | lines))
    assert (data.load(0)[1] == regions(0, 2)).mean() > 0.9


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_photograph_is_no_mask_of_colors(tmp_path, suffix):
    def photograph(labels):
        noise = np.random.default_rng(0).integers(0, 256, (*labels.shape, 3))
        return noise.astype(np.uint8)

    make(tmp_path, photograph, suffix=suffix)
    text, usable = report(tmp_path)
    assert not usable
    assert "fix: export the masks anew as PNG" in text


def test_jpeg_masks_that_kept_their_values_get_a_tolerance_that_is_one(tmp_path):
    make(tmp_path, lambda labels: labels * 0, classes=2, suffix=".jpg", quality=100)
    options = {"classes": ("ground", "house"), "label_map": {"0": 0, "255": 1}}
    text, usable = report(tmp_path, **options)
    assert not usable
    assert cure(text) == {"label_tolerance": 1}
    mended(tmp_path, options, text)


def test_jpeg_masks_of_train_ids_cannot_be_mended(tmp_path):
    make(tmp_path, lambda labels: labels, suffix=".jpg", quality=70)
    text, _ = report(tmp_path)
    assert "cause: JPEG-compressed masks" in text
    assert "fix: export the masks anew as PNG" in text


@pytest.mark.parametrize("void", [65535, 77])
def test_void_that_no_ignore_index_can_be_or_that_is_seldom(tmp_path, void):
    def paint(labels):
        return np.where(labels == 3, void, labels.astype(np.int64)).astype(np.uint16)

    make(tmp_path, paint, classes=4)
    text, usable = report(tmp_path)
    assert not usable
    assert f"cause: void is {void} in the masks, but ignore_index is 255" in text
    keys = cure(text)
    expected = {"label_map": {"0": 0, "1": 1, "2": 2, "65535": "void"}}
    assert keys == (expected if void == 65535 else {"ignore_index": void})
    data = mended(tmp_path, {}, text)
    assert (data.load(1)[1] == np.where(regions(1, 4) == 3, data.ignore_index, regions(1, 4))).all()


@pytest.mark.parametrize("ignore_index", [-1, 3, 254])
def test_void_that_is_not_ignore_index(tmp_path, ignore_index):
    make(tmp_path, lambda labels: np.where(labels == 3, 255, labels).astype(np.uint8), classes=4)
    options = {"ignore_index": ignore_index}
    text, usable = report(tmp_path, **options)
    assert not usable
    assert f"cause: void is 255 in the masks, but ignore_index is {ignore_index}" in text
    assert "fix: in the config itself: " in text
    assert cure(text) == {"ignore_index": 255}
    mended(tmp_path, options, text)


def test_other_values_are_taken_in_order(tmp_path):
    make(tmp_path, lambda labels: np.array([10, 70, 200], np.uint8)[labels])
    text, _ = report(tmp_path)
    assert cure(text) == {"label_map": {"10": 0, "70": 1, "200": 2}}
    mended(tmp_path, {}, text)


def test_other_values_beside_a_void_that_is_known(tmp_path):
    make(tmp_path, lambda labels: np.array([10, 70, 200, 255], np.uint8)[labels], classes=4)
    text, _ = report(tmp_path)
    assert cure(text) == {"label_map": {"10": 0, "70": 1, "200": 2, "255": "void"}}
    mended(tmp_path, {}, text)


@pytest.mark.parametrize("shift", [2, 120])
def test_colors_that_label_map_lacks(tmp_path, shift):
    make(tmp_path, lambda labels: COLORS[labels])
    label_map = {"#000000": "void", "#3C1098": 0, "#8429F6": 1, f"#6EC1{0xE4 - shift:02X}": 2}
    text, usable = report(tmp_path, label_map=label_map)
    assert not usable
    expected = {"label_tolerance": 2} if shift == 2 else {"label_map": label_map
                                                          | {"#6EC1E4": "void"}}  # fmt: skip
    assert cure(text) == expected
    mended(tmp_path, {"label_map": label_map}, text)


@pytest.mark.parametrize("void", [255, 30])
def test_values_that_label_map_lacks(tmp_path, void):
    make(tmp_path, lambda labels: np.array([10, 20, void], np.uint8)[labels])
    options = {"classes": ("a", "b"), "label_map": {"10": 0, "20": 1}}
    text, usable = report(tmp_path, **options)
    assert not usable
    assert cure(text) == {"label_map": {"10": 0, "20": 1, str(void): "void"}}
    data = mended(tmp_path, options, text)
    assert set(np.unique(data.load(0)[1])) == {0, 1, 255}


def test_masks_without_a_label_are_a_problem(tmp_path):
    make(tmp_path, lambda labels: np.full_like(labels, 255))
    text, usable = report(tmp_path)
    assert not usable
    assert "problem: none of the 6 masks looked at has a labelled pixel" in text


def test_copies_in_both_parts_of_a_divided_set_are_found(tmp_path):
    make(tmp_path, lambda labels: labels)
    for number in range(6):
        for kind in ("images", "masks"):
            original = tmp_path / kind / f"{number:04d}.png"
            (tmp_path / kind / f"copy{number}.png").write_bytes(original.read_bytes())
    section = (
        "Folder",
        {"data_dir": str(tmp_path), "classes": CLASSES, "val_split": 0.5, "batch_size": 2},
    )
    text, usable = check_data(section, None, ignore_index=255, seed=0)
    assert not usable
    assert "train_loader: Folder, 6 images" in text
    assert "val_loader: Folder, 6 images" in text
    assert "validation images are also trained on" in text


@pytest.mark.parametrize(
    ("values", "label_map"),
    [
        ((0, 128, 255), {"0": 0, "128": 1, "255": "void"}),
        ((0, 1, 254, 255), {"0": 0, "1": 1, "254": "void", "255": "void"}),
    ],
)
def test_another_value_beside_a_void_that_is_known(tmp_path, values, label_map):
    make(tmp_path, lambda labels: np.array(values, np.uint8)[labels], classes=len(values))
    options = {"classes": ("a", "b")}
    text, _ = report(tmp_path, **options)
    assert cure(text) == {"label_map": label_map}
    mended(tmp_path, options, text)


def test_masks_that_are_images_are_said_to_be(tmp_path):
    make(tmp_path, lambda labels: np.random.default_rng(0).integers(0, 256, labels.shape)
         .astype(np.uint8))  # fmt: skip
    text, usable = report(tmp_path)
    assert not usable
    assert "256 different values for 3 classes" in text


def test_everything_is_in_one_report(tmp_path):
    make(tmp_path, lambda labels: labels)
    (tmp_path / "images" / "0000.png").write_bytes(b"")
    whole = (tmp_path / "images" / "0001.png").read_bytes()
    (tmp_path / "images" / "0001.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((SIDE, SIDE + 1), np.uint8)).save(tmp_path / "masks" / "0002.png")
    Image.fromarray(np.full((SIDE, SIDE), 77, np.uint8)).save(tmp_path / "masks" / "0003.png")
    Image.fromarray(np.full((SIDE, SIDE), 78, np.uint8)).save(tmp_path / "masks" / "0004.png")
    text, usable = report(tmp_path)
    assert not usable
    for expected in (
        "images/0000.png: cannot be decoded",
        "0001.png: cannot be decoded",
        "masks/0002.png: found a mask of 49x48 pixels, expected 48x48",
        "masks/0003.png: label values outside the classes: 77",
        "and 1 more like it",
        "masks/0004.png",
    ):
        assert expected in text


def test_one_fix_mends_both_loaders_though_their_masks_differ(tmp_path):
    # By area the second color comes first in one loader, the third in the other; a fourth class
    # is in the validation alone.
    def paint(sizes):
        labels = np.zeros((SIDE, SIDE), np.uint8)
        for value, size in enumerate(sizes, 1):
            labels[:size, 10 * value : 10 * value + 8] = value
        return lambda _: np.vstack([COLORS, [[9, 9, 9]]]).astype(np.uint8)[labels]

    names = ("a", "b", "c", "d")
    for part, sizes in (("train", (40, 20)), ("val", (10, 20, 5))):
        make(tmp_path / part, paint(sizes))
    parts = [folder(tmp_path / part, classes=names) for part in ("train", "val")]
    text, usable = check(dict(zip(("train_loader", "val_loader"), parts, strict=True)), full=True)
    assert not usable
    lines = re.findall(r"\n  fix: in .*", text)
    assert len(lines) == 2
    assert len(set(lines)) == 1
    parts = [folder(tmp_path / part, classes=names, **cure(text)) for part in ("train", "val")]
    text, _ = check(dict(zip(("train_loader", "val_loader"), parts, strict=True)), full=True)
    assert "cause: " not in text
    assert re.search(r"train_loader.*no problem found\nval_loader.* d 1\.7%", text, re.DOTALL)


@pytest.mark.parametrize("suffix", [".npy", ".png"])
def test_images_of_another_kind_than_those_of_the_training_are_refused(tmp_path, suffix):
    for part in ("train", "val"):
        make(tmp_path / part, lambda labels: labels)
    for path in (tmp_path / "val" / "images").iterdir():
        pixels = np.asarray(Image.open(path))
        path.unlink()
        if suffix == ".npy":
            np.save(path.with_suffix(suffix), pixels.astype(np.uint16) * 257)
        else:
            Image.fromarray(pixels[..., 0]).save(path)
    kinds = {".npy": "3 channels of uint16", ".png": "1 channels of uint8"}
    spread = [0.5] * int(kinds[suffix][0])
    train = folder(tmp_path / "train")
    val = folder(tmp_path / "val", mean=spread, std=spread)
    text, usable = check({"train_loader": train, "val_loader": val}, full=False)
    assert not usable
    assert f"problem: found images of {kinds[suffix]}, expected 3 of uint8 as in train_load" in text
    assert check({"train_loader": train, "val_loader": folder(tmp_path / "train")}, full=False)[1]


def test_loaders_of_two_data_sets_are_told_to_be_of_one(tmp_path):
    make(tmp_path, lambda labels: labels)
    text, usable = check({"train_loader": Shapes(), "val_loader": folder(tmp_path)}, full=True)
    assert not usable
    assert 'fix: in both: "type": "Shapes"' in text


@pytest.mark.parametrize(
    ("size", "hint"),
    [
        ((24, 24), "scale the mask without new values: magick mogrify -sample '48x48!' "),
        ((96, 97), "scale the mask"),
        ((30, 48), "check that the two belong together"),
    ],
)
def test_a_mask_of_another_size_is_told_what_it_needs(tmp_path, size, hint):
    make(tmp_path, lambda _: np.zeros(size, np.uint8), count=1)
    assert hint in report(tmp_path)[0]


def test_a_mask_on_its_side_is_told_so(tmp_path):
    make(tmp_path, lambda _: np.zeros((SIDE, 30), np.uint8), count=1)
    Image.fromarray(np.zeros((30, SIDE, 3), np.uint8)).save(tmp_path / "images" / "0000.png")
    assert "hint: the mask lies on its side" in report(tmp_path)[0]


def test_a_missing_partner_is_a_problem_of_its_loader(tmp_path):
    make(tmp_path, lambda labels: labels)
    (tmp_path / "masks" / "0003.png").unlink()
    with pytest.raises(DataError) as caught:
        folder(tmp_path)
    text, usable = check({"train_loader": caught.value}, full=True)
    assert not usable
    assert "train_loader: cannot be found\n  problem: " in text
    assert "0003.png" in text


def test_before_a_training_all_headers_and_some_masks_are_looked_at(tmp_path):
    make(tmp_path, lambda labels: labels, count=SAMPLE + 6)
    data = folder(tmp_path)
    result = examine("train_loader", data, full=False)
    assert result.title == f"Folder, {SAMPLE + 6} images, {SAMPLE} masks looked at"
    assert result.problems == []
    for number in range(SAMPLE + 6):
        (tmp_path / "images" / f"{number:04d}.png").write_bytes(b"no image")
    broken = "\n".join(examine("train_loader", data, full=False).problems)
    assert f"and {SAMPLE + 5} more like it" in broken


def test_shared_images_are_found_by_content_and_by_name(tmp_path):
    make(tmp_path / "a", lambda labels: labels)
    make(tmp_path / "b", lambda labels: labels, count=2)
    train = folder(tmp_path / "a")
    val = folder(tmp_path / "b")
    shared = overlap(train, val)
    assert shared.startswith("2 of 2 validation images are also trained on")
    assert f"{tmp_path / 'b' / 'images' / '0001.png'} is " in shared
    text, usable = check({"train_loader": train, "val_loader": val}, full=True)
    assert not usable
    assert "the score would be too good" in text
    allowed, usable = check({"train_loader": train, "val_loader": train}, full=False)
    assert usable
    assert "note: 6 of 6 validation images" in allowed


def test_files_are_not_read_again_to_be_compared_again(tmp_path, monkeypatch):
    make(tmp_path / "a", lambda labels: labels)
    make(tmp_path / "b", lambda labels: labels, count=2)
    sets = folder(tmp_path / "a"), folder(tmp_path / "b")
    first = overlap(*sets)
    with monkeypatch.context() as patch:
        patch.setattr("dataloaders.overlap._digest", lambda path: pytest.fail(f"{path} was read"))
        assert overlap(*sets) == first
    other = (tmp_path / "b" / "images" / "0001.png").read_bytes()
    (tmp_path / "b" / "images" / "0001.png").write_bytes(other[:-1] + b"x")
    assert overlap(*sets).startswith("1 of 2 validation images")


def test_files_of_one_size_are_not_taken_for_one_another(tmp_path):
    for name, value in (("a", 0), ("b", 255)):
        make(tmp_path / name, lambda labels: labels, count=1)
        flat = np.full((SIDE, SIDE, 3), value, np.uint8)
        Image.fromarray(flat).save(tmp_path / name / "images" / "0000.bmp")
        (tmp_path / name / "images" / "0000.png").unlink()
    assert overlap(folder(tmp_path / "a"), folder(tmp_path / "b")) is None


def test_classes_that_never_occur_are_noted(tmp_path):
    make(tmp_path, lambda labels: labels)
    text, usable = report(tmp_path, classes=(*CLASSES, "boat"))
    assert usable
    assert "note: classes that occur in no mask: boat" in text


def test_an_image_of_another_kind_is_told_by_each_look(tmp_path):
    make(tmp_path, lambda labels: labels)
    path = tmp_path / "images" / "0001.tif"
    path.with_suffix(".png").unlink()
    tifffile.imwrite(path, np.zeros((SIDE, SIDE, 3), np.uint16))
    for full in (False, True):
        text, usable = report(tmp_path, full=full)
        assert not usable
        assert text.count(f"{path}: ") == 1


def test_images_of_many_bands_are_looked_at_without_a_word_of_pillow(tmp_path, caplog):
    make(tmp_path, lambda labels: labels, count=2)
    for path in list((tmp_path / "images").iterdir()):
        bands = np.random.default_rng(0).integers(0, 2**16, (SIDE, SIDE, 8), np.uint16)
        tifffile.imwrite(
            path.with_suffix(".tif"), bands, planarconfig="contig", photometric="minisblack"
        )
        path.unlink()
    assert report(tmp_path, mean=(0.5,) * 8, std=(0.3,) * 8)[1]
    assert caplog.records == []


def test_generated_images_need_no_doctor():
    text, usable = check({"train_loader": Shapes(length=3)}, full=True)
    assert usable
    assert "Shapes, 3 generated images" in text


@pytest.mark.parametrize(
    "start",
    ["fork", pytest.param("spawn", marks=pytest.mark.slow)],  # as on macOS and Windows
)
def test_several_processes_find_the_same(tmp_path, monkeypatch, start):
    make(tmp_path, lambda labels: labels + 1)
    alone = report(tmp_path)
    monkeypatch.setattr("dataloaders.processes.START_METHOD", start)
    monkeypatch.setattr("dataloaders.processes._NEW_PROCESSES_FROM", 2)
    assert report(tmp_path) == alone


def test_processes_inherit_the_data_set_instead_of_being_sent_it(tmp_path, monkeypatch):
    # Sent with every few indices, all paths of a large set cost more than reading its headers.
    def refuse(data):
        raise AssertionError("the data set was pickled")

    make(tmp_path, lambda labels: labels)
    monkeypatch.setattr("dataloaders.processes._NEW_PROCESSES_FROM", 2)
    monkeypatch.setattr(Folder, "__reduce__", refuse)
    assert report(tmp_path)[1]

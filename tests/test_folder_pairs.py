"""Names that differ between images and masks: paired, or named with the patterns that pair them."""

import json
import re

import numpy as np
import pytest
import tifffile
from PIL import Image
from test_folder import folder, pair, values, write

from dataloaders.camvid import CamVid
from dataloaders.doctor import check
from dataloaders.folder_files import find_pairs
from dataloaders.layout import files_by_stem
from utils.errors import DataError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def refusal(root, images="images", masks="masks", split=None):
    with pytest.raises(DataError) as caught:
        find_pairs(root, images=images, masks=masks, split=split)
    return str(caught.value)


def printed(message):
    """The patterns that a message tells to write."""
    line = re.search(r"fix: (.*) \((\d+) pairs\)", message)
    return json.loads("{" + line[1] + "}"), int(line[2])


def pairs(root, patterns):
    found, _ = find_pairs(root, split=None, **patterns)
    return [(image.name, mask.name) for image, mask in found]


@pytest.mark.parametrize(
    ("image", "mask", "patterns"),
    [
        ("{}_training.tif", "{}_manual1.gif", ("*_training.tif", "*_manual1.gif")),
        ("t/{}_leftImg8bit.png", "t/{}_gtFine_leftImg8bit.png",
         ("**/*_leftImg8bit.png", "**/*_gtFine_leftImg8bit.png")),
        ("2021-03-{}_1_rgb.jpg", "2021-03-{}_1_lab.png", ("*_rgb.jpg", "*_lab.png")),
        ("img_{}.jpg", "seg {}.png", ("img_*.jpg", "seg *.png")),
        ("{}.b.jpg", "{}.b_mask.png", ("*.jpg", "*_mask.png")),
    ],
)  # fmt: skip
def test_patterns_are_found_from_names(tmp_path, image, mask, patterns):
    for number in range(18, 28):
        touch(tmp_path, f"images/{image.format(number)}", f"masks/{mask.format(number)}")
    found, count = printed(refusal(tmp_path))
    assert found == {"images": f"images/{patterns[0]}", "masks": f"masks/{patterns[1]}"}
    assert count == 10
    assert len(pairs(tmp_path, found)) == 10


def test_patterns_leave_no_image_out_whose_ending_is_another(tmp_path):
    for number, ending in enumerate((".jpg", ".JPG", ".jpeg", ".png")):
        touch(tmp_path, f"images/{number}{ending}", f"masks/{number}_L.png")
    found, count = printed(refusal(tmp_path))
    assert count == 4
    assert pairs(tmp_path, found) == [
        ("0.jpg", "0_L.png"), ("1.JPG", "1_L.png"), ("2.jpeg", "2_L.png"), ("3.png", "3_L.png")
    ]  # fmt: skip


def test_names_that_have_nothing_in_common_get_no_pattern(tmp_path):
    for number in range(9):
        touch(tmp_path, f"images/{number}.jpg", f"masks/seg{number + 10}.png")
    message = refusal(tmp_path)
    assert "no mask for 9 of 9 images" in message
    assert "*" not in message


def test_an_ending_counts_in_any_case(tmp_path):
    for number, ending in enumerate((".jpg", ".JPG", ".Jpg")):
        pair(tmp_path, f"images/{number}{ending}", f"masks/{number}_L.PNG", value=number * 50)
    patterns = {"images": "images/*.jpg", "masks": "./masks/*_L.png"}
    assert len(values(folder(tmp_path, **patterns))) == 3
    with pytest.raises(DataError, match=r"no file matches Images/\*\.jpg"):
        folder(tmp_path, images="Images/*.jpg", masks="masks/*_L.png")


@pytest.mark.parametrize(
    ("images", "masks"),
    [("*.tif", "*_masks.tif"), ("img_*.tif", "img_*_masks.tif")],
)
def test_a_file_that_is_matched_as_a_mask_is_no_image(tmp_path, images, masks):
    touch(tmp_path, *(f"img_{n}{end}.tif" for n in range(8) for end in ("", "_masks")))
    assert pairs(tmp_path, {"images": images, "masks": masks}) == [
        (f"img_{n}.tif", f"img_{n}_masks.tif") for n in range(8)
    ]


def test_a_file_that_is_matched_as_an_image_is_no_mask(tmp_path):
    touch(tmp_path, *(f"{n}{end}.png" for n in range(3) for end in ("", "_rgb")))
    found, left = find_pairs(tmp_path, images="*_rgb.png", masks="*.png", split=None)
    assert [mask.name for _, mask in found] == ["0.png", "1.png", "2.png"]
    assert left == ()


def test_masks_in_a_folder_of_the_images_are_no_images(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg", "masks/a.png", "masks/b.png")
    assert pairs(tmp_path, {"images": ".", "masks": "masks"}) == [
        ("a.jpg", "a.png"), ("b.jpg", "b.png")
    ]  # fmt: skip


def test_one_folder_for_both_is_said_with_the_patterns(tmp_path):
    names = ("Image_01L", "Image_01R", "Image_02L")
    touch(tmp_path, *(f"x/{name}{end}" for name in names
                      for end in (".jpg", "_1stHO.png", "_2ndHO.png")))  # fmt: skip
    message = refusal(tmp_path, "x", "x")
    assert message.startswith(f"{tmp_path / 'x'}: images and masks: both are the same files\n")
    found, count = printed(message)
    assert (found, count) == ({"images": "x/*.jpg", "masks": "x/*_1stHO.png"}, 3)
    assert len(pairs(tmp_path, found)) == 3


@pytest.mark.parametrize("name", [".", "*.png"])
def test_the_same_files_for_both_are_not_looked_into(tmp_path, name):
    touch(tmp_path, "a/img.png", "a/label.png", "x.png")
    message = refusal(tmp_path, name, name)
    assert "both are the same files\n  fix: two sub-folders, or two patterns such as " in message


@pytest.mark.parametrize("masks", [2, 1])
def test_a_mask_for_each_object_is_recognized(tmp_path, masks):
    """As the nuclei of the Data Science Bowl 2018 come."""
    for image in ("a1", "b2"):
        touch(tmp_path, f"{image}/images/{image}.png")
        touch(tmp_path, *(f"{image}/masks/{number}{image[::-1]}.png" for number in range(masks)))
    message = refusal(tmp_path, "*/images/*", "*/masks/*")
    assert ("where each object has a mask, draw those of an image into one" in message) == (
        masks > 1
    )


def test_masks_that_are_left_over_are_said(tmp_path):
    for number in range(6):
        write(tmp_path / f"masks/{number}.png", np.zeros((8, 12), np.uint8))
    for number in range(2):
        write(tmp_path / f"images/{number}.png", np.full((8, 12, 3), number, np.uint8))
    left = "note: 4 masks have no image: 2.png, 3.png, 4.png, 5.png"
    for options in ({}, {"images": "images/*.png", "masks": "masks/*.png"}):
        report, usable = check({"train_loader": folder(tmp_path, **options)}, full=True)
        assert usable
        assert left in report
    (tmp_path / "some.txt").write_text("0\n")
    report, _ = check({"train_loader": folder(tmp_path, split="some.txt")}, full=True)
    assert "have no image" not in report, "a list leaves out what it does not name"
    data = folder(tmp_path, val_split=0.5)
    report, _ = check({"train_loader": data, "val_loader": data.split_off()}, full=True)
    assert report.count(left) == 1


def test_lines_that_name_an_image_again_are_said(tmp_path):
    for number in range(2):
        write(tmp_path / f"masks/{number}.png", np.zeros((8, 12), np.uint8))
        write(tmp_path / f"images/{number}.png", np.full((8, 12, 3), number, np.uint8))
    (tmp_path / "some.txt").write_text("0\n0\n0.png\n1\n")
    data = folder(tmp_path, split="some.txt")
    assert len(data) == 2
    assert data.notes == ("2 lines of some.txt name an image again; each image counts once",)


def test_masks_of_a_benchmark_that_are_left_over_are_said(tmp_path):
    touch(tmp_path, "train/a.png", "trainannot/a.png", "trainannot/b.png", "train/._a.png")
    data = CamVid(data_dir=str(tmp_path), split="train")
    assert data.notes == (f"1 masks have no image: b.png (in {tmp_path})",)
    (tmp_path / "train.txt").write_text("train/a.png\n")
    assert CamVid(data_dir=str(tmp_path), split="train").notes == ()


def test_endings_that_cannot_be_read_are_named(tmp_path):
    touch(tmp_path, "images/a.HEIC", "images/b.HEIC", "images/c.svg", "masks/a.png")
    message = refusal(tmp_path)
    assert "images: no file that can be read\n  found: 2 of .HEIC, 1 of .svg\n" in message
    assert "expected: .png, .jpg" in message


def test_hidden_files_and_folders_are_no_images(tmp_path):
    touch(tmp_path, "images/a.png", "masks/a.png", "images/.ipynb_checkpoints/a-checkpoint.png",
          "images/._a.png", "masks/._a.png")  # fmt: skip
    assert pairs(tmp_path, {"images": "images", "masks": "masks"}) == [("a.png", "a.png")]
    assert pairs(tmp_path, {"images": "**/images/*.png", "masks": "**/masks/*.png"}) == [
        ("a.png", "a.png")
    ]
    assert files_by_stem(tmp_path / "images", ".png") == {"a": tmp_path / "images" / "a.png"}


# ---- files that hold several images -----------------------------------------------------------


def channels(root, axes, dtype=np.uint8, count=3):
    pixels = np.arange(count * 8 * 12).reshape(count, 8, 12).astype(dtype)
    (root / "images").mkdir()
    tifffile.imwrite(root / "images" / "a.tif", pixels, imagej=True, metadata={"axes": axes})
    write(root / "masks" / "a.png", np.zeros((8, 12), np.uint8))
    return pixels.transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("dtype", "count", "options"),
    [
        (np.uint8, 3, {}),
        (np.uint8, 4, {}),
        (np.uint16, 3, {"mean": (0.5,) * 3, "std": (0.5,) * 3}),
        (np.uint8, 5, {"mean": (0.5,) * 5, "std": (0.5,) * 5}),
    ],
)
def test_channels_that_are_pages(tmp_path, dtype, count, options):
    pixels = channels(tmp_path, "CYX", dtype, count)
    data = folder(tmp_path, **options)
    assert data.size(0) == (8, 12)
    assert (data.load(0)[0] == pixels[..., : len(data.mean)]).all()


def test_a_stack_of_images_is_refused(tmp_path):
    channels(tmp_path, "ZYX")
    with pytest.raises(
        DataError, match=r"a\.tif: found a stack of 3 images \(axes ZYX\), expected one\n  fix"
    ):
        folder(tmp_path)


def test_a_stack_of_masks_is_refused(tmp_path):
    pair(tmp_path, "images/a.png", "masks/a.png")
    (tmp_path / "masks" / "a.png").unlink()
    slices = [Image.fromarray(np.full((8, 12), value, np.uint8)) for value in range(3)]
    slices[0].save(tmp_path / "masks" / "a.tif", save_all=True, append_images=slices[1:])
    report, usable = check({"train_loader": folder(tmp_path)}, full=True)
    assert not usable
    assert "masks/a.tif: found a stack of 3 images" in report


def test_a_smaller_copy_in_the_file_is_no_second_image(tmp_path):
    pair(tmp_path, "images/a.png", "masks/a.png")
    (tmp_path / "masks" / "a.png").unlink()
    mask = np.resize(np.arange(3, dtype=np.uint8), (16, 24))
    with tifffile.TiffWriter(tmp_path / "masks" / "a.tif") as file:
        file.write(mask[:8, :12], photometric="minisblack")
        file.write(mask[:4, :6], photometric="minisblack", subfiletype=1)
        file.write(np.zeros((8, 12), bool), photometric="mask", subfiletype=4)
    assert (folder(tmp_path).load(0)[1] == mask[:8, :12]).all()


@pytest.mark.parametrize("shape", [(3, 8, 12), (4, 8, 12), (1, 8, 12)])
def test_arrays_whose_channels_come_first(tmp_path, shape):
    pixels = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    write(tmp_path / "images" / "a.npy", pixels)
    write(tmp_path / "masks" / "a.npy", np.ones((1, 8, 12), np.uint8))
    data = folder(tmp_path)
    image, mask = data.load(0)
    assert data.size(0) == image.shape[:2] == mask.shape == (8, 12)
    assert (image == pixels.transpose(1, 2, 0)[..., :3]).all()
    assert (mask == 1).all()


def test_arrays_of_five_channels_that_come_first(tmp_path):
    pixels = np.arange(480, dtype=np.uint16).reshape(5, 8, 12)
    write(tmp_path / "images" / "a.npy", pixels)
    write(tmp_path / "masks" / "a.png", np.zeros((8, 12), np.uint8))
    data = folder(tmp_path, mean=(0.5,) * 5, std=(0.5,) * 5)
    assert (data.load(0)[0] == pixels.transpose(1, 2, 0)).all()

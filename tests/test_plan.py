"""A folder in, a config with its reasons out: what is found, each rule, and that it trains."""

import itertools
import json
import multiprocessing
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import train
from dataloaders.doctor import check
from dataloaders.folder import Folder
from dataloaders.places import Place, find_places, labelled_pairs
from dataloaders.statistics import pixel_kind
from models.encoder_names import timm_name
from models.pretrained import source_of, weights_at_hand
from planning import configs, rules, steps
from planning.fingerprint import Fingerprint, take_fingerprint
from planning.meaning import Meaning, find_meaning
from planning.rules import Choice, Machine, Measured
from tools import plan
from utils.config.config import load_config, parse_config
from utils.data.labels import LabelTable
from utils.data.mask_facts import MaskFacts, look_at_mask
from utils.errors import DataError, guard

DATA = Fingerprint(
    loaders={"train_loader": {"data_dir": "d", "images": "i", "masks": "m", "classes": ("a", "b")}},
    cure="",
    images=200,
    val_images=0,
    folders=1,
    classes=("a", "b"),
    shares=(0.7, 0.3),
    occurs=(200, 90),
    void=0.0,
    smallest=(360, 480),
    median=(360, 480),
    largest=(360, 480),
    channels=3,
    dtype="uint8",
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    upright=0.0,
    sideways=0.0,
    decoded_bytes=2**30,
)
MACHINE = Machine("cpu", 2, 16 * 2**30, 0)
SMALL = {"type": "UNet", "args": {"base_channels": 4}}
ARGS = "train_loader.args"


def values(choices):
    return {key.removeprefix(f"{ARGS}."): choice.value for key, choice in choices.items()}


# Places.


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["images/#.jpg", "masks/#.png"], {"train": ("images", "masks")}),
        (["JPEGImages/#.jpg", "SegmentationClass/#.png"],
         {"train": ("JPEGImages", "SegmentationClass")}),
        (["img/#.tif", "gt/#.tif", "notes/readme.txt"], {"train": ("img", "gt")}),
        (["images/#.jpg", "labels/#.txt"], {"train": ("images", "labels")}),
        (["images/#.jpg", "masks/#_mask.png"], {"train": ("images/*.jpg", "masks/*_mask.png")}),
        (["#.jpg", "#.png"], {"train": ("*.jpg", "*.png")}),
        (["x/#.png", "x/#_mask.png"], {"train": ("x/*.png", "x/*_mask.png")}),
        (["#.jpg", "#.json"], {"train": (".", ".")}),
        (["images/a/#.jpg", "masks/a/#.png", "images/b/#.jpg", "masks/b/#.png"],
         {"train": ("images", "masks")}),
        (["Tile 1/images/#.jpg", "Tile 1/masks/#.png", "Tile 2/images/#.jpg", "Tile 2/masks/#.png"],
         {"train": ("*/images/*.*", "*/masks/*.*")}),
        (["train/images/#.jpg", "train/masks/#.png", "val/images/#.jpg", "val/masks/#.png"],
         {"train": ("train/images", "train/masks"), "val": ("val/images", "val/masks")}),
        (["images/train/#.jpg", "masks/train/#.png", "images/val/#.jpg", "masks/val/#.png"],
         {"train": ("images/train", "masks/train"), "val": ("images/val", "masks/val")}),
        (["train/#.png", "trainannot/#.png", "val/#.png", "valannot/#.png", "test/#.png"],
         {"train": ("train", "trainannot"), "val": ("val", "valannot")}),
        (["A/CameraRGB/#.jpg", "A/CameraSeg/#.png"], {"train": ("A/CameraRGB", "A/CameraSeg")}),
        (["labels/images/#.jpg", "labels/masks/#.png"],
         {"train": ("labels/images", "labels/masks")}),
        (["images/#.jpg", "masks/m#0.png"], {"train": ("images", "masks")}),  # to be told why not
        (["labeled/images/#.jpg", "labeled/masks/#.png", "unlabeled/images/#.jpg"],
         {"train": ("labeled/images", "labeled/masks")}),
        (["manually_checked/#.jpg", "masks/#.png"], {"train": ("manually_checked", "masks")}),
        (["1/frames/#.jpg", "1/masks/#_mask.png", "2/frames/#.jpg", "2/masks/#_mask.png"],
         {"train": ("*/frames/*.jpg", "*/masks/*_mask.png")}),
        (["images/10k/train/#.jpg", "labels/seg/masks/train/#.png",
          "labels/seg/colors/train/#.png"],
         {"train": ("images/10k/train", "labels/seg/masks/train")}),
    ],
)  # fmt: skip
def test_images_and_masks_are_found_by_names(tmp_path, files, expected):
    touch(tmp_path, *(name.replace("#", f"{number:02}") for name in files for number in range(4)))
    assert find_places(tmp_path)[0] == {role: Place(*place) for role, place in expected.items()}


def test_a_coco_file_may_lie_apart_from_the_images_that_it_lists(tmp_path):
    touch(tmp_path, "images/a.jpg", "other/b.jpg", "json/x.png")
    listed = {"images": [{"file_name": "a.jpg"}], "annotations": []}
    (tmp_path / "json" / "val.json").write_text(json.dumps(listed))
    assert find_places(tmp_path)[0] == {"train": Place("images", "json/val.json")}


def test_a_coco_file_has_the_images_that_it_lists(tmp_path):
    for role, names in {"train": "ab", "valid": "c"}.items():
        touch(tmp_path, *(f"{role}/{name}.jpg" for name in names))
        listed = {"images": [{"file_name": f"{name}.jpg"} for name in names], "annotations": []}
        (tmp_path / role / "_annotations.coco.json").write_text(json.dumps(listed))
    assert find_places(tmp_path)[0] == {
        "train": Place("train", "train/_annotations.coco.json"),
        "val": Place("valid", "valid/_annotations.coco.json"),
    }


def test_folders_that_are_left_alone_are_named(tmp_path):
    touch(tmp_path, "images/1.jpg", "masks/1.png", "test/images/1.jpg", "overlays/1.png")
    assert find_places(tmp_path)[1] == ["overlays", "test/images"]


def test_pairs_are_divided_by_lists_that_fit(tmp_path):
    touch(tmp_path, *(f"images/{name}.jpg" for name in "abcd"), "masks/a.png", "masks/b.png")
    for folder, names in {"Main": "abcd", "Seg": "ab"}.items():  # Main has images without masks
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.txt").write_text("\n".join(names[:-1]))
        (tmp_path / folder / "val.txt").write_text(names[-1])
    assert find_places(tmp_path)[0] == {
        "train": Place("images", "masks", "Seg/train.txt"),
        "val": Place("images", "masks", "Seg/val.txt"),
    }


def test_labels_of_shapes_lie_in_folders_of_parts(tmp_path):
    names = ("images/1.jpg", "labels/1.txt", "labels/classes.txt")
    touch(tmp_path, *(f"{part}/{name}" for part in "ab" for name in names))
    assert find_places(tmp_path)[0] == {"train": Place("*/images/*.*", "*/labels/*.txt")}


def test_no_other_place_is_proposed_for_a_part_that_is_not_there(tmp_path):
    touch(tmp_path, "images/1.jpg", "masks/1.png")
    with pytest.raises(DataError, match="images/val: no such folder") as told:
        labelled_pairs(tmp_path, images="images", masks="masks", split="val")
    assert '"images": ' not in str(told.value)


@pytest.mark.parametrize("files", ["left/1.jpg right/1.png", "1.jpg README.txt"])
def test_names_that_tell_nothing_are_refused_with_the_flags_that_do(tmp_path, files):
    touch(tmp_path, *files.split())
    with pytest.raises(DataError, match=r"found: .*\n  fix: .*--images .* --masks "):
        find_places(tmp_path)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ("images/1.npz masks/1.npz", r"found: 2 of \.npz\n.*\n  fix: \.npz: np\.save"),
        ("", "no file in it"),
        ("leftImg8bit/train/ulm/a_leftImg8bit.png gtFine/train/ulm/a_gtFine_labelIds.png",
         '"type": "CityScapes"'),
    ],
)  # fmt: skip
def test_a_folder_that_no_plan_can_read_is_told(tmp_path, files, told):
    touch(tmp_path, *files.split())
    with pytest.raises(DataError, match=told):
        find_places(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        ("city/img/#_left.png", "city/gtFine/#_color.png", "city/gtFine/#_labelIds.png"),
        ("#_sat.jpg", "#_mask.png", "stray.jpg"),
    ],
)
def test_a_pattern_that_leaves_files_out_is_proposed_and_not_taken(tmp_path, files):
    touch(tmp_path, *(name.replace("#", str(number)) for name in files for number in range(4)))
    with pytest.raises(DataError, match="4 would be pairs") as told:
        find_places(tmp_path)
    flags = re.findall(r'--\w+ "(.*?)"', str(told.value))
    images, masks = (sorted(tmp_path.glob(one)) for one in flags)
    assert len(masks) == 4
    assert not {*images} & {*masks}


def test_a_mask_of_every_object_is_not_proposed_without_a_warning(tmp_path):
    touch(tmp_path, *(f"{n}.png" for n in range(4)))
    touch(tmp_path, *(f"masks/{n}_{m}.png" for n in range(4) for m in range(3)))
    with pytest.raises(DataError, match=r"fix: .*\n  or, where a mask holds one object: draw"):
        find_places(tmp_path)


def test_a_pattern_that_has_images_without_masks_is_refused_with_them(tmp_path):
    touch(tmp_path, *(f"{n}_sat.jpg" for n in range(4)), *(f"{n}_mask.png" for n in range(3)))
    with pytest.raises(DataError, match=r"no mask for 1 of 4 images:\n.*3_sat.jpg"):
        find_places(tmp_path)


@pytest.mark.parametrize("other", ["labels/1.png", "masks_2/1.png images_2/1.jpg"])
def test_two_ways_to_pair_are_refused(tmp_path, other):
    touch(tmp_path, "images/1.jpg", "masks/1.png", *other.split())
    with pytest.raises(DataError, match=r'--images "images\w*" --masks "\w*"\n.*\n  fix: give one'):
        find_places(tmp_path)


@pytest.mark.parametrize("manual", ["1st_manual", "manual1"])
def test_a_field_of_view_is_not_taken_for_the_label_without_asking(tmp_path, manual):
    """Retina photographs: the layouts of DRIVE and HRF, whose folder `mask` is no label."""
    for part, number in {"training": 21, "test": 1}.items():
        names = (f"images/#_{part}.tif", f"mask/#_{part}_mask.gif", f"{manual}/#_manual1.gif")
        names = names if part == "training" else names[:2]
        files = [name.replace("#", f"{number + n:02}") for name in names for n in range(4)]
        touch(tmp_path / part, *files)
    with pytest.raises(DataError, match="paired in several ways") as told:
        find_places(tmp_path)
    for masks in (manual, "mask"):
        assert f'--images "training/images" --masks "training/{masks}"' in str(told.value)


# What masks mean.


def facts_of(folder, *masks, kind="png", **options):
    table = LabelTable.identity(2, ignore_index=255, void=255)
    found = []
    for number, mask in enumerate(masks):
        path = folder / f"{number}.{kind}"
        Image.fromarray(np.asarray(mask, np.uint8)).save(path, **options)
        found.append(look_at_mask(path, table))
    return found


def areas(*labels):
    """A mask with a large area of each label."""
    return np.repeat(np.array(labels, np.uint8), 8)[None].repeat(8, axis=0)


@pytest.mark.parametrize(
    ("mask", "classes", "label_map"),
    [
        (areas(0, 1, 2), ("class_0", "class_1", "class_2"), None),
        (areas(0, 1, 2, 255), ("class_0", "class_1", "class_2"), None),
        (areas(0, 1), ("background", "foreground"), None),
        (areas(0, 255), ("background", "foreground"), {"0": 0, "255": 1}),
        (areas(0, 128, 255), ("class_0", "class_128", "class_255"), {"0": 0, "128": 1, "255": 2}),
        (areas(1, 2), ("class_1", "class_2"), {"1": 0, "2": 1}),
        (areas(1, 2, 255), ("class_1", "class_2"), {"1": 0, "2": 1, "255": "void"}),
        (areas(5, 6, 255), ("class_5", "class_6", "class_255"), {"5": 0, "6": 1, "255": 2}),
        (areas(0, 1, 254), ("background", "foreground"), {"0": 0, "1": 1, "254": "void"}),
        (areas(0, 1, 3), ("class_0", "class_1", "class_3"), {"0": 0, "1": 1, "3": 2}),
        (areas(0, 255)[..., None].repeat(3, axis=2), ("background", "foreground"),
         {"#000000": 0, "#FFFFFF": 1}),
        (np.stack([areas(0, 255, 9), areas(0, 0, 9), areas(0, 0, 9)], axis=2),
         ("color_000000", "color_090909", "color_FF0000"),
         {"#000000": 0, "#090909": 1, "#FF0000": 2}),
    ],
)  # fmt: skip
def test_each_value_or_color_is_a_class(tmp_path, mask, classes, label_map):
    meaning = find_meaning(facts_of(tmp_path, mask))
    assert meaning.classes == classes
    assert meaning.args.get("label_map") == label_map
    assert bool(meaning.cure) == (label_map is not None)  # what was decided is said


def test_masks_without_a_labelled_pixel_have_no_meaning():
    blank = MaskFacts(Path("a.tif"), 0, Counter(), Counter())
    assert find_meaning([blank, blank]) == Meaning()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:9,9,9::\nsky:0,0,0::\n"),
        ("class_dict.csv", "name,r,g,b\nroad,9, 9, 9\nsky,0,0,0\n"),
    ],
)
def test_colors_have_the_names_of_their_list(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    meaning = find_meaning(facts_of(tmp_path, areas(0, 9)[..., None].repeat(3, axis=2)))
    assert meaning.classes == ("road", "sky")
    assert meaning.args == {"label_map": {"#090909": 0, "#000000": 1}}


def test_compressed_masks_get_the_doctors_tolerance(tmp_path):
    mask = np.zeros((160, 160), np.uint8)
    mask[30:90, 40:120] = 255
    meaning = find_meaning(facts_of(tmp_path, mask, kind="jpg", quality=60))
    assert meaning.classes == ("background", "foreground")
    assert meaning.args["label_map"] == {"0": 0, "255": 1}
    assert 8 <= meaning.args["label_tolerance"] <= 127
    assert "JPEG" in meaning.cure


@pytest.mark.parametrize(
    ("most", "objects"), [((9, 8, 5), True), ((9, 9, 9), False), ((7, 6, 5), False)]
)
def test_counted_objects_are_no_classes(tmp_path, most, objects):
    meaning = find_meaning(facts_of(tmp_path, *(areas(*range(count)) for count in most)))
    assert (len(meaning.classes) == 2) == objects


@pytest.mark.parametrize(("whole", "objects"), [(4, True), (3, False)])
def test_of_one_in_five_an_object_may_be_missing(tmp_path, whole, objects):
    masks = [areas(*range(count)) for count in (9, 8, 7, 6)[:whole]]
    meaning = find_meaning(facts_of(tmp_path, *masks, areas(0, 1, 3, 4)))
    assert (len(meaning.classes) == 2) == objects


def test_masks_of_two_exports_have_one_foreground(tmp_path):
    meaning = find_meaning(facts_of(tmp_path, areas(0, 1), areas(0, 255), areas(0)))
    assert meaning.classes == ("background", "foreground")
    assert meaning.args == {"label_map": {"0": 0, "1": 1, "255": 1}}
    assert "both are the foreground" in meaning.cure
    bordered = find_meaning(facts_of(tmp_path, areas(0, 1, 255), areas(0, 255)))
    assert bordered.args == {}


def test_photographs_for_masks_have_no_meaning(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
    assert find_meaning(facts_of(tmp_path, noise, kind="jpg")).args == {}


def test_labels_that_are_not_counted_are_classes(tmp_path):
    masks = [areas(*labels) for labels in [(0, 3, 9), (0, 2, 8), (0, 5, 7)]]
    assert len(find_meaning(facts_of(tmp_path, *masks)).classes) == 7


# Rules, at both sides of their thresholds.


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"images": 49}, {"val_fold": [0, 5]}),
        ({"images": 50}, {"val_split": 0.2}),
        ({"images": 2500}, {"val_split": 0.2}),
        ({"images": 5000}, {"val_split": 0.1}),
        ({"folders": 4}, {"val_split": 0.2}),
        ({"folders": 5}, {"group": "(.*)/", "val_split": 0.2}),
        ({"val_images": 1}, {}),
    ],
)
def test_split(facts, expected):
    assert values(rules.split(replace(DATA, **facts))) == expected


@pytest.mark.parametrize(
    ("median", "device", "side"),
    [
        ((360, 480), "cpu", 352),
        ((351, 480), "cpu", 320),
        ((2000, 3000), "cpu", 352),
        ((2000, 3000), "cuda", 512),
        ((28, 28), "cpu", 32),
    ],
)
def test_crop(median, device, side):
    assert rules.crop(replace(DATA, median=median), device).value == side


@pytest.mark.parametrize(("largest", "scaled"), [((540, 720), True), ((541, 721), False)])
def test_images_of_very_different_sizes_are_not_scaled(largest, scaled):
    found = values(rules.scale(replace(DATA, largest=largest, upright=0.5)))
    assert found == ({"base_size": 480, "scale_range": [0.5, 2.0]} if scaled else {"scale": False})


@pytest.mark.parametrize(("upright", "up"), [(0.25, False), (0.26, True)])
def test_scenes_with_an_up_are_scaled_and_never_turned(upright, up):
    data = replace(DATA, upright=upright, sideways=0.1)
    assert values(rules.scale(data)).get("scale", True) == up
    turned = {"flip", "vertical_flip", "rotate90", "jitter"}
    assert set(values(rules.augmentation(data))) == ({"flip", "jitter"} if up else turned)


@pytest.mark.parametrize("kind", [(1, "uint16"), (5, "float32"), (3, "float32")])
def test_colors_are_changed_of_photographs_alone(kind):
    data = replace(DATA, channels=kind[0], dtype=kind[1])
    assert "jitter" not in values(rules.augmentation(data))


@pytest.mark.parametrize(
    ("shares", "crop_size", "expected"),
    [
        ((0.99, 0.01), 256, {}),
        ((0.9901, 0.0099), 256, {"rare_crops": 0.33}),
        ((0.9901, 0.0099), 293, {"rare_crops": 0.33}),
        ((0.9901, 0.0099), 294, {}),  # a crop shows half of an image
        ((1.0, 0.0), 256, {}),  # a class that is nowhere
    ],
)
def test_rare_crops(shares, crop_size, expected):
    assert values(rules.rare_crops(replace(DATA, shares=shares), crop_size)) == expected


def test_the_reason_names_the_rarest_class_and_its_share():
    (choice,) = rules.rare_crops(replace(DATA, shares=(0.9902, 0.0098)), 256).values()
    assert choice.reason.startswith("b has 0.98 % of the pixels")


@pytest.mark.parametrize(
    ("shares", "pretrained", "expected"),
    [
        ((0.5, 0.48, 0.02), False, {}),
        ((0.5, 0.481, 0.019), False, {"class_weights": "sqrt_median_freq"}),
        ((0.5, 0.481, 0.019), "w.pth", {}),  # the encoder knows more
        ((0.981, 0.019), False, {}),  # the monitor watches it
        ((0.5, 0.5, 0.0), False, {}),  # a class that is nowhere
    ],
)
def test_class_weights(shares, pretrained, expected):
    data = replace(DATA, classes=("a", "b", "c")[: len(shares)], shares=shares)
    arch = {"type": "UNet", "args": {"pretrained": pretrained}}
    assert values(rules.class_weights(data, arch)) == expected


@pytest.mark.parametrize(("count", "kind"), [(32, "Sum"), (33, "CrossEntropyLoss2d")])
def test_loss(count, kind):
    value = rules.loss(replace(DATA, classes=tuple(map(str, range(count))))).value
    assert (value if isinstance(value, str) else value["type"]) == kind


@pytest.mark.parametrize(
    ("classes", "shares", "watched"),
    [
        ("ab", (0.96, 0.04), "max IoU/b"),
        ("ab", (0.95, 0.05), "max Mean_IoU"),
        ("ab", (1.0, 0.0), "max Mean_IoU"),  # a class that is nowhere has no IoU
        ("abc", (0.9, 0.06, 0.04), "max Mean_IoU"),
    ],
)
def test_monitor(classes, shares, watched):
    assert rules.monitor(replace(DATA, classes=tuple(classes), shares=shares)).value == watched


@pytest.mark.parametrize(
    ("occurs", "val_images", "watched"),
    [(15, 0, "IoU/b"), (14, 0, "Mean_IoU"), (6, 200, "IoU/b"), (5, 200, "Mean_IoU")],
)
def test_a_class_is_watched_only_where_images_with_it_are_held_out(occurs, val_images, watched):
    data = replace(DATA, shares=(0.96, 0.04), occurs=(200, occurs), val_images=val_images)
    assert rules.monitor(data).value == f"max {watched}"


def test_candidates_are_three_that_the_weights_at_hand_allow():
    plain = rules.candidates("cpu", {})
    assert [one["type"] for one in plain] == ["UNet", "UNet", "ENet"]
    known = rules.candidates("cpu", {"tf_efficientnet_lite0": "w.pth"})
    assert [one["type"] for one in known] == ["SegFormer", "DeepLab", "UNet"]
    assert known[0]["args"]["pretrained"] == "w.pth"


def measured(*paces, peak=2**30):
    return [Measured(SMALL, pace, 0.01, 0.1, peak) for pace in paces]


def test_the_strongest_network_that_sees_enough_is_chosen():
    seconds = 0.95 * 600 - 15
    three = measured(1999 / seconds, 2001 / seconds, 9000 / seconds)
    assert rules.model(three, 10)[0] == three[1]
    assert rules.model(three, 11)[0] == three[0]
    assert rules.model(three, 1)[0] == three[2]  # none does: the fastest


def test_a_pretrained_network_needs_fewer_images():
    seconds = 0.95 * 600 - 15
    two = [*measured(501 / seconds, 9000 / seconds)]
    two[0] = two[0]._replace(arch={"type": "UNetResnet", "args": {"pretrained": True}})
    assert rules.model(two, 10)[0] == two[0]
    two[0] = two[0]._replace(images_per_second=499 / seconds)
    assert rules.model(two, 10)[0] == two[1]


@pytest.mark.parametrize(("largest", "mode"), [((300, 704), "whole"), ((300, 705), "sliding")])
def test_prediction(largest, mode):
    assert rules.prediction(replace(DATA, largest=largest), 352).value == mode


@pytest.mark.parametrize(
    ("peak", "expected"),
    [
        (0.79, {"batch_size": 8}),
        (0.81, {"batch_size": 4, "trainer.accumulate": 2}),
        (1.61, {"batch_size": 2, "trainer.accumulate": 4}),
        (99, {"batch_size": 2, "trainer.accumulate": 4}),
    ],
)
def test_batch(peak, expected):
    bytes_ = int(peak * MACHINE.host_bytes)
    assert values(rules.batch(DATA, MACHINE, bytes_)) == expected
    assert values(rules.batch(replace(DATA, images=5), MACHINE, 0)) == {"batch_size": 5}
    assert values(rules.batch(DATA, Machine("cuda", 8, 0, 2**34), 0)) == {"batch_size": 16}


@pytest.mark.parametrize(("pretrained", "rate"), [(False, 3e-3), ("w.pth", 2e-3), (True, 2e-3)])
def test_optimizer(pretrained, rate):
    found = values(rules.optimizer({"type": "UNetResnet", "args": {"pretrained": pretrained}}))
    assert found["optimizer.args"]["lr"] == rate
    assert found.get("optimizer.backbone_lr_factor") == (0.25 if pretrained else None)


@pytest.mark.parametrize(("share", "cache"), [(0.29, "ram"), (0.31, None)])
def test_cache(share, cache):
    data = replace(DATA, decoded_bytes=int(share * MACHINE.host_bytes))
    assert values(rules.loading(data, MACHINE)).get("cache") == cache


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (3, 2), (64, 8)])
def test_workers(cores, workers):
    assert values(rules.loading(DATA, MACHINE._replace(cores=cores)))["num_workers"] == workers


@pytest.mark.parametrize(("images", "seen"), [(200, 160), (19, 8), (9, 7)])
def test_an_epoch_has_the_images_of_its_full_batches(images, seen):
    found = rules.schedule(replace(DATA, images=images), measured(8.0)[0], 10, 8)
    assert found["trainer.epochs"].reason.startswith(f"{seen} images an epoch")


@pytest.mark.parametrize("minutes", [2, 10, 60, 600])
def test_epochs_and_validations_fit_into_the_time(minutes):
    one = measured(8.0)[0]
    found = values(rules.schedule(DATA, one, minutes, 8))
    epochs, every = found["trainer.epochs"], found["trainer.val_per_epochs"]
    times = -(-epochs // every)
    used = epochs * (160 / 8.0 + 0.1) + times * (40 * 0.01 + 0.1)
    assert used <= 0.95 * 60 * minutes - 15 < used + 160 / 8.0 + 1
    assert times * 0.5 <= 0.1 * 60 * minutes
    assert times <= 30
    told = rules.schedule(DATA, one, minutes, 8)["trainer.epochs"].reason
    assert told.endswith(f"about {(15 + used) / 60:.3g} of {minutes} minutes")


def test_weights_are_averaged_where_there_are_enough_updates():
    one = measured(8.0)[0]  # 160 images an epoch of 20 s: 20 updates
    assert "trainer.ema" not in values(rules.schedule(DATA, one, 5, 8))
    assert values(rules.schedule(DATA, one, 6, 8))["trainer.ema"] == 0.99


# The config.


@pytest.mark.parametrize("val_images", [0, 9])
def test_the_text_says_each_reason_above_its_value(val_images):
    loaders = dict(DATA.loaders)
    if val_images:
        loaders["val_loader"] = {**DATA.loaders["train_loader"], "masks": "n"}
    data = replace(DATA, loaders=loaders, val_images=val_images, shares=(0.999, 0.001))
    choices = configs.choose(data, MACHINE, Choice(SMALL, "why"), "x")
    choices |= rules.schedule(data, measured(8.0)[0], 60, 8)
    text = configs.text(choices, "head")
    lines = [line.strip() for line in text.splitlines()]
    above = {(reason, line.partition(":")[0]) for reason, line in itertools.pairwise(lines)}
    for path, choice in choices.items():
        if choice.reason:
            assert (f"// {choice.reason}", f'"{path.rpartition(".")[2]}"') in above
    config = parse_config(configs.nested(choices))
    assert (config.val_loader is None) == (val_images == 0)


@pytest.fixture
def folder(tmp_path):
    """Bright bars on noise, masks of 0 and 255: 12 images of 40 x 48."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for number in range(12):
        mask = np.zeros((40, 48), np.uint8)
        mask[4:20, 5 + number : 15 + number] = 255
        image = rng.integers(0, 90, (40, 48, 3)).astype(np.uint8) + (mask // 2)[..., None]
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{number}.png")
        Image.fromarray(image).save(tmp_path / "data" / "images" / f"{number}.png")
    known = {"machine": MACHINE._asdict(), "measured": [measured(40.0)[0]._asdict()]}
    (tmp_path / "known.json").write_text(json.dumps(known))
    return tmp_path


def planned(folder, name, *flags):
    output = folder / name
    command = [str(folder / "data"), "--measurements", str(folder / "known.json"), "--minutes", "1"]
    code = guard(plan.main, [*command, "-o", str(output), *flags])
    return code, output


def test_the_same_folder_minutes_and_measurements_give_the_same_bytes(folder, capsys):
    code, first = planned(folder, "one.json")
    assert code == 0
    shown = capsys.readouterr().out
    assert "applied: masks of values 0, 255: each is a class" in shown
    assert f"train.py -c {first}" in shown
    again = [
        str(folder / "data"),
        "--measurements",
        str(folder / "one.plan.json"),
        "--minutes",
        "1",
    ]
    assert guard(plan.main, [*again, "-o", str(folder / "two.json")]) == 0
    assert first.read_bytes() == (folder / "two.json").read_bytes()
    config = load_config(first)
    assert config.train_loader.args["label_map"] == {"0": 0, "255": 1}
    assert config.loss.type == "Sum"


def test_the_written_config_trains(folder, capsys):
    _, output = planned(folder, "mine.json")
    places = [
        f"trainer.{key}={json.dumps(str(folder / 'saved'))}" for key in ("save_dir", "log_dir")
    ]
    settings = ["trainer.epochs=2", "train_loader.args.num_workers=0", *places]
    assert train.main(["-c", str(output), "-d", "cpu", "--set", *settings]) == 0
    assert list((folder / "saved").glob("plan_data/*/best_model.pth"))


def test_a_file_of_the_users_is_not_replaced(folder, capsys):
    (folder / "mine.json").write_text("{}")
    assert planned(folder, "mine.json")[0] == 2
    assert (folder / "mine.json").read_text() == "{}"
    assert not (folder / "mine.plan.json").exists()


@pytest.mark.parametrize("text", ["[]", "{", '{"machine": {}, "measured": []}'])
def test_measurements_of_another_kind_are_refused(folder, capsys, text):
    (folder / "known.json").write_text(text)
    assert planned(folder, "mine.json")[0] == 2
    assert "expected: the .plan.json that a plan has written" in capsys.readouterr().err


def test_what_the_doctor_refuses_is_refused_with_its_report(folder, capsys):
    data = folder / "data"
    (data / "images" / "3.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(data / "masks" / "5.png")
    code, output = planned(folder, "mine.json")
    own = Folder(
        data_dir=str(data), classes=("background", "foreground"), label_map={"0": 0, "255": 1}
    )
    report, usable = check({"train_loader": own}, full=True)
    assert not usable
    assert code == 3
    assert capsys.readouterr().err == f"error: the data cannot be used\n{report}\n"
    assert not output.exists()


def test_an_image_without_a_mask_is_refused_as_a_training_does(folder, capsys):
    data = folder / "data"
    (data / "masks" / "3.png").unlink()
    with pytest.raises(DataError) as caught:
        Folder(data_dir=str(data), classes=("a", "b"))
    assert planned(folder, "mine.json")[0] == 3
    assert capsys.readouterr().err == f"error: {caught.value}\n"


# What is looked at.


def test_the_fingerprint_is_that_of_numpy(tmp_path):
    rng = np.random.default_rng(1)
    for kind in ("train/images", "train/masks"):
        (tmp_path / kind).mkdir(parents=True)
    images = rng.integers(0, 2**16, (6, 20, 30), np.uint16)
    masks = rng.choice(np.array([0, 1, 2, 255], np.uint8), (6, 20, 30), p=[0.5, 0.3, 0.1, 0.1])
    masks[:4][masks[:4] == 2] = 1
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        Image.fromarray(image).save(tmp_path / "train/images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "train/masks" / f"{number}.png")
    found, _ = take_fingerprint(str(tmp_path), find_places(tmp_path)[0])
    counts = np.bincount(masks.ravel(), minlength=256)
    assert found.shares == pytest.approx(counts[:3] / counts[:3].sum(), rel=1e-3)
    assert found.void == pytest.approx(counts[255] / counts.sum(), rel=1e-3)
    assert found.occurs == (6, 6, 2)
    assert (found.channels, found.dtype, found.median) == (1, "uint16", (20, 30))
    assert found.mean == pytest.approx([images.mean() / 65535], rel=1e-3)
    assert found.std == pytest.approx([images.std() / 65535], rel=1e-3)
    assert found.loaders["train_loader"]["mean"] == found.mean


def write_pairs(root, masks):
    """Masks by path below `masks`, and images of noise."""
    rng = np.random.default_rng(0)
    for name, mask in masks.items():
        for kind, pixels in (("masks", mask), ("images", rng.integers(0, 255, mask.shape))):
            path = root / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return take_fingerprint(str(root), find_places(root)[0])[0]


@pytest.mark.parametrize(("axis", "expected"), [(0, (1 / 3, 0.0)), (1, (0.0, 1 / 3))])
def test_which_way_is_up_is_seen_in_the_labels_of_each_image(tmp_path, axis, expected):
    masks = {}
    for name, side in {"a": 40, "b": 40, "larger": 60}.items():
        mask = np.zeros((side, side), np.uint8)
        np.moveaxis(mask, axis, 0)[: side // 2] = 1
        masks[name] = np.flip(mask, axis) if name == "larger" else mask
    found = write_pairs(tmp_path, masks)
    assert (found.upright, found.sideways) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("count", "value"), [(1, 1), (3, 0)])
def test_one_image_or_one_class_is_no_data_set(tmp_path, count, value):
    masks = {str(number): np.pad(np.full((8, 8), value), 4) for number in range(count)}
    with pytest.raises(DataError, match="expected: two of both at least"):
        write_pairs(tmp_path, masks)


def test_the_fingerprint_knows_the_pairs_of_lists(tmp_path):
    masks = {name: np.pad(np.ones((8, 8)), 4) for name in "abc"}
    write_pairs(tmp_path, masks)
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "val.txt").write_text("c\n")
    found, _ = take_fingerprint(str(tmp_path), find_places(tmp_path)[0])
    assert (found.images, found.val_images) == (2, 1)
    assert found.loaders["val_loader"]["split"] == "val.txt"


@pytest.mark.parametrize(("second", "folders"), [("b", 3), ("a", 1)])
def test_folders_divide_images_where_no_class_is_in_one_alone(tmp_path, second, folders):
    masks = {f"{folder}/{number}": np.zeros((16, 16)) for folder in "abc" for number in (1, 2)}
    for name in ("a/1", f"{second}/2"):
        masks[name] = np.eye(16).repeat(2, axis=1)[:, :16]
    assert write_pairs(tmp_path, masks).folders == folders


@pytest.mark.parametrize(
    ("name", "fourth", "channels"), [("x.tif", 255, 3), ("x.tif", None, 4), ("x.png", None, 3)]
)
def test_a_fourth_channel_is_alpha_or_a_band(tmp_path, name, fourth, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4)).astype(np.uint8)
    if fourth is not None:
        pixels[..., 3] = fourth
    if name.endswith("tif"):
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", extrasamples=["unspecified"])
    else:
        Image.fromarray(pixels).save(tmp_path / name)
    assert pixel_kind(tmp_path / name) == (channels, "uint8")


def test_a_step_is_measured_as_it_would_be_trained(folder, monkeypatch):
    monkeypatch.setattr(steps, "_SECONDS", 0.0)
    data, _ = take_fingerprint(str(folder / "data"), find_places(folder / "data")[0])
    config = configs.nested(configs.choose(data, MACHINE, Choice(SMALL), "x"))
    began = time.perf_counter()
    children = multiprocessing.active_children()
    found = steps.measure(config, "cpu")
    took = time.perf_counter() - began
    assert found.arch == SMALL
    assert 0 < 1 / found.images_per_second < took
    assert 0 < found.validation < took
    assert found.peak_bytes > 2**27  # torch alone
    # A process of the pool would wait for workers for ever.
    assert multiprocessing.active_children() == children


@pytest.mark.parametrize(("batches", "seconds"), [([[0, 1, 2], [3]], 6.0), ([[0, 1, 2]], 2.0)])
def test_validation_is_measured_by_what_its_second_batch_holds(monkeypatch, batches, seconds):
    """Batches are of one size of image, so they need not be full."""
    monkeypatch.setattr(steps.time, "perf_counter", iter([10.0, 16.0]).__next__)

    def run(network, signals, **_):
        for _batch in batches:
            if signals.number is not None:
                return

    validator = SimpleNamespace(loader=SimpleNamespace(evaluation=batches), run=run)
    trainer = SimpleNamespace(validator=validator, model=torch.nn.Identity())
    assert steps._seconds_of_validation(trainer) == seconds


def test_weights_are_those_that_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("models.pretrained.hub.try_to_load_from_cache", lambda *_: None)
    assert weights_at_hand("tf_efficientnet_lite0.in1k") is False
    url, place = source_of("tf_efficientnet_lite0.in1k")
    assert (
        url
        == "https://huggingface.co/timm/tf_efficientnet_lite0.in1k/resolve/main/model.safetensors"
    )
    assert place == "pretrained/tf_efficientnet_lite0.in1k.safetensors"
    for name in (place, "pretrained/tf_efficientnet_lite0.pth"):
        Path("pretrained").mkdir(exist_ok=True)
        Path(name).touch()
        assert weights_at_hand("tf_efficientnet_lite0.in1k") == name
        Path(name).unlink()
    for encoder in itertools.chain(*rules.ENCODERS.values()):
        assert source_of(timm_name(encoder))[0].startswith("https://")


@pytest.mark.slow
def test_a_plan_measures_three_networks_and_ends(folder, capsys):
    output = folder / "mine.json"
    command = [str(folder / "data"), "--minutes", "1", "--device", "cpu", "-o", str(output)]
    assert guard(plan.main, command) == 0
    found = json.loads((folder / "mine.plan.json").read_text())
    assert len(found["measured"]) == 3
    load_config(output)

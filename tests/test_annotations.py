"""Labels as shapes: what is drawn where, and what of other files is told."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as areas
from pycocotools.coco import COCO

from dataloaders.doctor import check
from dataloaders.folder import Folder
from dataloaders.polygons import inside
from tools import masks as masks_tool
from utils.errors import ConfigError, DataError, guard
from utils.files.outputs import find_images

# Of pycocotools itself, with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZE = (30, 40)


def center_inside(points, row, column):
    """The crossings of a ray to the right of one pixel's center, edge by edge."""
    x, y, odd = column + 0.5, row + 0.5, False
    for (x1, y1), (x2, y2) in zip(points, [*points[1:], points[0]], strict=True):
        if (y1 <= y) != (y2 <= y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            odd = not odd
    return odd


def drawn(points, size=SIZE):
    return np.array([[center_inside(points, r, c) for c in range(size[1])] for r in range(size[0])])


@pytest.fixture(name="root")
def _root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "set"
    for number in range(3):
        path = root / "images" / "deep" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*SIZE, 3), number, np.uint8)).save(path)
    return root


SHAPES = (
    ("road", "polygon", [[2, 2], [38, 4], [20, 28]]),
    ("car", "rectangle", [[25, 20], [10, 6]]),
    ("car", "circle", [[30.5, 10], [30.5, 4]]),
    ("road", "polygon", [[28, 8], [33, 8], [33, 13], [28, 13]]),
)


def labelme(root, shapes=SHAPES, *, size=SIZE, place="labels"):
    for image in (root / "images").rglob("*.png"):
        target = root / place / image.relative_to(root / "images").with_suffix(".json")
        target.parent.mkdir(parents=True, exist_ok=True)
        content = [{"label": a, "shape_type": b, "points": c} for a, b, c in shapes]
        about = {"imageHeight": size[0], "imageWidth": size[1], "imageData": None}
        target.write_text(json.dumps({"shapes": content, **about}))


def expected_labelme(background, car, road):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    mask = np.full(SIZE, background)
    mask[drawn(SHAPES[0][2])] = road
    mask[(columns > 10) & (columns < 25) & (rows > 6) & (rows < 20)] = car
    mask[(columns - 30.5) ** 2 + (rows - 10) ** 2 < 36] = car
    mask[(columns > 28) & (columns < 33) & (rows > 8) & (rows < 13)] = road
    return mask


def test_a_pixel_is_inside_when_its_center_is_by_the_even_odd_rule():
    random = np.random.default_rng(0)
    for count in (3, 4, 7, 12):
        points = random.uniform(-8, 46, (count, 2))
        points[:2] = np.round(points[:2]) + 0.5  # corners and edges on centers
        assert (inside(points, SIZE) == drawn(points.tolist())).all()
    assert inside(np.array([[0, 0], [40, 0], [40, 30], [0, 30]]), SIZE).all()


def test_of_neighbors_no_pixel_is_in_both_or_in_none():
    hub = np.array([17.5, 12.5])
    ring = [(0, 0), (13.5, 0), (40, 0), (40, 30), (22, 30), (0, 30)]
    parts = [inside(np.array([hub, one, two]), SIZE).astype(int)
             for one, two in zip(ring, [*ring[1:], ring[0]], strict=True)]  # fmt: skip
    assert (sum(parts) == 1).all()


@pytest.mark.parametrize("place", ["labels", "images"])
def test_labelme_files_are_drawn_in_their_order(root, place):
    labelme(root, place=place)
    data = Folder(data_dir=str(root), masks=place)
    assert data.classes == ("background", "car", "road")
    assert len(data) == 3
    for index in range(3):
        image, mask = data.load(index)
        assert (image == index).all()
        assert (mask == expected_labelme(0, 1, 2)).all()


def test_labelmes_masks_lie_where_their_box_does(root):
    labelme(root, SHAPES[:1])
    part = np.zeros((9, 12), bool)
    part[2:8, 3:7] = part[0, 11] = True
    png = io.BytesIO()
    Image.fromarray(part).save(png, format="PNG")
    shape = {"label": "car", "shape_type": "mask", "points": [[5, 4], [16, 12]]}
    for path in (root / "labels").rglob("*.json"):
        content = json.loads(path.read_text())
        content["shapes"].append(shape | {"mask": base64.b64encode(png.getvalue()).decode()})
        path.write_text(json.dumps(content))
    expected = np.where(drawn(SHAPES[0][2]), 2, 0)
    expected[4:13, 5:17][part] = 1
    assert (Folder(data_dir=str(root), masks="labels").load(0)[1] == expected).all()


def test_labels_become_classes_as_the_config_says(root):
    labelme(root)
    args = {"data_dir": str(root), "masks": "labels"}
    void = Folder(**args, classes=("road", "car")).load(0)[1]
    assert (void == expected_labelme(255, 1, 0)).all()
    merged = Folder(**args, classes=("background", "thing"), label_map={"road": "void", "*": 1})
    assert (merged.load(0)[1] == expected_labelme(0, 1, 255)).all()
    other = Folder(**args, classes=("road", "car"), ignore_index=-1)
    assert (other.load(0)[1] == expected_labelme(-1, 1, 0)).all()
    with pytest.raises(DataError, match=r"0\.json: 0\.png: the label 'car' is no class"):
        Folder(**args, classes=("background", "road"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"size": (30, 41)}, r"0\.json.*drawn on 41x30 pixels, but .*0\.png has 40x30"),
        ({"shapes": [("a", "line", [[0, 0], [5, 5]])]}, "a line has no area, expected polygons"),
        ({"shapes": [("a", "polygon", [[0, 0], [5, 5]])]}, "a polygon of 2 points"),
    ],
)
def test_shapes_that_cannot_be_drawn_are_told_all_at_once(root, change, told):
    labelme(root, **change)
    with pytest.raises(DataError, match=told) as error:
        Folder(data_dir=str(root), masks="labels", classes=("background", "a", "car", "road"))
    assert "fetch the file again" not in str(error.value)  # it is whole
    assert str(error.value).count("\n  fix: ") == 1
    assert [f"{name}.json: {name}.png: " in str(error.value) for name in range(4)] == [
        True, True, True, False
    ]  # fmt: skip


def test_a_label_that_is_a_class_but_for_its_case_is_mapped_to_it(root):
    labelme(root)
    args = {"data_dir": str(root), "masks": "labels", "classes": ("background", "Road", "car")}
    with pytest.raises(DataError, match=r"'road' is no class, expected background, R") as told:
        Folder(**args)
    fix = json.loads(re.search(r"fix: \"label_map\": (.*)", str(told.value))[1])
    assert (Folder(**args, label_map=fix).load(0)[1] == expected_labelme(0, 2, 1)).all()


def coco(root):
    """A polygon of two parts, compressed and plain run lengths, and an image without any."""
    spot = np.zeros(SIZE, np.uint8)
    spot[5:20, 8:22] = 1
    run = areas.encode(np.asfortranarray(spot))
    counts = [8 * 30 + 5, *([15, 15] * 13), 15, (40 - 21) * 30 - 20]
    shapes = [
        (1, 7, [[2.3, 2, 38, 4.5, 20, 28.2], [1, 20, 8, 21, 4, 29]]),
        (1, 3, {"size": list(SIZE), "counts": run["counts"].decode()}),
        (2, 3, {"size": list(SIZE), "counts": counts}),
        (2, 7, [[10, 3, 30, 9, 12, 25, 9.5, 9]]),
    ]
    content = {
        "images": [{"id": n + 1, "file_name": f"deep/{n}.png", "height": 30, "width": 40}
                   for n in range(3)],
        "annotations": [{"id": n, "image_id": i, "category_id": c, "segmentation": s,
                         "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]}
                        for n, (i, c, s) in enumerate(shapes)],
        "categories": [{"id": 7, "name": "tree"}, {"id": 3, "name": "car"}],
    }  # fmt: skip
    (root / "labels.json").write_text(json.dumps(content))
    return root / "labels.json"


def test_coco_files_are_drawn_as_pycocotools_does(root):
    theirs = COCO(str(coco(root)))
    data = Folder(data_dir=str(root), masks="labels.json")
    assert data.classes == ("background", "car", "tree")
    for number, image in enumerate(sorted(theirs.imgs)):
        expected = np.zeros(SIZE, int)
        for one in theirs.imgToAnns[image]:
            expected[theirs.annToMask(one) > 0] = {3: 1, 7: 2}[one["category_id"]]
        assert (data.load(number)[1] == expected).all()
        assert len(np.unique(expected)) == (1 if number == 2 else 3)
    (root / "images/deep/1.png").unlink()
    with pytest.raises(DataError, match=r"lists 1 of 3 images that are not there"):
        Folder(data_dir=str(root), masks="labels.json")


def yolo(root, lines="1 0.1 0.2 0.9 0.2 0.5 0.8\n0 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5\n"):
    for number in range(3):
        path = root / "labels" / "deep" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines if number else "")


@pytest.mark.parametrize("names", ["names: [car, tree]", "names:\n  0: car\n  1: tree", None])
def test_yolo_text_is_drawn_by_shares_of_the_size(root, names):
    yolo(root)
    args = {"data_dir": str(root), "masks": "labels"}
    if names is None:
        with pytest.raises(ConfigError, match=r"no data\.yaml that names them"):
            Folder(**args)
        args["classes"] = ("background", "car", "tree")
    else:
        (root / "data.yaml").write_text(names)
    data = Folder(**args)
    assert data.classes == ("background", "car", "tree")
    expected = np.zeros(SIZE, int)
    expected[drawn([(4, 6), (36, 6), (20, 24)])] = 2
    expected[drawn([(10, 7.5), (20, 7.5), (20, 15), (10, 15)])] = 1
    assert (data.load(1)[1] == expected).all()
    assert not data.load(0)[1].any()
    yolo(root, "0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DataError, match=r"1\.txt.*a line of 4 numbers.*4 are a box"):
        Folder(**args)


@pytest.mark.parametrize(
    "table", ["id,class\n7,car\n300,tree\n", "1,7,car\n1,300,tree\n0.png,7,tree\n2,300,car\n"]
)
def test_numbered_objects_become_classes_by_a_table(root, table):
    ids = np.zeros(SIZE, np.uint16)
    ids[5:9, 5:9], ids[12:20, 3:30] = 7, 300
    found = [np.where(ids == 300, 0, ids) if "0.png" in table else ids, ids,
             np.where(ids == 7, 0, ids) if "0.png" in table else ids]  # fmt: skip
    for number, one in enumerate(found):
        path = root / "masks" / "deep" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(path)
    (root / "objects.csv").write_text(table)
    data = Folder(data_dir=str(root), label_map="objects.csv")
    assert data.classes == ("background", "car", "tree")
    assert (data.load(1)[1] == np.select([ids == 7, ids == 300], [1, 2], 0)).all()
    if "0.png" in table:
        assert np.unique(data.load(0)[1]).tolist() == [0, 2]
        assert np.unique(data.load(2)[1]).tolist() == [0, 1]
    (root / "objects.csv").write_text(table.replace("300", "301"))
    with pytest.raises(DataError, match=r"object 300 is not in .*objects\.csv"):
        Folder(data_dir=str(root), label_map="objects.csv")


def test_a_mask_is_drawn_once_and_anew_when_its_file_changes(root):
    labelme(root)
    before = Folder(data_dir=str(root), masks="labels")
    times = [pair.mask.stat().st_mtime_ns for pair in before.pairs]
    again = Folder(data_dir=str(root), masks="labels")
    assert again.pairs == before.pairs
    assert [pair.mask.stat().st_mtime_ns for pair in again.pairs] == times
    labelme(root, SHAPES[:2])
    changed = Folder(data_dir=str(root), masks="labels")
    assert not set(changed.pairs) & set(before.pairs)
    assert not (changed.load(0)[1] == before.load(0)[1]).all()


def test_the_tool_claims_no_masks_that_it_did_not_write(tmp_path, capsys):
    config = str(Path(__file__).parents[1] / "config.json")  # generated images
    assert guard(masks_tool.main, ["--config", config, "--output", str(tmp_path / "out")]) == 3
    assert "the data have no mask files" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_tool_writes_what_folder_reads(root, capsys):
    labelme(root)
    output = root / "masks"
    words = ["--data", str(root), "--masks", "labels", "--output", str(output)]
    assert guard(masks_tool.main, words) == 0
    assert '"classes": ["background", "car", "road"]' in capsys.readouterr().out
    plain = Folder(data_dir=str(root), classes=("background", "car", "road"))
    assert plain.pairs[0].mask == output / "deep" / "0.png"
    for index in range(3):
        assert (plain.load(index)[1] == expected_labelme(0, 1, 2)).all()


def proposed(error):
    """The settings that the only fix of an error names."""
    (fix,) = re.findall(r"\n  fix: (.*)", str(error.value))
    return json.loads("{" + fix + "}")


@pytest.mark.parametrize("layout", ["{kind}/{part}", "{part}/{kind}", "set/{kind}/{part}"])
def test_files_of_shapes_are_found_where_masks_are_missing(root, layout):
    for write, kind in ((labelme, "labelme"), (yolo, "YOLO")):
        other = root.parent / kind
        write(root)
        for part in ("one", "two"):
            for old, new in (("images", "images"), ("labels", "labels")):
                folder = other / layout.format(kind=new, part=part)
                folder.mkdir(parents=True)
                for path in (root / old / "deep").iterdir():
                    shutil.copy(path, folder / f"{part}{path.name}")
                    (folder / "classes.txt").write_text("car\nroad\n")
        shutil.rmtree(root / "labels")
        args = {"data_dir": str(other), "classes": ("background", "car", "road")}
        with pytest.raises(DataError) as told:
            Folder(**args)
        assert len(Folder(**args, **proposed(told))) == 6


@pytest.mark.parametrize("place", ["train", "images/deep"])
def test_a_file_of_coco_is_found_with_its_images(root, place):
    coco(root)
    images = list((root / "images" / "deep").iterdir())
    (root / place).mkdir(parents=True, exist_ok=True)
    for path in images:
        path.rename(root / place / path.name)
    (root / "labels.json").rename(root / place / "_annotations.coco.json")
    with pytest.raises(DataError) as told:
        Folder(data_dir=str(root))
    assert len(Folder(data_dir=str(root), **proposed(told))) == 3


@pytest.mark.parametrize("images", [[], [1], "x", [{"file_name": 3}], [{"file_name": ".."}]])
def test_a_damaged_file_of_coco_is_named_all_the_same(root, images):
    (root / "labels.json").write_text(json.dumps({"images": images, "annotations": []}))
    with pytest.raises(DataError) as told:
        Folder(data_dir=str(root))
    assert proposed(told)["masks"] == "labels.json"


@pytest.mark.parametrize("places", [["."], ["raw"], ["raw/town", "raw/village"]])
@pytest.mark.parametrize("images", ["images", "*.png"])
def test_files_of_shapes_beside_their_images_need_one_fix(root, places, images):
    labelme(root, place="images")
    for place in places:
        (root / place).mkdir(parents=True, exist_ok=True)
        for path in (root / "images" / "deep").iterdir():
            shutil.copy(path, root / place)
    shutil.rmtree(root / "images")
    args = {"data_dir": str(root), "classes": ("background", "car", "road")}
    with pytest.raises(DataError) as told:
        Folder(**args, images=images, masks=images.replace("images", "masks").replace("*", "*_"))
    data = Folder(**args, **proposed(told))
    assert len(data) == 3 * len(places)
    assert (data.load(2)[1] == expected_labelme(0, 1, 2)).all()


def test_a_setting_is_not_proposed_to_a_config_that_has_it(root):
    labelme(root)
    (root / "labels" / "deep" / "1.json").unlink()
    with pytest.raises(DataError) as told:
        Folder(data_dir=str(root), masks="labels/deep", images="images/deep")
    (fix,) = re.findall(
        r"\n  fix: add the masks \((.*) where nothing is drawn\), ", str(told.value)
    )
    (root / "labels" / "deep" / "1.json").write_text(fix)
    nothing = Folder(data_dir=str(root), masks="labels/deep", images="images/deep").load(1)[1]
    assert (nothing == 0).all()


def test_what_is_not_drawn_is_said_to_be_void(root):
    labelme(root)
    args = {"data_dir": str(root), "masks": "labels"}
    (note,) = Folder(**args, classes=("road", "car")).notes
    assert note.endswith('if it is background: "classes": ["background", "road", "car"]')
    for known in ({"classes": ("background", "road", "car")}, {"classes": ()}):
        assert Folder(**args, **known).notes == ()
    mapped = {"classes": ("road", "other"), "label_map": {"car": 1, "_background_": 1}}
    assert Folder(**args, **mapped).notes == ()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"_via_settings": {}}, "VGG Image Annotator: export"),
        ({"type": "FeatureCollection", "features": []}, "gdal_rasterize"),
        ({"a": 1, "b": 2}, r"found JSON of a, b, expected labelme's .* or COCO's"),
        ([1], "found JSON of a list"),
    ],
)
def test_json_of_another_program_is_named(root, content, told):
    labelme(root)
    for path in (root / "labels").rglob("*.json"):
        path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=told):
        Folder(data_dir=str(root), masks="labels", classes=("background", "a"))


@pytest.mark.parametrize(("ending", "told"), [("heic", "magick mogrify"), ("dcm", "pydicom reads")])
def test_what_converts_images_that_cannot_be_read_is_named(tmp_path, ending, told):
    for place in ("images", "masks"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f"a.{ending.upper()}").write_bytes(b"x")
    with pytest.raises(
        DataError, match=rf"1 of \.{ending.upper()}\n.*\n  fix: \.{ending}: .*{told}"
    ):
        Folder(data_dir=str(tmp_path), classes=("a", "b"))
    with pytest.raises(DataError, match=told):
        find_images([tmp_path / "images"], extensions=["all"], recursive=False, output=tmp_path)


def test_two_loaders_whose_files_name_other_classes_are_told(root):
    labelme(root)
    train = Folder(data_dir=str(root), masks="labels")
    for path in (root / "labels").rglob("*.json"):
        path.write_text(path.read_text().replace("car", "bus"))
    val = Folder(data_dir=str(root), masks="labels")
    report, usable = check({"train_loader": train, "val_loader": val}, full=False)
    assert not usable
    assert 'fix: in both: "classes": ["background", "car", "road"]' in report


def test_plain_masks_without_classes_are_told(root):
    (root / "images").rename(root / "masks")
    (root / "images" / "deep").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (40, 30)).save(root / "images" / "deep" / f"{number}.png")
    with pytest.raises(ConfigError, match='"classes" is missing, and these masks name none'):
        Folder(data_dir=str(root))


@pytest.mark.parametrize("options", [{"val_fold": [0, 2]}, {"val_split": 0.5, "group": "*"}])
def test_the_tool_writes_what_a_config_holds_out_too(root, options):
    labelme(root)
    args = {"data_dir": str(root), "masks": "labels", "batch_size": 1} | options
    config = {"name": "a", "arch": {"type": "UNet"}, "trainer": {"epochs": 1},
              "train_loader": {"type": "Folder", "args": args}}  # fmt: skip
    (root / "config.json").write_text(json.dumps(config))
    words = ["--config", str(root / "config.json"), "--output", str(root / "out")]
    assert guard(masks_tool.main, words) == 0
    assert len(list((root / "out").rglob("*.png"))) == 3


@pytest.mark.parametrize("outline", [[], None, [[1, 1, 20, 20]]])
def test_a_box_of_coco_without_an_outline_is_named(root, outline):
    file = coco(root)
    content = json.loads(file.read_text())
    content["annotations"][2] |= {"id": 17, "segmentation": outline}
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"annotation 17 has no outline(.|\n)*export segment"):
        Folder(data_dir=str(root), masks="labels.json")


def test_names_that_yaml_reads_as_numbers_are_names(root):
    yolo(root)
    (root / "data.yaml").write_text("names: [0, yes]")
    assert Folder(data_dir=str(root), masks="labels").classes == ("background", "0", "True")


def test_arrays_with_their_bands_first_have_shapes_too(root):
    labelme(root, size=SIZE)
    for path in (root / "images").rglob("*.png"):
        np.save(path.with_suffix(".npy"), np.zeros((5, *SIZE), np.uint8))
        path.unlink()
    data = Folder(data_dir=str(root), masks="labels", mean=(0.5,) * 5, std=(0.5,) * 5)
    assert (data.load(0)[1] == expected_labelme(0, 1, 2)).all()

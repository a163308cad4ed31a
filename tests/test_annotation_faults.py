"""Files of shapes and tables of objects that are wrong: each fault is told where it is."""

import json

import numpy as np
import pytest
from PIL import Image

from dataloaders import drawn_masks
from dataloaders.folder import Folder
from utils.errors import ConfigError, DataError

# Of pycocotools itself, with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZE = (30, 40)
BOX = [[10, 5], [20, 5], [20, 15], [10, 15]]
NAMES = ("A/x0", "A/x1", "B/x0")


def boxed(value, size=SIZE):
    mask = np.zeros(size, int)
    mask[5:15, 10:20] = value
    return mask


@pytest.fixture(name="root")
def _root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in NAMES:
        path = tmp_path / "set" / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(path)
    return tmp_path / "set"


def write(root, *texts, ending, place="labels"):
    """Texts of the three images; the last one is that of the others, too."""
    for name, text in zip(NAMES, [*texts, *texts[-1:] * 2], strict=False):
        path = root / place / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def shares(points):
    return " ".join(f"{x / SIZE[1]} {y / SIZE[0]}" for x, y in points)


def refused(root, kind=DataError, **args):
    """What Folder says, but where."""
    with pytest.raises(kind) as told:
        Folder(data_dir=str(root), **({"masks": "labels"} | args))
    assert "fetch the file again" not in str(told.value)
    assert "\n  fix: " in str(told.value)
    return str(told.value)


def test_yolo_in_pixels_or_per_cent_is_told_with_its_line(root):
    (root / "data.yaml").write_text("names: [car]")
    good = f"0 {shares(BOX)}\n"
    for bad, value in (("10 5 20 5 20 15 10 15", "10"), ("-.2 .1 .5 .1 .5 .5", "-0.2")):
        write(root, good, f"{good}\n0 {bad}\n", ending="txt")
        told = refused(root)
        assert f"x1.txt: x1.png: line 3: found {value}, expected shares of the image" in told
        assert "1 more like it" in told
    write(root, f"0 {shares([[-3, 5], [20, 5], [20, 15], [-3, 15]])}\n", ending="txt")
    expected = boxed(1)
    expected[5:15, :10] = 1  # an outline that passes the border is cut there
    assert (Folder(data_dir=str(root), masks="labels").load(0)[1] == expected).all()


def test_a_mask_drawn_before_by_other_rules_is_drawn_again(root):
    write(root, f"0 {shares(BOX)}\n", ending="txt")
    args = {"data_dir": str(root), "masks": "labels", "classes": ("background", "car")}
    (old,) = {pair.mask.parent for pair in Folder(**args).pairs}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn_masks, "_FORMAT", 1)  # when pixels became background alone
        assert {pair.mask.parent for pair in Folder(**args).pairs} != {old}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("names: [car]", r"line 1: the class 3 has no name in .*data\.yaml, expected 0 \(car\)"),
        ("nc: 4", r"data.yaml: names no classes, expected names: \[...\]"),
        ("", r"data.yaml: names no classes"),
        (None, 'the class 3 has no name in "classes", expected 0 .car.'),
    ],
)
def test_numbers_of_yolo_without_a_name_are_told(root, names, told):
    write(root, f"3 {shares(BOX)}\n", ending="txt")
    if names is not None:
        (root / "data.yaml").write_text(names)
    with pytest.raises(DataError, match=told):
        Folder(data_dir=str(root), masks="labels", classes=("background", "car"))


def labelme(*labels, points=BOX):
    return json.dumps({"shapes": [{"label": label, "points": points} for label in labels]})


def test_labels_of_labelme_that_are_numbers_are_their_text(root):
    write(root, labelme(1), labelme("car"), ending="json")
    data = Folder(data_dir=str(root), masks="labels")
    assert data.classes == ("background", "1", "car")
    assert (data.load(0)[1] == boxed(1)).all()
    assert (data.load(1)[1] == boxed(2)).all()


@pytest.mark.parametrize("label", [None, ["car"]])
@pytest.mark.parametrize("classes", [(), ("background", "car")])
def test_labels_of_labelme_that_are_no_text_are_told(root, label, classes):
    write(root, labelme("car"), labelme("car", label), ending="json")
    told = refused(root, classes=classes)
    assert f"x1.json: found a shape with the label {json.dumps(label)}, expected text" in told


def test_files_of_labelme_without_any_shape_are_told(root):
    write(root, labelme(), ending="json")
    assert "labels/A: found no shape in any of 3 files" in refused(root)
    only = Folder(data_dir=str(root), masks="labels", classes=("background", "car"))
    assert not only.load(0)[1].any()
    write(root, labelme("background"), ending="json")
    told = refused(root, ConfigError)
    assert told.endswith('fix: name the other classes in "classes", too')


OUTSIDE = [[41.5, 5], [60, 5], [60, 15]]
FRACTIONS = [[0.25, 0.1], [0.5, 0.1], [0.5, 0.5], [0, 1]]
TINY = [[3.1, 3.1], [3.3, 3.1], [3.3, 3.3]]
EDGE = [[40, 5], [40, 9], [40, 12]]  # what is left of an outline that was cut at the border


def coco(root, *shapes, categories=((3, "car"),)):
    """The shapes of the first image: a category and an outline."""
    (root / "labels.json").write_text(json.dumps({
        "images": [{"id": n, "file_name": f"{name}.png", "height": 30, "width": 40}
                   for n, name in enumerate(NAMES)],
        "annotations": [{"id": 50 + n, "image_id": 0, "category_id": c, "segmentation": s}
                        for n, (c, s) in enumerate(shapes)],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }))  # fmt: skip


def flat(points):
    return [[number for point in points for number in point]]


@pytest.mark.parametrize(
    ("points", "told"),
    [
        (OUTSIDE, r"every shape lies outside the image, such as at x, y = \[41.5, 5.0\]; expected"),
        (FRACTIONS, r"every coordinate lies between 0 and 1, expected pixels of 40x30"),
    ],
)
def test_shapes_that_all_lie_elsewhere_are_told(root, points, told):
    write(root, labelme("car", points=points), labelme("car"), ending="json")
    coco(root, (3, flat(points)))
    for masks in ("labels", "labels.json"):
        with pytest.raises(DataError, match=rf"\.json: x0\.png: {told}.*\n  fix: "):
            Folder(data_dir=str(root), masks=masks)


@pytest.mark.parametrize("points", [TINY, EDGE, [[0, 0], [0, 0], [0, 0]]])
def test_shapes_that_cover_no_pixel_of_their_image_are_drawn_as_nothing(root, points):
    write(root, labelme("car", points=points), ending="json")
    coco(root, (3, flat(points)))
    for masks in ("labels", "labels.json"):
        assert not Folder(data_dir=str(root), masks=masks).load(0)[1].any()


def test_one_shape_outside_among_others_is_drawn_as_nothing(root):
    coco(root, (3, flat(OUTSIDE)), (3, flat(BOX)))
    assert (Folder(data_dir=str(root), masks="labels.json").load(0)[1] == boxed(1)).all()
    runs = {"size": list(SIZE), "counts": [0, SIZE[0], SIZE[0] * (SIZE[1] - 1)]}
    coco(root, (3, flat(OUTSIDE)), (3, runs))
    assert Folder(data_dir=str(root), masks="labels.json").load(0)[1].sum() == SIZE[0]
    far = {"label": "car", "shape_type": "circle", "points": [[45, 10], [45, 17]]}
    write(root, json.dumps({"shapes": [far]}), ending="json")  # its points alone lie outside
    assert Folder(data_dir=str(root), masks="labels").load(0)[1].any()


def test_outlines_of_coco_with_half_a_point_are_told(root):
    coco(root, (3, flat(BOX)), (3, [[10, 5, 20, 5, 20, 15, 10]]))
    told = refused(root, masks="labels.json")
    assert "labels.json: x0.png: annotation 51 has an outline of 7 numbers" in told
    coco(root, (3, flat(BOX)[0]))
    assert "annotation 50 has no outline" in refused(root, masks="labels.json")


def test_categories_of_one_name_are_one_class(root):
    coco(root, (0, flat(BOX)), (1, flat([[0, 0], [5, 0], [5, 4], [0, 4]])),
         categories=((0, "crack"), (1, "crack")))  # fmt: skip
    data = Folder(data_dir=str(root), masks="labels.json")
    assert data.classes == ("background", "crack")
    expected = boxed(1)
    expected[:4, :5] = 1
    assert (data.load(0)[1] == expected).all()


def test_categories_of_coco_that_are_not_listed_are_told(root):
    coco(root, (3, flat(BOX)), (9, flat(BOX)))
    told = refused(root, masks="labels.json")
    assert 'annotation 51 has the category 9, expected one of "categories": 3' in told
    coco(root, (9, flat(BOX)), categories=())
    assert 'found no "categories"' in refused(root, masks="labels.json")
    told = refused(root, masks="labels.json", classes=("background", "car"))
    assert "has the category 9, expected" in told


def numbered(root, table):
    """Write masks of which each has the object 1, and return what Folder is given."""
    for name in NAMES:
        path = root / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(boxed(1).astype(np.uint8)).save(path)
    (root / "o.csv").write_text(table)
    return {"masks": "masks", "label_map": "o.csv", "classes": ("background", "bus", "car")}


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("id,class\n1,car\n1,bus\n", "o.csv: line 3: object 1 is 'bus', but 'car' by line 2"),
        ("x0.png,1,car\nx1.png,1,car\nx0.png,1,bus\n",
         "line 3: object 1 of x0.png is 'bus', but 'car' by line 1"),
        ("A\\x0.png,1,car\n\n/A/x0.png,1,bus\n", "line 3: object 1 of /A/x0.png is 'bus', but 'c"),
        ("1,car\nx9.png,1,bus\n", "o.csv: names 1 images that are not there:\n    x9.png\n"),
        ("1,car\nmasks/A/x2,1,bus\n", "names 1 images that are not there:\n    masks/A/x2\n"),
        ("1,car\n2\n", "o.csv: line 2: found '2', expected `id,class` or `image,id,class`"),
        ("1,car\nx0.png,2.0,bus\n", "line 2: found 'x0.png,2.0,bus', expected `id,class`"),
        ("x0.png,1.0,1,car\n", "line 1: found 'x0.png,1.0,1,car', expected `id,class`"),
        ("1,car\n2,\n", "line 2: found '2,', expected `id,class`"),
        ("id,class\n", "o.csv: found no object, expected lines of `id,class`"),
    ],
)  # fmt: skip
def test_tables_of_objects_that_are_wrong_are_told_with_their_line(root, table, told):
    assert told in refused(root, **numbered(root, table))


@pytest.mark.parametrize(
    "table",
    [
        "images/A/x0.png,1,car\nA/x1,1,car\nB\\x0.png,1,bus\n",
        "# objects, as counted\nimage;id;class\nx0.png;1;bus\nA/x0.png;1;car\n x1 ; 1 ; car\n",
        "1,car\n1,car\n./B/x0.png,1,bus\n",
        "id,class\n1,car\nB/x0,1,bus\nx5.png,1,bus\n",
    ],
)
def test_tables_name_images_by_an_end_of_their_path(root, table):
    if "x5" in table:  # of another split
        (root / "test").mkdir()
        Image.new("RGB", (8, 8)).save(root / "test" / "x5.png")
    data = Folder(data_dir=str(root), **numbered(root, table))
    for index, value in enumerate((2, 2, 1)):
        assert (data.load(index)[1] == boxed(value)).all()


def test_classes_of_a_table_that_the_config_lacks_have_a_fix_that_works(root):
    args = numbered(root, "1,truck\n") | {"classes": ("background", "car")}
    told = refused(root, **args)
    assert "the label 'truck' is no class, expected background, car\n" in told
    assert told.partition("\n  fix: ")[2].startswith('add it to "classes"\n')
    more = args | {"classes": ("background", "car", "truck")}
    assert (Folder(data_dir=str(root), **more).load(0)[1] == boxed(2)).all()
    told = refused(root, **args | {"classes": ("background", "Truck")})
    assert told.partition("\n  fix: ")[2].startswith("write 'Truck' in the table\n")


@pytest.mark.parametrize("comment", ["# image,mask", "# who: me", "#"])
def test_a_comment_in_a_list_is_no_line_of_it(root, comment):
    numbered(root, "1,truck\n")
    names = "images/A/x0.png,masks/A/x0.png\nimages/A/x1.png,masks/A/x1.png\n"
    args = {"data_dir": str(root), "classes": ("background", "car"), "split": "list.csv"}
    (root / "list.csv").write_text(f"{comment}\nimage,mask\n{names}{comment}\n")
    assert len(Folder(**args)) == 2
    (root / "list.csv").write_text(f"{names}#comment\n")
    assert "list.csv: found a line of 1 fields: #comment" in _told(args)
    (root / "list.csv").write_text(f"#comment\n{names}")
    assert "list.csv: found a line of 1 fields: #comment" in _told(args)


def _told(args):
    with pytest.raises(DataError) as told:
        Folder(**args)
    return str(told.value)


def test_a_name_may_begin_with_a_number_sign(root):
    for place in ("images", "masks"):
        (root / place).mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(root / place / "#1.png")
    (root / "list.txt").write_text("# one image\n#1.png\n")
    data = Folder(data_dir=str(root), classes=("background", "car"), split="list.txt")
    assert len(data) == 1

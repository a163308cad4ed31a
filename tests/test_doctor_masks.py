"""Masks that hold more than one meaning: understood, or named with a line that gives the truth."""

import cv2
import numpy as np
import pytest
from PIL import Image
from test_doctor import COLORS, cure, folder, make, mended, regions, report

from dataloaders.doctor import check

TWO = {"classes": ("ground", "house")}
MAPPED = {"label_map": {"#3C1098": 0, "#8429F6": 1, "#6EC1E4": 2}}
RED, GREEN, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255)


def paint_each(root, paint, suffix=".png", count=6):
    """Write pairs; the mask of number n is the image `paint(n)`."""
    make(root, lambda labels: labels, count=count)
    for number in range(count):
        (root / "masks" / f"{number:04d}.png").unlink()
        paint(number).save(root / "masks" / f"{number:04d}{suffix}")


def with_palette(indices, colours):
    image = Image.fromarray(np.asarray(indices, np.uint8))
    image.putpalette([level for color in colours for level in color])
    return image


def masks(data):
    return [data.load(index)[1] for index in range(len(data))]


# ---- palettes -------------------------------------------------------------------------------


def test_palettes_in_which_an_index_has_several_colors(tmp_path):
    order = [(BLACK, RED, GREEN), (GREEN, BLACK, RED)]  # as quantizing each file by itself gives

    def paint(number):
        labels = regions(number, 3)
        return with_palette((labels + number % 2) % 3, order[number % 2])

    paint_each(tmp_path, paint)
    text, usable = report(tmp_path)
    assert not usable
    assert "0001.png: index 0 is #00FF00, in " in text
    assert set(cure(text)["label_map"]) == {"#000000", "#FF0000", "#00FF00"}
    ids = [cure(text)["label_map"][key] for key in ("#000000", "#FF0000", "#00FF00")]
    for number, mask in enumerate(masks(mended(tmp_path, {}, text))):
        assert (mask == np.array(ids)[regions(number, 3)]).all()
    indices = {"label_map": {"0": 0, "1": 1, "2": 2}}
    assert report(tmp_path, **indices)[1], "whoever states the indices means them"


def test_one_palette_in_all_files_is_no_doubt(tmp_path):
    paint_each(tmp_path, lambda number: with_palette(regions(number, 3), (RED, BLACK, GREEN)))
    assert report(tmp_path)[1]
    assert (masks(folder(tmp_path))[1] == regions(1, 3)).all()


@pytest.mark.parametrize("stated", [{}, {"label_map": {"0": 0, "255": 1}}], ids=["plain", "0/255"])
def test_gif_masks_whose_indices_are_not_what_is_shown(tmp_path, stated):
    def paint(number):  # of a mask that is white all over, GIF calls white 0
        labels = np.ones((48, 48)) if number == 5 else regions(number, 2)
        return Image.fromarray((labels * 255).astype(np.uint8))

    paint_each(tmp_path, paint, suffix=".gif")
    text, usable = report(tmp_path, **TWO, **stated)
    assert not usable
    assert cure(text) == {"label_map": {"#000000": 0, "#FFFFFF": 1}}
    found = masks(mended(tmp_path, TWO | stated, text))
    assert (found[1] == regions(1, 2)).all()
    assert (found[5] == 1).all()


# ---- ids of objects, soft edges, colors too many ----------------------------------------------


def objects():
    """25 squares, an id each."""
    ids = np.zeros((48, 48), np.uint16)
    for number in range(25):
        top, left = 2 + 9 * (number // 5), 2 + 9 * (number % 5)
        ids[top : top + 6, left : left + 6] = number + 1
    return ids


@pytest.mark.parametrize("kind", ["values", "stated", "colours"])
def test_ids_of_objects(tmp_path, kind):
    random = np.random.default_rng(0)

    def paint(number):
        if kind != "colours":
            return Image.fromarray(objects())
        colours = random.integers(1, 256, (26, 3))
        colours[0] = 0
        return Image.fromarray(colours.astype(np.uint8)[objects()])

    paint_each(tmp_path, paint)
    options = TWO | ({"label_map": {"0": 0, "255": 1}} if kind == "stated" else {})
    text, usable = report(tmp_path, **options)
    assert not usable
    assert "one for each object" in text
    assert cure(text) == {"label_map": {"#000000" if kind == "colours" else "0": 0, "*": 1}}
    assert all((mask == (objects() > 0)).all() for mask in masks(mended(tmp_path, options, text)))


def test_ids_of_objects_cannot_become_three_classes(tmp_path):
    paint_each(tmp_path, lambda _: Image.fromarray(objects()))
    text, usable = report(tmp_path)
    assert not usable
    assert "ids of objects" in text
    assert "label_map" not in text.partition("cause:")[2]


def wide(number, count):
    """The stripes in an image of three times the size."""
    return np.kron(regions(number, count), np.ones((3, 3), np.uint8))


def soft(root, values, count=3):
    """Write masks of these values whose edges are smoothed."""
    table = np.asarray(values, np.uint8)
    paint_each(root, lambda n: Image.fromarray(
        cv2.GaussianBlur(table[wide(n, len(values))], (5, 5), 1.2)), count=count)  # fmt: skip
    for number in range(count):
        image = Image.open(root / "images" / f"{number:04d}.png")
        image.resize((144, 144)).save(root / "images" / f"{number:04d}.png")


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ((0, 255), TWO, {"label_map": {"0": 0, "255": 1}, "label_tolerance": 127}),
        ((0, 255), TWO | {"label_map": {"0": 0, "255": 1}}, {"label_tolerance": 127}),
        ((0, 60, 200), {}, {"label_map": {"0": 0, "60": 1, "200": 2}, "label_tolerance": 70}),
    ],
)
def test_soft_edges(tmp_path, values, options, expected):
    soft(tmp_path, values)
    text, usable = report(tmp_path, **options)
    assert not usable
    assert "smoothed" in text or "soft edges" in text
    assert cure(text) == expected
    for number, mask in enumerate(masks(mended(tmp_path, options, text))):
        # Smoothing rounds corners; and from 0 to 200 an edge passes 60, another class's value.
        share = (mask == wide(number, len(values))).mean()
        assert share > (0.98 if len(values) == 2 else 0.9)


@pytest.mark.parametrize("options", [{}, MAPPED])
def test_soft_edges_between_colors(tmp_path, options):
    soft(tmp_path, COLORS)
    text, usable = report(tmp_path, **options)
    assert not usable
    lines = cure(text)
    assert set(lines) == ({"label_tolerance"} if options else {"label_map", "label_tolerance"})
    ids = (lines | options)["label_map"]
    order = np.array([ids[f"#{red:02X}{green:02X}{blue:02X}"] for red, green, blue in COLORS])
    for number, mask in enumerate(masks(mended(tmp_path, options, text))):
        assert (mask == order[wide(number, 3)]).mean() > 0.95


def test_a_color_too_many_is_not_taken_for_a_smoothed_one(tmp_path):
    near = np.array([*COLORS, (132, 41, 226)], np.uint8)  # 20 from the second, but an area
    make(tmp_path, lambda labels: near[labels], classes=4)
    text, usable = report(tmp_path, **MAPPED)
    assert not usable
    assert cure(text) == {"label_map": MAPPED["label_map"] | {"#8429E2": "void"}}
    assert "label_tolerance" not in text
    text, _ = report(tmp_path)
    assert "4 colors for 3 classes, so the smallest are void here" in text


@pytest.mark.parametrize("options", [{}, MAPPED])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_photographs_in_the_masks_folder_get_no_label_map(tmp_path, options, suffix):
    def scene(number):
        noise = np.random.default_rng(number).integers(-20, 20, (144, 144, 3))
        scene = COLORS[wide(number, 3)].astype(int) + noise
        return Image.fromarray(scene.clip(0, 255).astype(np.uint8))

    paint_each(tmp_path, scene, suffix=suffix, count=2)
    text, usable = report(tmp_path, **options)
    assert not usable
    assert "photograph" in text or "JPEG-compressed" in text
    assert "fix: in the args" not in text or set(cure(text)) == {"label_tolerance"}


# ---- alpha ------------------------------------------------------------------------------------


def with_alpha(colours, alphas):
    """A mask whose label n has color n and alpha n."""
    table = np.concatenate([np.array(colours), np.array(alphas)[:, None]], axis=1).astype(np.uint8)
    return lambda labels: table[labels]


@pytest.mark.parametrize("stated", [{}, {"label_map": {"#000000": 0}}])
def test_labels_that_only_alpha_shows(tmp_path, stated):
    make(tmp_path, with_alpha([BLACK, BLACK], [0, 255]), classes=2)
    text, usable = report(tmp_path, **TWO, **stated)
    assert not usable
    assert "alpha varies in 6 masks" in text
    lines = cure(text)["label_map"]
    assert set(lines) == {"transparent", "#000000"}
    data = mended(tmp_path, TWO, text)
    expected = np.array([lines["transparent"], lines["#000000"]])
    assert (masks(data)[1] == expected[regions(1, 2)]).all()


def test_an_eraser_leaves_the_color_below(tmp_path):
    # Label 0 was erased from red, 1 is red, 2 is black.
    make(tmp_path, with_alpha([RED, RED, BLACK], [0, 255, 255]))
    options = TWO | {"label_map": {"#000000": 0, "#FF0000": 1}}
    text, usable = report(tmp_path, **options)
    assert not usable
    assert "transparent (768 px)" in text
    assert cure(text)["label_map"] == options["label_map"] | {"transparent": 0}
    assert (masks(mended(tmp_path, options, text))[0] == np.array([0, 1, 0])[regions(0, 3)]).all()


def test_alpha_that_tells_what_colors_tell_is_said_and_left_out(tmp_path):
    make(tmp_path, with_alpha([WHITE, RED, GREEN], [0, 255, 255]))
    label_map = {"#FFFFFF": 0, "#FF0000": 1, "#00FF00": 2}
    text, usable = report(tmp_path, label_map=label_map)
    assert usable
    assert "note: alpha varies in 6 masks" in text
    assert (masks(folder(tmp_path, label_map=label_map))[0] == regions(0, 3)).all()
    opaque = {"label_map": label_map | {"transparent": "void"}}
    assert (masks(folder(tmp_path, **opaque))[0] == np.array([255, 1, 2])[regions(0, 3)]).all()


# ---- what lies beside the masks -----------------------------------------------------------------


def test_a_labelmap_names_the_classes(tmp_path):
    make(tmp_path, lambda labels: COLORS[labels])
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nwater:60,16,152::\n"
        "field:110,193,228::\nHouse:132,41,246::\n"
    )
    text, usable = report(tmp_path)
    assert not usable
    assert cure(text)["label_map"] == {"#000000": "void", "#3C1098": 2, "#6EC1E4": 0, "#8429F6": 1}
    assert (masks(mended(tmp_path, {}, text))[0] == np.array([2, 1, 0])[regions(0, 3)]).all()


def test_an_image_that_exif_turns_and_its_raw_mask(tmp_path):
    make(tmp_path, lambda labels: labels)
    path = tmp_path / "images" / "0001.png"
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.open(path).save(path, exif=turned)
    text, _ = report(tmp_path)
    assert f"note: EXIF turns 1 images, such as {path}, and not their masks" in text
    Image.open(tmp_path / "masks" / "0001.png").save(tmp_path / "masks" / "0001.png", exif=turned)
    assert "EXIF" not in report(tmp_path)[0]


def test_void_of_255_beside_two_classes_is_seen_in_the_masks_of_both_loaders(tmp_path):
    for part, value in (("train", 1), ("val", 0)):
        make(
            tmp_path / part,
            lambda labels, value=value: np.where(labels, 255, value).astype(np.uint8),
            classes=2,
        )
    alone, usable = report(tmp_path / "val", **TWO)
    assert not usable
    assert "(if 255 is void, state that in a label_map)" in alone
    stated = {"label_map": {"0": 0, "1": 1, "255": "void"}}
    assert report(tmp_path / "val", **TWO, **stated)[1]
    loaders = {f"{part}_loader": folder(tmp_path / part, **TWO) for part in ("train", "val")}
    text, usable = check(loaders, full=False)  # the same images in both are only noted
    assert usable, text
    assert "cause" not in text


@pytest.mark.parametrize(
    ("values", "label_map"),
    [
        ((0, 65535), {"0": 0, "65535": 1}),
        ((0, 254), {"0": 0, "254": 1}),
        ((254, 255), {"254": 0, "255": 1}),
    ],
)
def test_the_white_of_two_values_is_no_void(tmp_path, values, label_map):
    make(tmp_path, lambda labels: np.array(values, np.uint16)[labels], classes=2)
    text, usable = report(tmp_path, **TWO)
    assert not usable
    assert cure(text) == {"label_map": label_map}
    assert (masks(mended(tmp_path, TWO, text))[1] == regions(1, 2)).all()


@pytest.mark.parametrize("colors", [False, True])
def test_values_of_16_bits_among_8_are_told(tmp_path, colors):
    make(tmp_path, lambda labels: labels)
    assert "16 bits" not in report(tmp_path)[0]
    path = tmp_path / "images" / "0001.png"
    shape = (*regions(1, 3).shape, 3) if colors else regions(1, 3).shape
    cv2.imwrite(str(path), np.full(shape, 4095, np.uint16))  # 12 bits: read as 15
    text, usable = report(tmp_path)
    assert usable
    assert "note: 1 of the images looked at have 16 bits, of which the upper 8 are used" in text
    assert f"convert them to 8 bits:\n      {path}" in text


def test_binary_masks_are_named_by_file_and_nothing_beside_the_cause(tmp_path):
    make(tmp_path, lambda labels: labels * 255, classes=2)
    text, _ = report(tmp_path, **TWO)
    first = tmp_path / "masks" / "0000.png"
    assert text.splitlines()[1:] == [
        f"  problem: {first}: 255 is void here: no pixel of the second class in 6 masks",
        "  cause: binary masks of 0 and 255 (if 255 is void, state that in a label_map)",
        '  fix: in the args of each loader ("type": "Folder"): "label_map": {"0": 0, "255": 1}',
    ]

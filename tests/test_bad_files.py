"""Thirty kinds of image and twelve kinds of mask: read correctly, or refused by name."""

import os
import re
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataloaders.doctor import check
from dataloaders.folder import Folder
from utils.errors import DataError

HEIGHT, WIDTH = 6, 8
RNG = np.random.default_rng(0)
PIXELS = np.kron(RNG.integers(0, 256, (3, 4, 3)).astype(np.uint8), np.ones((2, 2, 1), np.uint8))
GRAY = PIXELS[..., 0]
CLASSES = tuple("abc")


def save(path, array=PIXELS, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)


def png_of(chunks):
    """A PNG from its chunks."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        parts.append(struct.pack(">I", len(data)) + kind + data)
        parts.append(struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


def bomb(path):
    head = struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    path.write_bytes(png_of([(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]))


def deep_rgb(path):
    """16 bits a channel, which Pillow does not write."""
    rows = b"".join(b"\0" + (PIXELS[row].astype(">u2") * 257).tobytes() for row in range(HEIGHT))
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    path.write_bytes(png_of([(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]))


def cut(path, share):
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    save(path, np.kron(noise, np.ones((8, 8, 1), np.uint8)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def turned(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = {3: np.rot90(PIXELS, 2), 6: np.rot90(PIXELS, 1)}[orientation]
    save(path, np.ascontiguousarray(stored), exif=exif)


def animated(path):
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def link(path):
    save(path.parent.parent / "real.png")
    path.symlink_to(path.parent.parent / "real.png")


# name, how it is made, and the RGB that is read or why it is refused
READ = {
    "plain.png": save,
    "png named.jpg": lambda path: save(path, format="PNG"),
    "rgba.png": lambda path: save(path, mode="RGBA"),
    "turned 3.png": lambda path: turned(path, 3),
    "turned 6.png": lambda path: turned(path, 6),
    "animated.png": animated,
    unicodedata.normalize("NFC", "é.png"): save,
    unicodedata.normalize("NFD", "é.png"): save,
    'it\'s "quoted"\nand broken.png': save,
    "several.dots.here.png": save,
    "LOUD.PNG": save,
    "link.png": link,
    "deep.png": deep_rgb,
}
GRAYISH = {
    "gray.png": lambda path: save(path, GRAY),
    "deep gray.png": lambda path: save(path, GRAY.astype(np.uint16) * 257),
}
NEAR = {
    "plain.jpg": lambda path: save(path, quality=100, subsampling=0),
    "cmyk.jpg": lambda path: save(path, mode="CMYK", quality=100, subsampling=0),
    "palette.png": lambda path: Image.fromarray(PIXELS).quantize(64).save(path),
}
REFUSED = {
    "empty.jpg": (lambda path: path.write_bytes(b""), "not an image that can be read"),
    "cut.jpg": (lambda path: cut(path, 0.5), "cannot be decoded: .*[Tt]runcated"),
    "cut.png": (lambda path: cut(path, 0.5), "cannot be decoded"),
    "no end.jpg": (lambda path: cut(path, 0.9), "cannot be decoded: .*[Tt]runcated"),
    "text.jpg": (lambda path: path.write_text("hello"), "not an image that can be read"),
    "bomb.png": (bomb, "exceeds limit.*\n  fix: cut it into smaller"),
    "loop.png": (lambda path: path.symlink_to(path), "cannot be opened: Too many levels"),
    "dangling.png": (lambda path: path.symlink_to("nowhere"), "cannot be opened: No such file"),
    "pipe.png": (os.mkfifo, "expected a regular file"),
    "float.tif": (lambda path: save(path, GRAY.astype(np.float32)), "1 channels of float32"),
}


def data_set(root, name, make, mask=None):
    (root / "images").mkdir()
    (root / "masks").mkdir()
    make(root / "images" / name)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8) if mask is None else mask
    # A healthy pair comes first, so that the odd file is met as one of many.
    save(root / "images" / " first.png")
    save(root / "masks" / " first.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    stem = name.rpartition(".")[0]
    Image.fromarray(labels).save(root / "masks" / f"{stem}.png")
    return Folder(data_dir=str(root), classes=CLASSES)


def image_of(data, name):
    index = [Path(data.name(i)).name for i in range(len(data))].index(name)
    image, mask = data.load(index)
    assert data.size(index) == image.shape[:2] == mask.shape
    return image


@pytest.mark.parametrize("name", READ)
def test_images_that_are_read_exactly(tmp_path, name):
    assert (image_of(data_set(tmp_path, name, READ[name]), name) == PIXELS).all()


@pytest.mark.parametrize("name", GRAYISH)
def test_gray_images_become_rgb(tmp_path, name):
    image = image_of(data_set(tmp_path, name, GRAYISH[name]), name)
    assert (image == GRAY[..., None]).all()


@pytest.mark.parametrize("name", NEAR)
def test_images_that_are_read_but_for_compression(tmp_path, name):
    image = image_of(data_set(tmp_path, name, NEAR[name]), name)
    assert np.abs(image.astype(int) - PIXELS).mean() < 12


@pytest.mark.parametrize("shape", [(1, 1), (5, 3000)])
def test_images_of_odd_sizes(tmp_path, shape):
    pixels = np.full((*shape, 3), 7, np.uint8)
    data = data_set(tmp_path, "odd.png", lambda path: save(path, pixels),
                    np.zeros(shape, np.uint8))  # fmt: skip
    assert image_of(data, "odd.png").shape == (*shape, 3)


def test_one_bit_images(tmp_path):
    data = data_set(tmp_path, "bits.png", lambda path: save(path, GRAY > 99))
    assert (image_of(data, "bits.png")[..., 0] == (GRAY > 99) * 255).all()


@pytest.mark.parametrize("name", REFUSED)
def test_images_that_are_refused_by_name(tmp_path, name):
    make, reason = REFUSED[name]
    data = data_set(tmp_path, name, make)
    with pytest.raises(DataError, match=f"{re.escape(name)}: (.|\n)*{reason}"):
        image_of(data, name)
    report, usable = check({"train_loader": data}, full=True)
    assert not usable
    assert name in report
    assert "fix: " in report


def test_a_tiff_of_too_many_pixels_is_a_bomb_too(tmp_path, monkeypatch):
    data = data_set(tmp_path, "x.tif", save)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"x\.tif: (.|\n)*exceeds limit.*\n  fix: cut it into"):
        image_of(data, "x.tif")


def test_a_folder_with_an_images_name_is_no_image(tmp_path):
    with pytest.raises(ValueError, match="is not in list"):
        image_of(data_set(tmp_path, "folder.png", os.mkdir), "folder.png")


def test_a_file_deleted_after_it_was_found(tmp_path):
    data = data_set(tmp_path, "gone.png", save)
    (tmp_path / "images" / "gone.png").unlink()
    with pytest.raises(DataError, match=r"gone\.png: cannot be opened: No such file"):
        data.load(1)


def test_a_file_without_permission(tmp_path, monkeypatch):
    data = data_set(tmp_path, "secret.png", save)

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("utils.files.images.Image.open", refuse)
    with pytest.raises(DataError, match=r"secret\.png: cannot be decoded: .*Permission denied"):
        data.load(1)


# ---- masks ----------------------------------------------------------------------------------

LABELS = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3


def palette_mask(path):
    image = Image.fromarray(LABELS.astype(np.uint8))
    image.putpalette(bytes(range(255, -1, -1)) * 3)
    image.save(path)


MASKS_READ = {
    "palette": palette_mask,
    "16 bit": lambda path: save(path, LABELS.astype(np.uint16)),
    "plain": lambda path: save(path, LABELS.astype(np.uint8)),
}
MASKS_REFUSED = {
    "other size": (
        lambda path: save(path, LABELS.astype(np.uint8).T.copy()),
        "found a mask of 6x8",
    ),
    "rgb": (save, "found mode RGB, expected one label value"),
    "rgba": (lambda path: save(path, mode="RGBA"), "found mode RGBA, expected one label value"),
    "65535": (lambda path: save(path, np.full_like(LABELS, 65535, np.uint16)), "classes: 65535"),
    "jpeg": (lambda path: save(path, LABELS.astype(np.uint8), format="JPEG"), "JPEG-compressed"),
    "classes": (
        lambda path: save(path, (LABELS + 1).astype(np.uint8)),
        "classes: 3 .*(.|\n)*off by",
    ),
    "float": (lambda path: save(path, LABELS.astype(np.float32), format="TIFF"), "floating-point"),
    "empty": (lambda path: path.write_bytes(b""), "not an image that can be read"),
}


@pytest.fixture
def one(tmp_path):
    data_set(tmp_path, "x.png", save)
    return tmp_path


@pytest.mark.parametrize("kind", MASKS_READ)
def test_masks_that_are_read(one, kind):
    MASKS_READ[kind](one / "masks" / "x.png")
    _, mask = Folder(data_dir=str(one), classes=CLASSES).load(1)
    assert (mask == LABELS).all()
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("kind", MASKS_REFUSED)
def test_masks_that_are_refused_by_name(one, kind):
    make, reason = MASKS_REFUSED[kind]
    make(one / "masks" / "x.png")
    data = Folder(data_dir=str(one), classes=CLASSES)
    with pytest.raises(DataError, match=f"masks/x\\.png: (.|\n)*{reason}"):
        data.load(1)
    report, usable = check({"train_loader": data}, full=True)
    assert not usable
    assert "masks/x.png" in report


def test_a_missing_mask(one):
    (one / "masks" / "x.png").unlink()
    with pytest.raises(DataError, match=r"no mask for 1 of 2 images:\n.*images/x\.png"):
        Folder(data_dir=str(one), classes=CLASSES)


def test_a_mask_that_is_all_void(one):
    save(one / "masks" / "x.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    data = Folder(data_dir=str(one), classes=CLASSES)
    assert (data.load(1)[1] == 255).all()
    assert data.label_counts(data.load(1)[1]).sum() == 0


def test_a_binary_mask_is_refused_before_training(one):
    for name in (" first", "x"):
        save(one / "masks" / f"{name}.png", (LABELS > 0).astype(np.uint8) * 255)
    report, usable = check(
        {"train_loader": Folder(data_dir=str(one), classes=("a", "b"))}, full=False
    )
    assert not usable
    assert '"label_map": {"0": 0, "255": 1}' in report


def outcome(data):
    try:
        image, mask = data.load(1)
    except DataError as error:
        return "refused by name" if "x.png" in str(error) else str(error)
    return "read" if image.shape[:2] == mask.shape == (HEIGHT, WIDTH) else "of another size"


@pytest.mark.parametrize("target", ["images", "masks"])
def test_files_cut_anywhere_are_read_or_refused(one, target):
    path = one / target / "x.png"
    whole = path.read_bytes()
    data = Folder(data_dir=str(one), classes=CLASSES)
    for length in range(0, len(whole), 9):
        path.write_bytes(whole[:length])
        assert outcome(data) in ("read", "refused by name")


@pytest.mark.parametrize("target", ["images", "masks"])
def test_files_with_a_wrong_byte_are_read_or_refused(one, target):
    path = one / target / "x.png"
    whole = bytearray(path.read_bytes())
    data = Folder(data_dir=str(one), classes=CLASSES)
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0x5A
        path.write_bytes(damaged)
        assert outcome(data) in ("read", "refused by name")

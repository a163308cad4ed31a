"""TIFF by rows: what is read, where the mask lies, and taking up work after a kill."""

import itertools
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from color_model import CLASSES, ColorModel, checkpoint_of
from PIL import Image
from rasterio.transform import from_origin
from torch import nn

from utils.errors import DataError, ResourceError
from utils.files.images import read_image
from utils.files.mask_tiff import write_mask_tiff
from utils.files.outputs import Job
from utils.files.rasters import Raster
from utils.files.raw_pixels import Decoded
from utils.inference.predictor import Settings
from utils.inference.results import Extras
from utils.inference.segmenter import Segmenter
from utils.inference.streaming import MaskRows

ROOT = Path(__file__).resolve().parent.parent
KINDS = list(
    itertools.product(
        ["uint8", "uint16", "float32"], [1, 3, 5], [None, "zlib", "lzw"], [False, True]
    )
)


@pytest.mark.parametrize("separate", [False, True], ids=["contig", "separate"])
def test_rows_of_every_kind_of_file(tmp_path, separate):
    path, generator = tmp_path / "a.tif", np.random.default_rng(0)
    for dtype, channels, compression, tiled in KINDS:
        pixels = (generator.random((101, 77, channels)) * 255).astype(dtype)
        planes = separate and channels > 1
        stored = np.moveaxis(pixels, 2, 0) if planes else pixels.squeeze()
        tifffile.imwrite(
            path,
            stored,
            photometric="rgb" if channels == 3 else "minisblack",
            planarconfig=("separate" if planes else "contig") if channels > 1 else None,
            compression=compression,
            tile=(32, 48) if tiled else None,
            rowsperstrip=None if tiled else 17,
            predictor=(compression is not None and dtype != "float32") or None,
            byteorder=">" if dtype == "uint16" else "<",
            metadata=None,
        )
        with Raster(path) as raster:
            assert (raster.size, raster.channels, raster.dtype) == ((101, 77), channels, dtype)
            for top, bottom in [(0, 101), (5, 6), (16, 40), (33, 101), (100, 101)]:
                assert np.array_equal(raster.rows(top, bottom), pixels[top:bottom])


def test_jpeg_in_tiff(tmp_path):
    pixels = np.zeros((200, 150, 3), np.uint8)
    pixels[:100, :, 0], pixels[100:, :, 2] = 200, 100
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", compression="jpeg", tile=(64, 64)
    )
    with Raster(tmp_path / "a.tif") as raster:
        assert np.abs(raster.rows(70, 200).astype(int) - pixels[70:]).mean() < 3


def test_one_huge_compressed_strip_goes_through_rasterio(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 255, (90, 60, 3), dtype=np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", compression="zlib", rowsperstrip=90
    )
    monkeypatch.setattr("utils.files.rasters._SEGMENT_LIMIT", 1000)
    with Raster(tmp_path / "a.tif") as raster:
        assert np.array_equal(raster.rows(20, 50), pixels[20:50])
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(DataError, match=r"each of which is decoded whole\n.*requirements-raster"):
        Raster(tmp_path / "a.tif")


def test_bad_files(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0nothing more")
    with pytest.raises(DataError, match=r"a\.tif: cannot be decoded: .+\n  fix: fetch the file"):
        Raster(tmp_path / "a.tif")
    Image.fromarray(np.zeros((9, 9), np.uint8)).convert("P").save(tmp_path / "b.tif")
    with pytest.raises(DataError, match=r"without plain pixels \(palette\)\n  fix: convert"):
        Raster(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", np.ones((90, 60), np.uint8), compression="zlib")
    damaged = bytearray((tmp_path / "c.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "c.tif") as file:
        start = file.pages.first.dataoffsets[0]
    damaged[start : start + 20] = bytes(20)
    (tmp_path / "c.tif").write_bytes(damaged)
    with pytest.raises(DataError, match=r"c\.tif"), Raster(tmp_path / "c.tif") as raster:
        raster.rows(0, 90)


@pytest.mark.parametrize("side", ["ImageWidth", "ImageLength"])
def test_a_header_that_promises_more_than_the_file_holds(tmp_path, side):
    """A few bytes that ask for terabytes cost neither memory nor the images after them."""
    path, model = tmp_path / "a.tif", ColorModel()
    tifffile.imwrite(path, np.zeros((40, 40, 3), np.uint8), photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name in ("RowsPerStrip", side) if side == "ImageLength" else (side,):
            file.pages.first.tags[name].overwrite(1 << 30, dtype=4)
    jobs = [Job(path, tmp_path / "out/a"), noise(tmp_path / "b.tif", 40, 40)]
    (_, bad), (_, good) = segmenter(model, tile=64).run(jobs)
    assert "a.tif: cut short" in str(bad)
    assert good is None


def overwritten(path, tag, value):
    """A compressed TIFF with one tag changed."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages.first.tags[tag].overwrite(value)


def npy(path, shape):
    """An array whose header promises a shape that its 100 bytes do not hold."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header.encode() + bytes(100))


DAMAGED = {
    "no bytes.tif": lambda path: overwritten(path, "StripByteCounts", 0),
    "no samples.tif": lambda path: overwritten(path, "SamplesPerPixel", 0),
    "no bits.tif": lambda path: overwritten(path, "BitsPerSample", [0, 0, 0]),
    "elsewhere.tif": lambda path: overwritten(path, "StripOffsets", 2**31),
    "a huge image.tif": lambda path: overwritten(path, "ImageLength", 60000),
    "huge.npy": lambda path: npy(path, (10**9, 10**5)),
    "negative.npy": lambda path: npy(path, (-5, 20)),
    "twice negative.npy": lambda path: npy(path, (4, -5, -5)),
    "flat.npy": lambda path: npy(path, (100,)),
    "none.npy": lambda path: npy(path, (0, 100)),
    "a zip.npy": lambda path: path.write_bytes(b"PK\3\4" + bytes(100)),
    "cut.npy": lambda path: npy(path, (10, 11)),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_and_the_rest_goes_on(tmp_path, name):
    DAMAGED[name](tmp_path / name)
    jobs = [Job(tmp_path / name, tmp_path / "out/bad"), noise(tmp_path / "good.tif", 40, 40)]
    (_, bad), (_, good) = segmenter(ColorModel(), tile=64).run(jobs)
    assert isinstance(bad, DataError)
    assert str(bad).startswith(f"{tmp_path / name}: ")
    assert good is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]


def test_a_compressed_file_that_was_cut_is_not_black(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 40, 3), np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib", rowsperstrip=30)
    with tifffile.TiffFile(path) as file:
        end = file.pages.first.dataoffsets[2]
    whole = path.read_bytes()
    for length in (end, end + 100):
        path.write_bytes(whole[:length])
        with (
            pytest.raises(DataError, match=r"a\.tif: (.*\n)*  fix: fetch the file"),
            Raster(path) as raster,
        ):
            raster.rows(0, 90)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("by zero"), AttributeError("x"), StopIteration]
)
def test_whatever_a_decoder_raises_the_file_is_named(tmp_path, monkeypatch, error):
    def broken(*_arguments, **_options):
        raise error

    (tmp_path / "a.png").touch()
    monkeypatch.setattr("utils.files.images.Image.open", broken)
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded: .+\n  fix: fetch the file"):
        read_image(tmp_path / "a.png")


def test_an_image_that_memory_does_not_hold_is_no_damage(tmp_path, monkeypatch):
    def scarce(*_arguments, **_options):
        raise MemoryError

    (tmp_path / "a.png").touch()
    monkeypatch.setattr("utils.files.images.Image.open", scarce)
    with pytest.raises(ResourceError, match=r"a\.png: too little memory to read it"):
        read_image(tmp_path / "a.png")


def test_strips_that_a_sparse_file_leaves_out_are_zero(tmp_path):
    pixels = np.full((60, 40, 3), 9, np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", rowsperstrip=20)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        tags = file.pages.first.tags
        for name in ("StripOffsets", "StripByteCounts"):
            tags[name].overwrite([tags[name].value[0], 0, tags[name].value[2]])
    with Raster(tmp_path / "a.tif") as raster:
        found = raster.rows(10, 60)
    assert found[:, 0, 0].tolist() == [9] * 10 + [0] * 20 + [9] * 20


def test_too_little_memory_to_read_an_image_costs_that_image_alone(tmp_path, monkeypatch):
    def scarce(path, _expected):
        if path.name == "a.tif":
            raise MemoryError
        return Decoded(np.zeros((40, 40, 3), np.uint8), None)

    monkeypatch.setattr("utils.inference.segmenter.read_input", scarce)
    jobs = [noise(tmp_path / "a.tif", 40, 40), noise(tmp_path / "b.tif", 40, 40)]
    (_, bad), (_, good) = segmenter(ColorModel(), tile=64).run(jobs)
    assert isinstance(bad, ResourceError)
    assert "a.tif: too little memory" in str(bad)
    assert good is None


@pytest.mark.parametrize(("dtype", "classes"), [(np.uint8, 12), (np.uint16, 400)])
def test_masks_are_tiled_tiffs_with_a_palette(tmp_path, dtype, classes):
    mask = np.random.default_rng(0).integers(0, classes, (700, 1100)).astype(dtype)
    palette = [(one % 256, 10, 20) for one in range(classes)]
    write_mask_tiff(
        tmp_path / "a.tif",
        lambda top, bottom: mask[top:bottom],
        size=mask.shape,
        dtype=mask.dtype,
        palette=palette,
    )
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), mask)
    if dtype == np.uint8:
        with Image.open(tmp_path / "a.tif") as image:
            colours = np.asarray(image.convert("RGB"))
        assert np.array_equal(colours, np.array(palette, np.uint8)[mask])


class Blur(nn.Module):
    """A network that looks around: its answer depends on where a window was cut."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 5, padding=2, bias=False)
        self.conv.weight.data = torch.randn(self.conv.weight.shape, generator=generator)

    def forward(self, images):
        return self.conv(images)


MASKS_ONLY = Extras()


def segmenter(model, *, streamed_pixels=None, say=print, extras=MASKS_ONLY, **settings):
    made = Segmenter(
        model,
        checkpoint_of(model),
        settings=Settings(mode="sliding", **settings),
        device=torch.device("cpu"),
        precision="fp32",
        extras=extras,
        say=say,
    )
    if streamed_pixels is not None:
        made.streamed_pixels = streamed_pixels
    return made


def noise(path, height, width, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(128, 128), compression="zlib", **options
    )
    return Job(path, path.parent / "out" / path.stem)


def only(outcome):
    ((_, error),) = outcome
    return error


def test_streamed_or_not_the_mask_is_the_same(tmp_path):
    job, model = noise(tmp_path / "a.tif", 1500, 1500), Blur()
    assert only(segmenter(model, flip=True, tile=512).run([job])) is None
    assert only(segmenter(model, flip=True, tile=512, streamed_pixels=1).run([job])) is None
    with Image.open(job.result(".png")) as image:
        assert np.array_equal(tifffile.imread(job.result(".tif")), np.asarray(image))
    assert sorted(path.name for path in job.target.parent.iterdir()) == ["a.png", "a.tif"]


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rasterio's own
@pytest.mark.parametrize("streamed_pixels", [1, 10**9], ids=["streamed", "whole"])
def test_georeference_is_kept(tmp_path, streamed_pixels):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 90, 120), dtype=np.uint8)
    place = {"crs": "EPSG:32640", "transform": from_origin(325000.5, 2782000.25, 0.5, 0.5)}
    size = {"height": 90, "width": 120, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **size, **place) as file:
        file.write(pixels)
    job = Job(tmp_path / "a.tif", tmp_path / "out/a")
    model = ColorModel()
    assert only(segmenter(model, streamed_pixels=streamed_pixels, tile=64).run([job])) is None
    with rasterio.open(job.result(".tif")) as mask:
        assert mask.crs == place["crs"]
        assert mask.transform == place["transform"]
        assert mask.read(1).shape == (90, 120)
        assert mask.read(1).max() < len(CLASSES)


@pytest.mark.parametrize(("calls", "scales"), [(1, None), (3, None), (6, None), (6, (1.0, 1.5))])
def test_work_is_taken_up_where_it_ended(tmp_path, calls, scales):
    job, model, said = noise(tmp_path / "a.tif", 400, 300), Blur(), []
    make = partial(segmenter, streamed_pixels=1, tile=96, scales=scales, say=said.append)
    assert only(make(model).run([job])) is None
    expected = job.result(".tif").read_bytes()
    job.result(".tif").unlink()

    stopped = make(model)
    real, seen = stopped.predictor.model, []

    def dies(images):
        seen.append(images.shape)
        if len(seen) > calls:
            raise KeyboardInterrupt
        return real(images)

    stopped.predictor.model = dies
    with pytest.raises(KeyboardInterrupt):
        list(stopped.run([job]))
    assert not job.result(".tif").exists()
    with (job.target.parent / ".a.tif.partial").open("ab") as unfinished:
        unfinished.write(bytes(1000))  # as after a kill in the middle of a write
    said.clear()
    again = make(model)
    assert only(again.run([job])) is None
    assert any("taken up again at row" in line for line in said) == (calls > 1)
    assert job.result(".tif").read_bytes() == expected
    assert [path.name for path in job.target.parent.iterdir()] == ["a.tif"]


def test_rows_of_another_run_are_not_continued(tmp_path):
    options = {"width": 4, "dtype": np.dtype(np.uint8)}
    target = tmp_path / "a.tif"
    rows = MaskRows(target, meaning={"weights": "one"}, **options)
    rows.append(np.ones((3, 4), np.uint8))
    rows.close()
    same = MaskRows(target, meaning={"weights": "one"}, **options)
    assert len(same) == 3
    same.close()
    other = MaskRows(target, meaning={"weights": "two"}, **options)
    assert len(other) == 0
    other.cut(0)
    other.append(np.full((2, 4), 7, np.uint8))
    assert other.read(0, len(other)).tolist() == [[7] * 4] * 2
    other.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("meaning", ["the same", "another"])
def test_two_runs_never_work_on_one_result(tmp_path, meaning):
    options = {"width": 4, "dtype": np.dtype(np.uint8)}
    target = tmp_path / "a.tif"
    rows = MaskRows(target, meaning={"weights": "the same"}, **options)
    rows.append(np.ones((3, 4), np.uint8))
    with pytest.raises(ResourceError, match="another run is working on it"):
        MaskRows(target, meaning={"weights": meaning}, **options)
    assert rows.read(0, 3).tolist() == [[1] * 4] * 3
    rows.close()


def test_rows_stay_until_others_are_ready(tmp_path):
    """A run that ends before its first rows has cost nobody theirs."""
    options = {"width": 4, "dtype": np.dtype(np.uint8)}
    rows = MaskRows(tmp_path / "a.tif", meaning={"window": 128}, **options)
    rows.append(np.ones((3, 4), np.uint8))
    rows.close()
    other = MaskRows(tmp_path / "a.tif", meaning={"window": 512}, **options)
    other.cut(0)
    other.close()
    again = MaskRows(tmp_path / "a.tif", meaning={"window": 128}, **options)
    assert len(again) == 3
    again.close()


def test_work_in_smaller_windows_is_taken_up_too(tmp_path):
    """The first try of the second run has no memory for the windows, as the first run's had not."""
    job, said, calls = noise(tmp_path / "a.tif", 700, 300), [], []

    def made(calls_left):
        one = segmenter(Blur(), streamed_pixels=1, window=256, say=said.append)
        real = one.predictor.model

        def scarce(images):
            if images.shape[3] > 128:
                raise torch.OutOfMemoryError("out of memory")
            calls.append(images.shape)
            if len(calls) > calls_left:
                raise KeyboardInterrupt
            return real(images)

        one.predictor.model = scarce
        return one

    with pytest.raises(KeyboardInterrupt):
        list(made(4).run([job]))
    said.clear()
    assert only(made(1000).run([job])) is None
    assert any("taken up again at row" in line for line in said)


def test_what_is_left_out_of_streamed_images_is_said(tmp_path):
    job, said = noise(tmp_path / "a.tif", 100, 100), []
    extras = Extras(overlay=0.5, array=True)
    made = segmenter(ColorModel(), streamed_pixels=1, tile=64, say=said.append, extras=extras)
    assert only(made.run([job])) is None
    assert said == [
        "a.tif: 100 x 100 pixels do not fit whole, 4 windows",
        "a.tif: too large for probabilities: mask only",
        "a.tif: too large for an overlay: mask only",
    ]
    assert [path.name for path in job.target.parent.iterdir()] == ["a.tif"]


def test_images_whose_logits_do_not_fit_are_done_by_bands(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    model, said = Blur(), []
    plenty = segmenter(model, tile=96, say=said.append).segment(pixels)
    assert said == []
    monkeypatch.setattr("utils.inference.segmenter.free_memory", lambda: 1e5)
    scarce = segmenter(model, tile=96, say=said.append).segment(pixels, "a.jpg")
    assert np.array_equal(scarce.mask, plenty.mask)
    assert said == ["a.jpg: 200 x 300 pixels do not fit whole, 15 windows"]


def test_bands_get_smaller_when_memory_runs_out(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 280, 3), dtype=np.uint8)
    monkeypatch.setattr("utils.inference.segmenter.free_memory", lambda: 1e5)

    class Scarce(Blur):
        def forward(self, images):
            if images.shape[3] > 128:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(images)

    found = segmenter(Scarce(), window=256, say=str).segment(pixels)
    expected = segmenter(Blur(), window=128, say=str).segment(pixels)
    assert np.array_equal(found.mask, expected.mask)


@pytest.mark.parametrize(
    ("mode", "shape"), [("whole", (1, 140_000, 3)), ("multiscale", (140_000, 1, 3))]
)
def test_a_strip_of_one_row_is_not_padded_whole(tmp_path, mode, shape):
    """It would become 32 rows; a file of a few bytes would take gigabytes."""
    largest = []

    class Counts(ColorModel):
        def forward(self, images):
            largest.append(images[:, 0].numel())
            return super().forward(images[..., :1, :1]).expand(-1, -1, *images.shape[2:])

    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "a.png")
    settings = Settings(mode=mode, tile=2048, scales=(1.0,))
    made = Segmenter(
        Counts(), checkpoint_of(ColorModel()), settings=settings, device=torch.device("cpu"),
        precision="fp32", say=str,
    )  # fmt: skip
    assert only(made.run([Job(tmp_path / "a.png", tmp_path / "out")])) is None
    assert max(largest) <= settings.batch_size * 2048 * 32
    with Image.open(tmp_path / "out.png") as mask:
        assert mask.size == shape[1::-1]


GEOREFERENCE = [(33550, 12, 3, (1.0, 1.0, 0.0), True), (33922, 12, 6, (0.0,) * 6, True)]


@pytest.mark.parametrize("streamed_pixels", [1, 10**9], ids=["streamed", "whole"])
@pytest.mark.parametrize("extratags", [[], GEOREFERENCE], ids=["plain", "georeferenced"])
@pytest.mark.parametrize("kind", ["miniswhite", "separated"])
def test_inks_and_white_as_zero_are_seen_as_displayed(tmp_path, kind, extratags, streamed_pixels):
    """Whichever way a file is read: a model learns from small ones and is given large ones."""
    grays = [[value] * 3 for value in (20, 90, 160, 240)]
    mask = np.random.default_rng(0).integers(0, 4, (70, 90))
    image = Image.fromarray(np.array(grays, np.uint8)[mask])
    stored = 255 - np.asarray(image.convert("L" if kind == "miniswhite" else "RGB"))
    if kind == "separated":  # no black ink
        stored = np.dstack([stored, np.zeros_like(stored[..., 0])])
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric=kind, extratags=extratags)
    made = segmenter(ColorModel(grays), streamed_pixels=streamed_pixels, tile=64)
    assert only(made.run([Job(tmp_path / "a.tif", tmp_path / "out")])) is None
    (result,) = tmp_path.glob("out.*")
    with Image.open(result) as found:
        assert (np.asarray(found) == mask).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_nodata_where_white_is_zero(tmp_path, dtype):
    stored = np.array([[0, 7], [200, 7]], dtype)
    tags = [(42113, "s", 0, "7", True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite", extratags=tags)
    with Raster(tmp_path / "a.tif") as raster:
        rows = raster.rows(0, 2)[..., 0]
    white = np.iinfo(dtype).max
    assert rows.dtype == dtype
    assert rows.tolist() == (white - stored).tolist()
    assert raster.nodata == white - 7


def test_other_channels_are_refused(tmp_path):
    pixels = np.zeros((80, 80, 5), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    job = Job(tmp_path / "a.tif", tmp_path / "out/a")
    error = only(segmenter(ColorModel(), streamed_pixels=1, tile=64).run([job]))
    assert "found 5 channels of uint16; the model was trained on 3 channels of uint8" in str(error)
    assert not job.target.parent.exists()


@pytest.mark.parametrize("streamed_pixels", [1, 10**9], ids=["streamed", "whole"])
def test_many_channels_of_16_bit(tmp_path, streamed_pixels):
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (4, 5)).tolist()
    mask = generator.integers(0, 4, (70, 90))
    pixels = (np.array(colours)[mask] * 257).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    model = ColorModel(colours)
    made = Segmenter(
        model,
        checkpoint_of(model, input_dtype="uint16"),
        settings=Settings(mode="sliding", tile=64),
        device=torch.device("cpu"),
        precision="fp32",
        say=print,
    )
    made.streamed_pixels = streamed_pixels
    job = Job(tmp_path / "a.tif", tmp_path / "out/a")
    assert only(made.run([job])) is None
    result = job.result(".tif" if streamed_pixels == 1 else ".png")
    with Image.open(result) as image:
        assert np.array_equal(np.asarray(image), mask)


@pytest.mark.slow
def test_memory_is_bounded_by_the_band(tmp_path):
    """Four times the rows, the same memory: less than a quarter of the mask's logits more."""
    script = """
import sys, torch
from pathlib import Path
from color_model import ColorModel
from test_rasters import only, segmenter
from utils.files.outputs import Job
torch.set_num_threads(1)
job = Job(Path(sys.argv[1]), Path(sys.argv[1] + ".out"))
assert only(segmenter(ColorModel(), streamed_pixels=1, tile=128).run([job])) is None
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""
    peaks = []
    for height in (256, 3072):
        pixels = np.zeros((height, 2048, 3), np.uint8)
        path = tmp_path / f"{height}.tif"
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(128, 128))
        done = subprocess.run(
            [sys.executable, "-c", script, str(path)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        )
        peaks.append(int(done.stdout.split()[-1]))
    logits = 3072 * 2048 * 4 * 4 // 1024
    assert peaks[1] - peaks[0] < logits / 4


@pytest.mark.slow
def test_killed_and_taken_up_the_bytes_are_the_same(tmp_path):
    """kill -9 three times, wherever it happens to be; peak memory stays under a gigabyte."""
    script = """
import sys, torch
from pathlib import Path
from test_rasters import Blur, only, segmenter
from utils.files.outputs import Job
torch.set_num_threads(1)
job = Job(Path(sys.argv[1]), Path(sys.argv[2]))
assert only(segmenter(Blur(), streamed_pixels=1, tile=256).run([job])) is None
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""
    noise(tmp_path / "a.tif", 6000, 4000)

    def start(target):
        return subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "a.tif"), str(tmp_path / target)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        )

    with start("one") as process:
        peak = int(process.communicate()[0].split()[-1])
    assert process.returncode == 0
    assert peak < 1024**2, "kilobytes"
    partial, seen = tmp_path / ".two.tif.partial", 0
    for _ in range(3):
        with start("two") as process:
            while process.poll() is None and (
                not partial.exists() or partial.stat().st_size <= seen + 4000 * 200
            ):
                time.sleep(0.02)
            assert process.poll() is None, "it ended before it could be killed"
            process.kill()
        seen = partial.stat().st_size
        assert not (tmp_path / "two.tif").exists()
    with start("two") as process:
        process.communicate()
    assert process.returncode == 0
    assert (tmp_path / "two.tif").read_bytes() == (tmp_path / "one.tif").read_bytes()
    assert not partial.exists()

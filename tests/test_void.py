"""Void is one thing: NaN, infinity and a raster's nodata, from the file to loss and result."""

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from color_model import checkpoint_of
from PIL import Image
from test_folder import folder, write
from torch import nn

from base.base_data_loader import BaseDataLoader
from dataloaders.doctor import check
from dataloaders.statistics import channel_statistics
from utils.drawing.overlay import overlay, shown
from utils.drawing.palette import VOID_COLOR
from utils.errors import DataError
from utils.files.outputs import Job
from utils.inference.predictor import Settings
from utils.inference.results import Extras
from utils.inference.segmenter import Segmenter

MEAN, STD = (0.25, 0.5, 0.125), (0.2, 0.3, 0.1)
HOLES = np.zeros((60, 70), bool)
HOLES[:, :9] = HOLES[20:31, 40:52] = HOLES[50, 60] = True
VOID = 255


class LooksAround(nn.Module):
    """Every pixel's answer depends on all pixels within three: NaN or a wrong color would show."""

    def __init__(self, classes=4):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, classes, 7, padding=3, bias=False)
        self.conv.weight.data = torch.randn(self.conv.weight.shape, generator=generator)

    def forward(self, images):
        return self.conv(images)


def segmenter(dtype="float32", *, model=None, extras=Extras(), said=None, **settings):  # noqa: B008
    model = model or LooksAround()
    classes = model.conv.out_channels
    facts = {"classes": [str(one) for one in range(classes)], "palette": [(9, 9, 9)] * classes,
             "mean": list(MEAN), "std": list(STD), "input_dtype": dtype}  # fmt: skip
    return Segmenter(
        model, checkpoint_of(model, **facts), settings=Settings(**settings),
        device=torch.device("cpu"), precision="fp32", extras=extras,
        say=str if said is None else said.append,
    )  # fmt: skip


def pixels(dtype="float32", seed=0):
    share = np.random.default_rng(seed).random((60, 70, 3))
    return share.astype(np.float32) if dtype == "float32" else (1 + share * 9999).astype(dtype)


def with_holes(image):
    """NaN in all channels, or in one, or infinite; and what it must be to the network."""
    holey, filled = image.copy(), image.copy()
    holey[HOLES] = np.nan
    holey[20:31, 40:52, :2] = image[20:31, 40:52, :2]
    holey[50, 60] = (np.inf, 1, -np.inf)
    filled[HOLES] = np.float32(MEAN)
    return holey, filled


def write_raster(path, image, *, nodata, **place):
    height, width, count = image.shape
    size = {"height": height, "width": width, "count": count, "dtype": image.dtype}
    with rasterio.open(path, "w", driver="GTiff", nodata=nodata, **size, **place) as file:
        file.write(np.moveaxis(image, 2, 0))


PLACE = {"crs": "EPSG:32640", "transform": rasterio.Affine(0.5, 0, 325000, 0, -0.5, 2782000)}


def run(made, *jobs):
    assert [error for _, error in made.run(jobs)] == [None] * len(jobs)


def array(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("memory", [1e12, 1e3], ids=["whole", "by bands"])
@pytest.mark.parametrize("mode", ["whole", "multiscale", "sliding"])
def test_valid_pixels_are_predicted_as_beside_the_mean_color(tmp_path, monkeypatch, mode, memory):
    monkeypatch.setattr("utils.inference.segmenter.free_memory", lambda: memory)
    jobs = [Job(tmp_path / f"{name}.npy", tmp_path / name) for name in ("holey", "filled")]
    for job, image in zip(jobs, with_holes(pixels()), strict=True):
        np.save(job.image, image)
    run(segmenter(mode=mode, tile=32), *jobs)
    holey, filled = (array(job.result(".png")) for job in jobs)
    assert (holey[HOLES] == VOID).all()
    assert np.array_equal(holey[~HOLES], filled[~HOLES])
    assert len(np.unique(filled)) == 4


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rasterio's own
@pytest.mark.parametrize("streamed_pixels", [1, 10**9], ids=["streamed", "whole"])
@pytest.mark.parametrize(("dtype", "nodata"), [("uint16", 0), ("uint8", 7), ("float32", -9999)])
def test_nodata_is_void_in_the_result_and_its_tag(tmp_path, dtype, nodata, streamed_pixels):
    image = pixels(dtype)
    image[image == nodata] += 1
    image[3, 30, 0] = nodata  # of integers a channel alone may have that value
    lost = HOLES.copy()
    lost[3, 30] = dtype == "float32"
    holey, filled = image.copy(), image.copy()
    holey[HOLES] = nodata
    scale = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    filled[lost] = np.array(MEAN) * scale if dtype == "float32" else np.rint(np.array(MEAN) * scale)
    jobs = [Job(tmp_path / f"{name}.tif", tmp_path / name) for name in ("holey", "filled")]
    write_raster(jobs[0].image, holey, nodata=nodata, **PLACE)
    write_raster(jobs[1].image, filled, nodata=None, **PLACE)
    made = segmenter(dtype, mode="sliding", tile=32)
    made.streamed_pixels = streamed_pixels
    run(made, *(job._replace(target=tmp_path / "out" / job.target.name) for job in jobs))
    masks = []
    for job in jobs:
        with rasterio.open(tmp_path / "out" / f"{job.target.name}.tif") as file:
            masks.append(file.read(1))
            assert file.nodata == VOID
            assert file.colormap(1)[VOID][:3] == VOID_COLOR
            known = file.read_masks(1) > 0
    assert (masks[0][lost] == VOID).all()
    assert np.array_equal(masks[0][~lost], masks[1][~lost])
    assert known.all(), "of the image without nodata"


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("int32", -(2**31) + 1), ("uint32", 2**32 - 1), ("float64", -1.7e308)]
)
def test_nodata_may_be_a_value_that_float32_does_not_hold(tmp_path, dtype, nodata):
    image = np.arange(60 * 70 * 3).reshape(60, 70, 3).astype(dtype)
    holey, expected = image.copy(), image.astype(np.float32)
    holey[HOLES], expected[HOLES] = nodata, MEAN
    data = data_set(tmp_path, image, LABELS, suffix=".tif")
    write_raster(tmp_path / "images/a.tif", holey, nodata=nodata, **PLACE)
    found, mask = data.load(0)
    assert np.array_equal(found, expected)
    assert np.array_equal(mask == VOID, HOLES)


def test_strips_that_a_sparse_file_leaves_out_have_its_nodata(tmp_path):
    image = np.full((64, 32, 3), 9, np.uint8)
    image[16:32] = 200
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16, "SPARSE_OK": True}
    write_raster(tmp_path / "a.tif", image, nodata=200, compress="deflate", **options, **PLACE)
    run(segmenter("uint8", mode="whole"), Job(tmp_path / "a.tif", tmp_path / "out"))
    with rasterio.open(tmp_path / "out.tif") as file:
        assert np.array_equal(np.unique(np.nonzero(file.read(1) == VOID)[0]), np.arange(16, 32))


def test_an_image_that_a_sparse_file_leaves_out_whole_is_void(tmp_path):
    size = {"height": 40, "width": 40, "count": 3, "dtype": "uint8", "nodata": 200}
    path = tmp_path / "a.tif"
    rasterio.open(path, "w", driver="GTiff", blockysize=40, SPARSE_OK=True, **size, **PLACE).close()
    run(segmenter("uint8", mode="whole"), Job(path, tmp_path / "out"))
    assert (tifffile.imread(tmp_path / "out.tif") == VOID).all()


def test_probabilities_and_overlay_know_void(tmp_path):
    holey, filled = with_holes(pixels())
    np.save(tmp_path / "a.npy", holey)
    np.save(tmp_path / "b.npy", np.full_like(holey, np.nan))
    jobs = [Job(tmp_path / f"{name}.npy", tmp_path / "out" / name) for name in "ab"]
    run(segmenter(mode="whole", extras=Extras(overlay=0.5, array=True)), *jobs)
    probabilities, mask = np.load(jobs[0].result(".npy")), array(jobs[0].result(".png"))
    assert np.array_equal(np.isnan(probabilities).any(0), HOLES)
    assert np.array_equal(probabilities.argmax(0)[~HOLES], mask[~HOLES])
    drawn = array(jobs[0].result(".overlay.jpg"))[:60, :6].mean((0, 1))
    assert np.abs(drawn - (shown(filled)[0, 0] + VOID_COLOR) / 2).max() < 8
    assert (array(jobs[1].result(".png")) == VOID).all()


def test_over_255_classes_void_is_no_class():
    many = [str(one) for one in range(400)]
    mask = np.full((40, 40), 255, np.uint16)
    mask[:20] = 65535
    palette = [(0, 0, one % 256) for one in range(400)]
    sheet = np.asarray(overlay(np.zeros((40, 40, 3), np.uint8), mask, palette, many))
    assert sheet[5, 5].tolist() == [round(value / 2) for value in VOID_COLOR]
    assert sheet[30, 5].tolist() == [0, 0, 128], "class 255 has its own color"


# ---- training data --------------------------------------------------------------------------


def data_set(root, image, mask, *, suffix=".npy", **options):
    write(root / "images" / f"a{suffix}", image)
    write(root / "masks" / "a.png", mask)
    return folder(root, mean=MEAN, std=STD, **options)


LABELS = np.resize(np.array([0, 1, 2], np.uint8), (60, 70))


def test_training_sees_the_mean_color_and_no_label(tmp_path):
    holey, filled = with_holes(pixels())
    data = data_set(tmp_path, holey, LABELS, augment=True, crop_size=64, rotate=True, flip=True,
                    blur=True, jitter=0.2, base_size=70)  # fmt: skip
    image, mask = data.load(0)
    assert np.array_equal(image, filled)
    assert np.array_equal(mask, np.where(HOLES, VOID, LABELS))
    batch = next(iter(BaseDataLoader(data, batch_size=1, num_workers=0)))
    assert torch.isfinite(batch.images).all()
    # What was predicted from the file is what evaluation predicts from the pair.
    np.save(tmp_path / "a.npy", holey)
    made = segmenter(mode="multiscale")
    run(made, Job(tmp_path / "a.npy", tmp_path / "out"))
    assert np.array_equal(made.segment(image).mask[~HOLES], array(tmp_path / "out.png")[~HOLES])


def test_statistics_leave_void_out(tmp_path):
    holey, _ = with_holes(pixels() * 40 - 25)
    mean, std = channel_statistics(data_set(tmp_path, holey, LABELS), count=1)
    known = holey[~HOLES].astype(np.float64)
    np.testing.assert_allclose(mean, known.mean(0), rtol=1e-9)
    np.testing.assert_allclose(std, known.std(0), rtol=1e-9)


def test_statistics_leave_nodata_out(tmp_path):
    image = pixels("uint16")
    image[HOLES] = 0
    data = data_set(tmp_path, image, LABELS, suffix=".tif")
    write_raster(tmp_path / "images/a.tif", image, nodata=0, **PLACE)
    mean, std = channel_statistics(data, count=1)
    np.testing.assert_allclose(mean, image[~HOLES].mean(0) / 65535, rtol=1e-9)
    np.testing.assert_allclose(std, image[~HOLES].std(0) / 65535, rtol=1e-9)


def test_statistics_of_nothing_are_refused(tmp_path):
    data = data_set(tmp_path, np.full((60, 70, 3), np.nan, np.float32), LABELS)
    with pytest.raises(DataError, match="channel 0, 1, 2 has the same value everywhere"):
        channel_statistics(data, count=1)


def test_the_doctor_names_the_file_and_counts(tmp_path):
    data = data_set(tmp_path, with_holes(pixels())[0], LABELS)
    report, usable = check({"train_loader": data}, full=True)
    assert usable
    assert f"images/a.npy: {HOLES.sum()} pixels" in report
    assert "without a value (NaN, infinite or nodata)" in report
    clean = data_set(tmp_path, pixels(), LABELS)
    assert "without a value" not in check({"train_loader": clean}, full=True)[0]


# ---- masks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "int32", "uint8", "uint16"])
def test_nodata_of_a_mask_is_void(tmp_path, dtype):
    nodata = {"u": 200, "i": -9999, "f": -9999}[np.dtype(dtype).kind]
    mask = np.where(HOLES, nodata, LABELS.astype(int)).astype(dtype)
    if mask.dtype.kind == "f":
        mask[HOLES & (np.arange(70) % 2 == 0)] = np.nan
    data = data_set(tmp_path, pixels(), LABELS)
    (tmp_path / "masks/a.png").unlink()
    write_raster(tmp_path / "masks/a.tif", mask[..., None], nodata=nodata, **PLACE)
    data = folder(tmp_path, mean=MEAN, std=STD)
    assert np.array_equal(data.load(0)[1], np.where(HOLES, VOID, LABELS))
    report, usable = check({"train_loader": data}, full=True)
    assert usable, report
    assert "cause" not in report


def test_a_class_that_is_the_nodata_of_a_mask_stays_a_class(tmp_path):
    """Writers copy an image's profile to its mask; what the config says of a value wins."""
    data_set(tmp_path, pixels(), LABELS)
    (tmp_path / "masks/a.png").unlink()
    write_raster(tmp_path / "masks/a.tif", LABELS[..., None], nodata=0, **PLACE)
    data = folder(tmp_path, mean=MEAN, std=STD)
    assert np.array_equal(data.load(0)[1], LABELS)
    mapped = folder(tmp_path, mean=MEAN, std=STD, label_map={"1": 0, "2": 1}, classes=("a", "b"))
    assert np.array_equal(mapped.load(0)[1], np.array([VOID, 0, 1])[LABELS])
    for one in (data, mapped):
        report, usable = check({"train_loader": one}, full=True)
        assert usable, report


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.int8, np.uint32, bool])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_masks_of_any_plain_dtype(tmp_path, dtype, suffix):
    labels = LABELS % 2 if dtype is bool else LABELS
    data_set(tmp_path, pixels(), LABELS)
    (tmp_path / "masks/a.png").unlink()
    if suffix == ".npy":
        np.save(tmp_path / "masks/a.npy", labels.astype(dtype))
    else:
        tifffile.imwrite(tmp_path / "masks/a.tif", labels.astype(dtype))
    assert np.array_equal(folder(tmp_path, mean=MEAN, std=STD).load(0)[1], labels)

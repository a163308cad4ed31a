import os
import re

import cv2
import numpy as np
import pytest
from PIL import Image

from base.base_data_loader import BaseDataLoader
from dataloaders.camvid import CamVid
from dataloaders.folder import Folder
from dataloaders.label_counts import count_labels
from dataloaders.shapes import Shapes
from utils.data import pixel_cache
from utils.errors import ConfigError, DataError, ResourceError


@pytest.fixture
def root(tmp_path):
    """Six pairs of several sizes."""
    rng = np.random.default_rng(0)
    for folder in ("train", "trainannot"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number in range(6):
        shape = (20 + number, 30)
        image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "data" / "train" / f"{number}.png")
        mask = rng.integers(0, 12, shape).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "data" / "trainannot" / f"{number}.png")
    return tmp_path


def camvid(root, **options):
    return CamVid(data_dir=str(root / "data"), split="train", cache_dir=str(root / "cache"),
                  augment=True, crop_size=16, base_size=30, flip=True, rare_crops=0.5,
                  cat_max_ratio=0.75, **options)  # fmt: skip


def epochs(data, workers=0):
    loader = BaseDataLoader(data, batch_size=2, num_workers=workers, shuffle=True, drop_last=False)
    seen = []
    for epoch in (0, 1):
        loader.set_position(epoch)
        seen += [(batch.images.clone(), batch.masks.clone()) for batch in loader]
    loader.close()
    return seen


def same(one, other):
    pairs = zip(one, other, strict=True)
    return all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in pairs)


@pytest.mark.parametrize("cache", ["ram", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ignore_index", [255, -1])
def test_a_cache_changes_nothing_but_time(root, cache, workers, ignore_index, monkeypatch):
    plain = epochs(camvid(root, ignore_index=ignore_index))
    data = camvid(root, cache=cache, ignore_index=ignore_index)
    assert same(epochs(data, workers), plain)

    def refuse(index):
        raise AssertionError(f"{index} was decoded again")

    monkeypatch.setattr(data, "load", refuse)
    assert same(epochs(data, workers), plain)


def test_another_run_finds_the_files_on_disk(root, monkeypatch):
    epochs(camvid(root, cache="disk"))
    before = sorted((root / "cache").iterdir())
    assert len(before) == 6
    again = camvid(root, cache="disk")
    monkeypatch.setattr(again, "load", None)
    assert same(epochs(again), epochs(camvid(root)))
    # Another void value needs other entries.
    epochs(camvid(root, cache="disk", ignore_index=-1))
    assert len(list((root / "cache").iterdir())) == 12


def test_names_that_are_not_utf_8_are_paired_and_cached(root):
    plain = epochs(camvid(root))
    for file in [*root.glob("data/*/*.png")]:
        file.rename(file.with_name(f"caf\udce9 {file.name}"))
    for _ in range(2):
        assert same(epochs(camvid(root, cache="disk")), plain)


def test_without_a_home_the_cache_is_among_temporary_files(root, monkeypatch):
    """In a container whose user has no HOME and no entry in the passwd file."""

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(root / "tmp"))
    data = CamVid(data_dir=str(root / "data"), split="train", cache="disk",
                  augment=True, crop_size=16, base_size=30)  # fmt: skip
    epochs(data)
    labels = np.concatenate([data.load(index)[1].ravel() for index in range(len(data))])
    assert count_labels(data).pixels == np.bincount(labels, minlength=256)[:11].tolist()
    kept = root / "tmp" / "segmentation"
    assert {path.name for path in kept.iterdir()} == {"files", "pixels"}


@pytest.mark.parametrize("changed", ["train", "trainannot"])
def test_a_changed_file_is_read_again(root, changed):
    data = camvid(root, cache="disk")
    epochs(data)
    path = root / "data" / changed / "0.png"
    new = np.asarray(Image.open(path)) // 2
    Image.fromarray(new).save(path)
    os.utime(path, ns=(1, 1))
    assert same(epochs(data), epochs(camvid(root)))
    assert len(list((root / "cache").iterdir())) == 6


def test_a_damaged_entry_is_made_again(root):
    epochs(camvid(root, cache="disk"))
    for path in (root / "cache").iterdir():
        path.write_bytes(b"not json")
    assert same(epochs(camvid(root, cache="disk")), epochs(camvid(root)))


@pytest.mark.parametrize("length", [0, 100, 4096, 4100, -1])
def test_an_entry_that_was_cut_short_is_made_again(root, length):
    epochs(camvid(root, cache="disk"))
    for path in (root / "cache").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:length])
    assert same(epochs(camvid(root, cache="disk")), epochs(camvid(root)))


def test_an_entry_without_its_facts_is_made_again(root):
    epochs(camvid(root, cache="disk"))
    for path in (root / "cache").iterdir():
        path.write_bytes(b"[1]".ljust(8192))
    assert same(epochs(camvid(root, cache="disk")), epochs(camvid(root)))


def test_other_statistics_have_a_disk_cache_of_their_own(tmp_path):
    """Void pixels are stored in the mean color, which `normalize` changes once data are built."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    image = np.ones((8, 8, 3), np.float32)
    image[0, 0] = np.nan
    np.save(tmp_path / "images" / "a.npy", image)
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "masks" / "a.png")

    def void_color(normalized):
        data = Folder(data_dir=str(tmp_path), classes=("a", "b"), mean=(0.2,) * 3, std=(0.1,) * 3,
                      cache="disk", cache_dir=str(tmp_path / "cache"))  # fmt: skip
        data.open_cache()
        if normalized:
            data.normalize_by((0.4,) * 3, (0.3,) * 3)
            assert data.spread == pytest.approx((0.3,) * 3)
        return data[0, 0].image[0, 0].tolist()

    assert void_color(normalized=True) == pytest.approx([0.4] * 3)
    assert void_color(normalized=False) == pytest.approx([0.2] * 3)


def test_generated_images_in_workers_need_fork_as_any_cache_in_memory(monkeypatch):
    monkeypatch.setattr("base.base_data_loader.START_METHOD", None)
    for cache in ("ram", "disk"):
        with pytest.raises(ConfigError, match=r'memory is shared .*(.|\n)*fix: "num_workers": 0$'):
            BaseDataLoader(Shapes(length=4, cache=cache), batch_size=2, num_workers=1)


def test_generated_images_are_kept_in_memory():
    data = Shapes(length=4, cache="disk", height=40, width=40)
    assert same(epochs(data), epochs(Shapes(length=4, height=40, width=40)))


def test_too_little_memory_is_said(root, monkeypatch):
    monkeypatch.setattr(pixel_cache, "free_memory", lambda: 1000)
    message = r'"cache": "ram" needs 0\.0 GiB for 6 decoded images, but 0\.0 GiB of memory are free'
    with pytest.raises(ResourceError, match=message):
        camvid(root, cache="ram").open_cache()


def test_too_small_a_disk_is_said(root, monkeypatch):
    usage = type("Usage", (), {"free": 5})
    monkeypatch.setattr(pixel_cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ResourceError, match=r'"disk" needs .* for 6 decoded(.|\n)*"cache_dir"'):
        camvid(root, cache="disk").open_cache()


def test_a_folder_that_cannot_be_made_is_said(root):
    (root / "cache").write_text("a file")
    with pytest.raises(ResourceError, match=r'"cache": "disk" cannot use .*cache: File exists'):
        camvid(root, cache="disk").open_cache()


def test_a_full_disk_leaves_nothing_behind(root, monkeypatch):
    data = camvid(root, cache="disk")
    data.open_cache()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pixel_cache.Path, "replace", fail)
    with pytest.raises(ResourceError, match=r"cannot be written: No space left on device"):
        data[(0, 0)]
    assert list((root / "cache").iterdir()) == []


# ---- reduced decoding -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [(400, 600), (401, 603)])
@pytest.mark.parametrize("scale", [0.45, 0.3, 0.2])
def test_a_reduced_jpeg_stays_under_its_mask(tmp_path, size, scale):
    """A smooth ramp as image and mask: the two agree wherever they are cut."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    ramp = ((rows + columns) * 255 // (sum(size) - 2)).astype(np.uint8)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.repeat(ramp[..., None], 3, axis=2)).save(
        tmp_path / "images" / "a.jpg", quality=98
    )
    Image.fromarray(ramp).save(tmp_path / "masks" / "a.png")
    data = Folder(data_dir=str(tmp_path), classes=tuple(map(str, range(256))), ignore_index=-1,
                  augment=True, base_size=round(size[1] * scale), scale=False, crop_size=64,
                  flip=True, rotate=True)  # fmt: skip
    reads = []
    original = data.read_image
    data.read_image = lambda path, **how: reads.append(original(path, **how)) or reads[-1]
    for epoch in range(10):
        sample = data[(epoch, 0)]
        valid = sample.mask >= 0
        valid = cv2.erode(valid.astype(np.uint8), np.ones((9, 9), np.uint8),
                          borderType=cv2.BORDER_CONSTANT, borderValue=(0,)) > 0  # fmt: skip
        difference = sample.image[..., 0].astype(int) - sample.mask
        assert np.abs(difference[valid]).max() <= 3
        assert abs(difference[valid].mean()) < 0.8
    factor = {0.45: 2, 0.3: 2, 0.2: 4}[scale]
    assert {image.pixels.shape[0] for image in reads} == {-(-size[0] // factor)}


# ---- scale_range, jitter, val_split ---------------------------------------------------------


def test_scale_range_bounds_the_scale():
    data = Shapes(augment=True, base_size=100, scale_range=(1.5, 1.6), height=50, width=80)
    widths = {data[(epoch, 0)].mask.shape[1] for epoch in range(20)}
    assert widths <= set(range(150, 161))
    assert len(widths) > 4
    with pytest.raises(ConfigError, match=re.escape("found [2, 1], expected the smaller factor")):
        Shapes(scale_range=(2, 1))


def test_jitter_changes_colors_only():
    plain = Shapes(augment=True)[(0, 0)]
    changed = Shapes(augment=True, jitter=0.3)[(0, 0)]
    assert (changed.mask == plain.mask).all()
    assert (changed.image != plain.image).mean() > 0.5


@pytest.mark.parametrize("make", ["shapes", "files"])
def test_a_share_is_held_out(root, make):
    def whole(seed=0):
        if make == "files":
            return camvid(root, val_split=0.3, seed=seed)
        return Shapes(length=40, val_split=0.3, augment=True, crop_size=16, seed=seed)

    data = whole()
    total = len(data)
    held_out = data.split_off()
    names = [[part.name(index) for index in range(len(part))] for part in (data, held_out)]
    assert len(names[1]) == round(total * 0.3)
    assert len(set(names[0]) | set(names[1])) == total == len(names[0]) + len(names[1])
    assert not held_out.augments
    assert held_out[(3, 0)].mask.shape == held_out.size(0)
    assert data.augments
    assert data[(0, 0)].mask.shape == (16, 16)
    again = whole().split_off()
    assert [again.name(index) for index in range(len(again))] == names[1]
    orders = {tuple(map(part.name, range(len(part)))) for part in (whole(s).split_off() for s in
                                                                   range(5))}  # fmt: skip
    assert len(orders) > 1


@pytest.mark.parametrize(("share", "what"), [(0.01, "validate"), (0.99, "train on")])
def test_a_share_of_nothing_is_refused(share, what):
    with pytest.raises(DataError, match=f"val_split: a share of {share} of 5 images .* {what}"):
        Shapes(length=5, val_split=share).split_off()


def test_a_cache_in_memory_needs_forked_workers(root, monkeypatch):
    monkeypatch.setattr("base.base_data_loader.START_METHOD", None)
    with pytest.raises(ConfigError, match=r'forked workers only.*\n  fix: "cache": "disk"'):
        BaseDataLoader(camvid(root, cache="ram"), batch_size=2, num_workers=1)
    assert len(BaseDataLoader(camvid(root, cache="ram"), batch_size=2, num_workers=0)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("cache", [None, "disk"])
def test_workers_that_are_not_forked_load_the_same(root, cache, monkeypatch):
    plain = epochs(camvid(root))
    monkeypatch.setattr("base.base_data_loader.START_METHOD", "spawn")
    assert same(epochs(camvid(root, cache=cache), workers=2), plain)


def test_another_meaning_of_colors_is_read_anew(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(tmp_path / kind / "a.png")

    def mask(label_map, tolerance=0):
        data = Folder(
            data_dir=str(tmp_path),
            classes=("a", "b"),
            label_map=label_map,
            label_tolerance=tolerance,
            cache="disk",
            cache_dir=str(tmp_path / "cache"),
        )
        data.open_cache()
        return int(data[(0, 0)].mask[0, 0])

    assert mask({"#090909": 0}) == 0
    assert mask({"#090909": 1}) == 1
    assert mask({"#080808": 0}, tolerance=1) == 0
    assert mask({"#000000": 0, "*": 1}) == 1

"""inference.py as a user meets it: images in, masks out, one clear message for each mistake."""

import errno
import json
import pickle
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from color_model import (
    CLASSES,
    COLORS,
    PALETTE,
    ColorModel,
    checkpoint_of,
    picture_of,
    save_checkpoint,
)
from conftest import tiny_config
from PIL import Image

import inference
from models import MODELS
from utils.drawing.overlay import overlay
from utils.errors import guard
from utils.inference.predictor import Settings
from utils.inference.results import Extras, mask_dtype, to_half
from utils.inference.segmenter import Segmenter

ROOT = Path(__file__).resolve().parent.parent


def quarters(height, width):
    """A mask of four quarters, one class each."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, width // 2 :] += 1
    mask[height // 2 :] += 2
    return mask


@pytest.fixture(name="model_file")
def _model_file(tmp_path, monkeypatch):
    monkeypatch.setattr("models.model_from_checkpoint", lambda _content: ColorModel())
    return save_checkpoint(tmp_path / "best_model.pth", ColorModel())


@pytest.fixture(name="folder")
def _folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def save(path, mask, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture_of(mask)).save(path, **options)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def run(*arguments):
    return guard(inference.main, [str(argument) for argument in arguments])


def test_overlay_takes_an_opacity_and_confidence_is_a_gray_image(model_file, folder, tmp_path):
    mask = quarters(40, 60)
    save(folder / "a.png", mask)
    flags = ("-m", model_file, "-e", "png", "-mo", "whole", "--save-confidence")
    image, colors = picture_of(mask).astype(float), np.array(PALETTE)[mask]
    for words, opacity in ((["--overlay"], 0.5), (["--overlay", "0.25"], 0.25)):
        assert run(*flags, "-i", folder, "-o", tmp_path / "out", *words) == 0
        expected = (1 - opacity) * image + opacity * colors
        drawn = pixels(tmp_path / "out/a.overlay.jpg")[:40, :60]
        assert np.abs(drawn - expected)[4:16, 4:26].max() < 16  # of JPEG
    color = np.array(COLORS)[None, None] / 255
    logits = -10 * ((image[:, :, None] / 255 - color) ** 2).sum(-1)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = pixels(tmp_path / "out/a.confidence.png")
    assert found.dtype == np.uint8
    assert np.abs(found - 255 * shares.max(-1)).max() <= 1
    assert not (tmp_path / "out/a.npy").exists()
    assert run("-m", model_file, "-i", folder, "--overlay", "1.5") == 2


def test_what_is_left_out_is_said(model_file, folder, tmp_path, capsys):
    save(folder / "a.jpg", quarters(40, 40))
    save(folder / "b.png", quarters(40, 40))
    flags = ("-m", model_file, "-mo", "whole", "-o", tmp_path / "out", "-i", folder)
    assert run(*flags) == 0
    assert "left out, by --extension: 1 .png (b.png)\n" in capsys.readouterr().err
    assert run(*flags, "-e", "all") == 0
    said = capsys.readouterr()
    assert "left out" not in said.err
    assert "2 of 2 images" in said.out


@pytest.mark.parametrize("mode", ["whole", "multiscale", "sliding"])
def test_masks_are_palette_images_of_the_images_size(model_file, folder, tmp_path, mode, capsys):
    mask = quarters(90, 70)
    save(folder / "a.jpg", mask, quality=100, subsampling=0)
    assert run("-m", model_file, "-i", folder, "-o", tmp_path / "out", "-mo", mode) == 0
    with Image.open(tmp_path / "out/a.png") as found:
        assert found.mode == "P"
        assert found.size == (70, 90)
        assert (np.asarray(found) == mask).mean() > 0.97
        assert found.getpalette()[:12] == [value for color in PALETTE for value in color]
    assert "1 of 1 images segmented, masks in" in capsys.readouterr().out


def test_default_mode_and_output(model_file, folder, tmp_path, monkeypatch):
    save(folder / "a.JPG", quarters(40, 40), format="JPEG")
    monkeypatch.chdir(tmp_path)
    assert run("--model", model_file, "--images", folder) == 0
    assert (tmp_path / "outputs/a.png").exists()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_masks_stand_as_the_image_is_displayed(model_file, folder, tmp_path, orientation):
    mask = quarters(60, 100)
    turn = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]  # stored this many quarter turns off
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.rot90(mask, turn)
    save(folder / "a.png", stored, exif=exif)
    assert (
        run("-m", model_file, "-i", folder / "a.png", "-o", tmp_path / "out", "-mo", "whole") == 0
    )
    assert np.array_equal(pixels(tmp_path / "out/a.png"), mask)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_any_kind_of_image(model_file, folder, tmp_path, mode):
    Image.fromarray(picture_of(quarters(50, 60))).convert(mode).save(folder / "a.tif")
    assert run("-m", model_file, "-i", folder / "a.tif", "-o", tmp_path / "out") == 0
    assert pixels(tmp_path / "out/a.png").shape == (50, 60)


def test_bad_images_are_listed_and_the_rest_go_on(model_file, folder, tmp_path, capsys):
    save(folder / "a.jpg", quarters(40, 40))
    (folder / "b.jpg").write_bytes(b"not an image")
    save(folder / "c.jpg", quarters(40, 40))
    (folder / "d.jpg").write_bytes((folder / "c.jpg").read_bytes()[:300])
    (folder / "e.jpg").symlink_to(tmp_path / "nowhere")
    assert run("-m", model_file, "-i", folder, "-o", tmp_path / "out", "-mo", "whole") == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    shown = capsys.readouterr()
    assert "2 of 5 images segmented" in shown.out
    end = shown.err[shown.err.index("error: 3 of 5 images failed:") :]
    assert all(f"{name}.jpg" in end for name in "bde")
    assert "a.jpg" not in end
    assert "Traceback" not in shown.err


def test_no_match_names_the_extensions_there(model_file, folder, tmp_path, capsys):
    save(folder / "a.png", quarters(40, 40))
    assert run("-m", model_file, "-i", folder, "-o", tmp_path / "out") == 3
    assert "no file ends in .jpg\n  extensions there: .png (1)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tree_is_kept(model_file, folder, tmp_path):
    save(folder / "a b/c.d.jpg", quarters(40, 40))
    options = ("-m", model_file, "-i", folder, "-o", tmp_path / "out", "-mo", "whole")
    assert run(*options, "--recursive") == 0
    assert (tmp_path / "out/a b/c.d.png").exists()


def test_awkward_names_and_output_inside_input(model_file, folder, tmp_path):
    """Twice: what the first run wrote among the images is none of the second's."""
    save(tmp_path / "elsewhere/real.jpg", quarters(40, 40))
    for name in ("two words", "a.1", "a.2", "Straße 東京", ".hidden"):
        save(folder / f"{name}.jpg", quarters(40, 40))
    save(folder / "twin.JPG", quarters(40, 40), format="JPEG")
    save(folder / "twin.jpg", 3 - quarters(40, 40))
    (folder / "link.jpg").symlink_to(tmp_path / "elsewhere/real.jpg")
    (folder / "album").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    out = folder / "masks"
    options = ("-m", model_file, "-i", folder, "-o", out, "-mo", "whole", "--recursive")
    for _ in range(2):
        assert run(*options, "--overlay") == 0
        found = {str(path.relative_to(out)) for path in out.rglob("*.png")}
        names = "two words,a.1,a.2,Straße 東京,.hidden,twin.JPG,twin.jpg-2,link,album/real"
        assert found == {f"{name}.png" for name in names.split(",")}
        assert len(list(out.rglob("*.jpg"))) == len(found)
    assert pixels(out / "twin.JPG.png")[0, 0] == 0
    assert pixels(out / "twin.jpg-2.png")[0, 0] == 3
    assert (folder / "link.jpg").is_symlink()


@pytest.mark.parametrize("stage", ["TemporaryFile", "replace"], ids=["at once", "later"])
def test_a_folder_that_takes_no_files(model_file, folder, tmp_path, monkeypatch, capsys, stage):
    """Permissions would not do: they do not hold for root, as which containers run."""
    save(folder / "a.jpg", quarters(40, 40))
    real = Path.replace

    def refused(self=None, *arguments, **_):
        if stage == "TemporaryFile" or self.name.startswith(".a.png"):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(self, *arguments)

    monkeypatch.setattr(tempfile if stage == "TemporaryFile" else Path, stage, refused)
    assert run("-m", model_file, "-i", folder, "-o", tmp_path / "out", "-mo", "whole") == 6
    assert "out" in (shown := capsys.readouterr().err)
    assert "cannot be written (Read-only file system)" in shown
    assert not list((tmp_path / "out").iterdir())


def test_a_result_that_would_replace_its_image(model_file, folder, capsys):
    save(folder / "a.png", quarters(40, 40))
    before = (folder / "a.png").read_bytes()
    assert run("-m", model_file, "-i", folder, "-e", "png", "-o", folder) == 2
    assert "a.png would replace the image" in capsys.readouterr().err
    assert (folder / "a.png").read_bytes() == before
    assert len(list(folder.iterdir())) == 1


def test_an_image_of_too_many_pixels_is_sent_to_tiff(
    model_file, folder, tmp_path, monkeypatch, capsys
):
    save(folder / "a.jpg", quarters(40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert run("-m", model_file, "-i", folder, "-o", tmp_path / "out") == 3
    shown = capsys.readouterr().err
    assert "a.jpg: cannot be decoded: Image size (1600 pixels) exceeds limit" in shown
    assert "inference.py also reads a tiled TIFF, of any size" in shown


@pytest.mark.parametrize("flag", ["--scales", "--window"])
def test_scales_and_windows_go_together(model_file, folder, tmp_path, flag):
    """Sliding inside multiscale, asked for from either side."""
    mask = quarters(100, 120)
    save(folder / "a.png", mask)
    options = {
        "--scales": ("-mo", "sliding", "--scales", "1", "2"),
        "--window": ("-mo", "multiscale", "--scales", "1", "2", "--window", "64"),
    }[flag]
    assert run("-m", model_file, "-i", folder / "a.png", "-o", tmp_path / "out", *options) == 0
    assert (pixels(tmp_path / "out/a.png") == mask).mean() > 0.97


def test_same_result_twice(model_file, folder, tmp_path):
    save(folder / "a.jpg", quarters(70, 50))
    content = []
    for name in ("one", "two"):
        assert run("-m", model_file, "-i", folder, "-o", tmp_path / name) == 0
        content.append((tmp_path / name / "a.png").read_bytes())
    assert content[0] == content[1]


def test_probabilities_sum_to_one_and_agree_with_the_mask(model_file, folder, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    options = ("-m", model_file, "-i", folder, "-e", ".PNG", "-o", tmp_path / "out")
    assert run(*options, "--save-probs", "--mode", "whole") == 0
    probabilities = np.load(tmp_path / "out/a.npy")
    assert probabilities.dtype == np.float16
    assert probabilities.shape == (4, 60, 50)
    assert np.abs(probabilities.astype(np.float64).sum(0) - 1).max() < 1e-3
    assert np.array_equal(probabilities.argmax(0), pixels(tmp_path / "out/a.png"))


def test_rounding_to_half_never_changes_the_winner():
    generator = np.random.default_rng(0)
    close = 0.5 + generator.normal(0, 1e-5, (40, 40))
    probabilities = np.stack([close, 1 - close]).astype(np.float32)
    mask = probabilities.argmax(0)
    assert (probabilities.astype(np.float16).argmax(0) != mask).any(), "no tie to resolve"
    half = to_half(probabilities, mask)
    assert np.array_equal(half.argmax(0), mask)
    assert np.abs(half.astype(np.float64) - probabilities).max() < 1e-3


def test_overlay_shows_image_and_legend(model_file, folder, tmp_path):
    save(folder / "a.png", quarters(300, 400))
    options = ("-m", model_file, "-i", folder / "a.png", "-o", tmp_path / "out", "-mo", "whole")
    assert run(*options, "--overlay") == 0
    drawn = pixels(tmp_path / "out/a.overlay.jpg").astype(int)
    assert drawn.shape[1] == 400
    assert drawn.shape[0] > 320, "no legend"
    for row, column, one in ((75, 100, 0), (75, 300, 1), (225, 100, 2), (225, 300, 3)):
        expected = (np.array(COLORS[one]) + np.array(PALETTE[one])) / 2
        assert np.abs(drawn[row, column] - expected).max() < 6
    legend = drawn[300:].reshape(-1, 3)
    for color in PALETTE:
        assert (np.abs(legend - np.array(color)).max(axis=1) < 12).sum() > 20


def test_the_legend_names_the_classes_that_occur():
    mask = quarters(100, 200) % 2

    def dark(names):
        sheet = overlay(np.full((100, 200, 3), 255, np.uint8), mask, PALETTE, names)
        return (np.asarray(sheet)[100:].max(axis=2) < 90).sum()

    assert dark(["mmmm", "i", "i", "i"]) > dark(["i", "i", "i", "i"]) + 30
    assert dark(["i", "i", "mmmm", "i"]) == dark(["i", "i", "i", "i"]), "it does not occur"


def test_over_255_classes_are_16_bit(folder, tmp_path):
    colours = [(index % 256, index // 256 * 100, 0) for index in range(400)]
    model = ColorModel(colours)
    names = [f"class {index}" for index in range(400)]
    palette = [(index % 256,) * 3 for index in range(400)]
    segmenter = Segmenter(
        model,
        checkpoint_of(model, classes=names, palette=palette),
        settings=Settings(mode="whole"),
        device=torch.device("cpu"),
        precision="fp32",
        extras=Extras(overlay=0.5),
        say=str,
    )
    mask = np.arange(400).repeat(4).reshape(40, 40)
    Image.fromarray(picture_of(mask, colours)).save(folder / "a.png")
    from utils.files.outputs import find_images

    jobs = find_images([folder], extensions=["png"], recursive=False, output=tmp_path)[0]
    assert [error for _, error in segmenter.run(jobs)] == [None]
    with Image.open(tmp_path / "a.png") as found:
        assert found.mode.startswith("I;16")
        assert np.array_equal(np.asarray(found), mask)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--overlap", "1"], "--overlap: found 1.0, expected in 0 .. 0.9"),
        (["--window", "8"], "--window: found 8, expected at least 32"),
        (["--batch-size", "0"], "--batch-size: found 0, expected at least 1"),
        (["--scales", "1", "-2"], r"--scales: found [1.0, -2.0], expected in (0, 8]"),
        (["-mo", "whole", "--scales", "2"], "--scales has no effect in mode whole\n  fix: --mode"),
        (["-mo", "whole", "--window", "64"], "--window has no effect in mode whole\n  fix: --mode"),
        (["--device", "0,1"], "--device 0,1: inference runs on one device"),
        (["--device", "9x"], "--device: found '9x', expected GPU indices"),
    ],
)
def test_wrong_flags(model_file, folder, flags, message, capsys):
    save(folder / "a.jpg", quarters(40, 40))
    assert run("-m", model_file, "-i", folder, *flags) == 2
    assert message in capsys.readouterr().err


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["torch", "pickle", "text", "empty", "missing", "foreign"])
def test_bad_checkpoints(folder, tmp_path, kind, capsys):
    save(folder / "a.jpg", quarters(40, 40))
    bad, touched = tmp_path / "bad.pth", tmp_path / "executed"
    if kind == "torch":
        torch.save({"state_dict": Malicious(touched)}, bad)
    elif kind == "pickle":
        bad.write_bytes(pickle.dumps(Malicious(touched)))
    elif kind == "foreign":
        torch.save({"model": torch.zeros(3)}, bad)
    elif kind != "missing":
        bad.write_text("hello" if kind == "text" else "")
    assert run("-m", bad, "-i", folder, "-o", tmp_path / "out") == 4
    shown = capsys.readouterr().err
    assert str(bad) in shown
    assert "Traceback" not in shown
    assert not touched.exists()
    assert not (tmp_path / "out").exists()


def test_another_architecture_in_config_is_refused(
    model_file, folder, tmp_path, monkeypatch, capsys
):
    class Config:
        def resolved(self):
            return {"arch": {"type": "UNet"}}

    save(folder / "a.jpg", quarters(40, 40))
    monkeypatch.setattr("utils.config.config.load_config", lambda _path: Config())
    assert run("-m", model_file, "-i", folder, "-c", "other.json") == 2
    assert "other.json: arch.type is UNet, the checkpoint holds ENet" in capsys.readouterr().err


HELP = """
import sys, inference
try:
    inference.main(["--help"])
except SystemExit:
    assert "torch" not in sys.modules
"""


def test_help_does_not_wait_for_torch():
    subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, check=True, timeout=60)


def test_classes_of_the_checkpoint_are_used(model_file):
    from utils.run.checkpoint import load

    assert tuple(load(model_file)["classes"]) == CLASSES


def test_the_manual_names_every_flag(capsys):
    with pytest.raises(SystemExit):
        inference.main(["--help"])
    there = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    manual = (ROOT / "docs/inference.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| .*?`(--[a-z-]+)", manual, flags=re.MULTILINE)) == there


@pytest.mark.parametrize(("classes", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_the_256th_value_is_kept_for_void(classes, dtype):
    assert mask_dtype(classes) == dtype


def test_from_an_empty_folder_with_nothing_but_the_checkpoint(tmp_path):
    torch.manual_seed(0)
    model = save_checkpoint(tmp_path / "best_model.pth", MODELS["ENet"](num_classes=4))
    save(tmp_path / "in/a.jpg", quarters(50, 60))
    empty = tmp_path / "empty"
    empty.mkdir()
    command = [sys.executable, ROOT / "inference.py", "--model", model, "--images", "../in"]
    subprocess.run(command, cwd=empty, check=True, timeout=300)
    assert [path.name for path in empty.iterdir()] == ["outputs"]
    assert pixels(empty / "outputs/a.png").shape == (50, 60)


def test_config_sets_the_window(model_file, folder, tmp_path, monkeypatch):
    """A config in place of the checkpoint's own: here its crop size is the window."""
    seen = []

    class Seen(ColorModel):
        def forward(self, images):
            seen.append(tuple(images.shape[2:]))
            return super().forward(images)

    monkeypatch.setattr("models.model_from_checkpoint", lambda _content: Seen())
    config = tiny_config(tmp_path)
    config["train_loader"]["args"]["crop_size"] = 48
    (tmp_path / "config.json").write_text(json.dumps(config))
    save(folder / "a.png", quarters(90, 90))
    options = ("-m", model_file, "-i", folder / "a.png", "-o", tmp_path / "out", "-mo", "sliding")
    assert run(*options, "-c", tmp_path / "config.json") == 0
    assert set(seen) == {(48, 48)}
    seen.clear()
    assert run(*options) == 0
    assert set(seen) == {(64, 64)}, "the checkpoint's own crop size"

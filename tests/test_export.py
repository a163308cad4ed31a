"""An exported file says what the network says, or it is not written."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from color_model import CLASSES, COLORS, ColorModel, picture_of, save_checkpoint
from PIL import Image
from small_models import ONE_SIZE, VARIANTS, build_small
from torch import nn

import export
from inference import load
from models import MODELS
from models.stored import read_model
from utils.errors import CheckpointError, NumericError, guard
from utils.inference import exporting
from utils.inference.export_proof import Comparison, Rounding, compare, require_equal, rounding_of
from utils.inference.exporting import onnx_runner, torch_runner
from utils.run import checkpoint

ROOT = Path(__file__).resolve().parent.parent
# torch's exporter and onnxscript use what they themselves have deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def run(*arguments):
    return guard(export.main, [str(argument) for argument in arguments])


@pytest.fixture(name="exported", scope="module")
def _exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.model_from_checkpoint", lambda _content: ColorModel())
        model = save_checkpoint(folder / "best_model.pth", ColorModel())
        Image.fromarray(picture_of(np.eye(50, 70))).save(folder / "a.jpg")
        assert run("-m", model, "-o", folder / "model.onnx", "-i", folder) == 0
    return folder


def test_any_batch_and_size(exported):
    file = shutil.copy(exported / "model.onnx", exported / "caf\udce9.onnx")
    session = onnx_runner(file)
    mask = np.arange(4).repeat(600).reshape(40, 60)
    for shape in ((1, 33, 33), (3, 40, 60), (2, 200, 111)):
        number, height, width = shape
        grown = np.resize(mask, (height, width))
        images = np.stack([picture_of(grown).transpose(2, 0, 1)] * number)
        logits = session(images)
        assert logits.shape == (number, 4, height, width)
        assert logits.dtype == np.float32
        assert np.array_equal(logits.argmax(1), np.stack([grown] * number))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_exported_file_serves_as_a_model(exported, monkeypatch):
    monkeypatch.setattr("models.model_from_checkpoint", lambda _content: ColorModel())
    ours, theirs = (
        load(exported / name, mode="whole", device="cpu")
        for name in ("best_model.pth", "model.onnx")
    )
    assert (theirs.classes, theirs.palette) == (ours.classes, ours.palette)
    random = np.random.default_rng(0)
    for size in ((40, 60), (7, 90)):  # the second below the least that the file takes
        image = random.integers(0, 256, (*size, 3), np.uint8)
        assert np.array_equal(ours(image), theirs(image))
        assert np.abs(ours.probabilities(image) - theirs.probabilities(image)).max() < 2e-3
    image = picture_of(np.arange(4).repeat(600).reshape(40, 60))
    many = load(exported / "model.onnx", device="cpu")  # at several scales
    assert (many(image) == np.arange(4).repeat(600).reshape(40, 60)).mean() > 0.95


def test_what_is_no_model_of_ours_is_told(exported, tmp_path):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes((exported / "model.onnx").read_bytes()[:500])
    with pytest.raises(CheckpointError, match="not an ONNX file, or damaged"):
        load(damaged)
    foreign = onnx.load(exported / "model.onnx")
    foreign.graph.output[0].name = foreign.graph.node[-1].output[0] = "masks"
    onnx.save(foreign, tmp_path / "ids.onnx")
    with pytest.raises(CheckpointError, match="without --argmax"):
        load(tmp_path / "ids.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match=r"without the metadata that export.py writes"):
        load(tmp_path / "foreign.onnx")


def test_metadata_says_how_to_use_it(exported):
    metadata = {one.key: one.value for one in onnx.load(exported / "model.onnx").metadata_props}
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert json.loads(metadata["mean"]) == [0.0, 0.0, 0.0]
    assert json.loads(metadata["std"]) == [1.0, 1.0, 1.0]
    assert len(json.loads(metadata["palette"])) == 4
    assert json.loads(metadata["input_dtype"]) == "uint8"
    assert json.loads(metadata["minimum_side"]) == 33


def test_the_ten_lines_of_the_manual(exported, tmp_path):
    page = (ROOT / "docs/export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) == 10
    mask = np.zeros((60, 90), np.uint8)
    mask[:, 40:] = 2
    Image.fromarray(picture_of(mask)).save(tmp_path / "photo.png")
    (tmp_path / "photo.png").rename(tmp_path / "photo.jpg")
    (tmp_path / "model.onnx").write_bytes((exported / "model.onnx").read_bytes())
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), mask)


@pytest.fixture(name="model_file")
def _model_file(tmp_path, monkeypatch):
    monkeypatch.setattr("models.model_from_checkpoint", lambda _content: ColorModel())
    return save_checkpoint(tmp_path / "best_model.pth", ColorModel())


def test_argmax_and_one_size(model_file, tmp_path, capsys):
    path = tmp_path / "new/model.onnx"
    assert run("-m", model_file, "-o", path, "--argmax", "--size", 48, 64) == 0
    mask = np.arange(4).repeat(768).reshape(48, 64)
    found = onnx_runner(path)(picture_of(mask).transpose(2, 0, 1)[None])
    assert found.dtype == np.uint8
    assert np.array_equal(found[0], mask)
    shown = capsys.readouterr().out
    assert re.search(r"1 x 3 x 48 x 64: \d+\.\d{3}% of pixels the same; ", shown)
    assert re.search(r"ms here, \d+ ms exported", shown)
    assert re.search(r"model.onnx: \d.\d MB \(checkpoint \d.\d MB\), proven equal", shown)


def test_images_of_another_size_than_the_one_prove_nothing(model_file, tmp_path, capsys):
    for name, side in (("a", 40), ("b", 64)):
        Image.fromarray(picture_of(np.zeros((48, side), int))).save(tmp_path / f"{name}.png")
    flags = ("-m", model_file, "-o", tmp_path / "out/model.onnx", "--size", 48, 64)
    assert run(*flags, "-i", tmp_path, "-e", "png") == 0
    printed = capsys.readouterr()
    assert "1 of 2 images have another size and prove nothing" in printed.err
    assert printed.out.count("1 x 3 x 48 x 64: ") == 2


def test_torch_export(model_file, tmp_path):
    path = tmp_path / "caf\udce9.pt2"  # a name need not be UTF-8
    assert run("-m", model_file, "-o", path) == 0
    found = {"classes": ""}
    path = path.rename(tmp_path / "model.pt2")
    model = torch.export.load(path, extra_files=found).module()
    assert json.loads(found["classes"]) == list(CLASSES)
    mask = np.arange(4).repeat(600).reshape(40, 60)
    images = torch.from_numpy(picture_of(mask)).permute(2, 0, 1)[None]
    assert np.array_equal(model(images).argmax(1)[0].numpy(), mask)


def test_a_network_of_16_bit_images(tmp_path, monkeypatch):
    colours = [(*color, 9) for color in COLORS]
    monkeypatch.setattr("models.model_from_checkpoint", lambda _content: ColorModel(colours))
    model = save_checkpoint(tmp_path / "m.pth", ColorModel(colours), input_dtype="uint16")
    pixels = np.random.default_rng(0).integers(0, 2**16, (40, 50, 4), np.uint16)
    np.save(tmp_path / "a.npy", pixels)
    assert run("-m", model, "-o", tmp_path / "m.onnx", "-i", tmp_path, "-e", "npy") == 0
    images = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
    expected = ColorModel(colours)(torch.from_numpy(images / np.float32(65535))).argmax(1)
    assert (onnx_runner(tmp_path / "m.onnx")(images).argmax(1) == expected.numpy()).mean() > 0.999


def test_a_file_that_disagrees_is_not_written(model_file, tmp_path, monkeypatch, capsys):
    def wrong(_path):
        other = ColorModel()
        other.conv.bias.data = other.conv.bias.data.flip(0)
        return torch_runner(nn.Sequential(Scaled(), other))

    class Scaled(nn.Module):
        def forward(self, images):
            return images.float() / 255

    monkeypatch.setattr(exporting, "onnx_runner", wrong)
    assert run("-m", model_file, "-o", tmp_path / "model.onnx") == 5
    shown = capsys.readouterr().err
    assert "the exported network does not agree with the original" in shown
    assert "at least 99.9%" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["best_model.pth"]


@pytest.mark.parametrize(
    ("agreement", "difference", "equal"),
    [
        (1.0, 0.0, True),
        (0.9991, 9e-4, True),
        (0.9989, 0.0, False),
        (1.0, 2e-3, False),
        (1, None, True),
    ],
)
def test_bounds(agreement, difference, equal):
    one = Comparison((1, 3, 40, 40), agreement, difference, 1e-3, 0.999, (0.1, 0.1))
    assert one.equal is equal
    fine = Comparison((1, 3, 64, 64), 1.0, 0.0, 1e-3, 0.999, (0.1, 0.1))
    if equal:
        require_equal([fine, one], Path("model.onnx"))
    else:
        with pytest.raises(NumericError, match=r"at \(1, 3, 40, 40\)"):
            require_equal([fine, one], Path("model.onnx"))


@pytest.mark.parametrize(
    ("changed", "by", "equal"),
    [
        (5, 1.0, True),
        (20, 1.0, False),
        (10_000, 5e-4, True),
        (10_000, 2e-3, False),
        (1, np.nan, False),
    ],
)
def test_a_few_logits_may_differ(changed, by, equal):
    """10,000 logits of at most 1, of which so many differ by so much; the classes stay."""
    expected = np.zeros((1, 1, 100, 100), np.float32)
    expected[0, 0, 0, 0] = 1
    found = expected.copy()
    found.ravel()[-changed:] += by
    assert compare(lambda _: expected, lambda _: found, expected).equal is equal


@pytest.mark.parametrize(
    ("rounding", "by", "equal"),
    [(0.01, 0.015, True), (0.01, 0.025, False), (0, 2e-3, False), (0, 5e-4, True)],
)
def test_rounding_of_the_network_itself_sets_the_bound(rounding, by, equal):
    expected = np.zeros((1, 1, 100, 100), np.float32)
    expected[0, 0, 0, 0] = 1
    found = expected + np.float32(by)
    moves = Rounding(rounding, 1.0)
    one = compare(lambda _: expected, lambda _: found, expected, rounding=lambda: moves)
    assert one.equal is equal


@pytest.mark.parametrize(
    ("agreement", "other", "equal"),
    [(0.99, 150, True), (0.99, 250, False), (1.0, 20, False), (1.0, 5, True)],
)
def test_rounding_of_the_network_itself_sets_the_share_of_equal_pixels(agreement, other, equal):
    """Of class ids too, as --argmax answers; 10,000 pixels."""
    expected = np.zeros((1, 100, 100), np.int64)
    found = expected.copy()
    found.ravel()[:other] = 1
    moves = Rounding(0.0, agreement)
    one = compare(lambda _: expected, lambda _: found, expected, rounding=lambda: moves)
    assert one.equal is equal


def test_nan_is_no_rounding():
    images = np.full((1, 1, 40, 40), np.nan, np.float32)
    moves = Rounding(np.inf, 0.0)
    assert not compare(lambda x: x, lambda x: x, images, rounding=lambda: moves).equal


class Unpools(nn.Module):
    """Of two columns the larger is put back in its place: where they are equal rounding decides."""

    def forward(self, images):
        largest, places = nn.functional.max_pool2d(images, (1, 2), return_indices=True)
        return nn.functional.max_unpool2d(largest, places, (1, 2))


@pytest.mark.parametrize(
    ("model", "least", "most"), [(Unpools(), 0.9, 1.00001), (nn.ReLU(), 0, 1e-5)]
)
def test_what_rounding_does_to_a_network(model, least, most):
    checkpoint = {"mean": [0.4] * 3, "std": [0.2] * 3, "classes": list("abc")}
    deployed = exporting.Deployed(model, checkpoint, argmax=False).eval()
    tied = np.full((1, 3, 40, 40), 200, np.uint8)
    apart = np.tile(np.arange(40, dtype=np.uint8), (1, 3, 33, 1))
    assert rounding_of(deployed, [apart]).difference <= 1e-5
    assert least <= rounding_of(deployed, [apart, tied]).difference <= most


def test_another_shape_is_a_disagreement():
    images = np.zeros((1, 3, 40, 40), np.float32)
    with pytest.raises(NumericError, match=r"answers \(1, 3, 39, 40\), expected \(1, 3, 40, 40\)"):
        compare(lambda x: x, lambda x: x[:, :, 1:], images)


@pytest.mark.parametrize("name", ["model.pb", "model"])
def test_unknown_format(model_file, tmp_path, name, capsys):
    assert run("-m", model_file, "-o", tmp_path / name) == 2
    assert "expected .onnx or .pt2" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(0, 64), (64, 31), (-3, 64)])
def test_sizes_that_no_network_takes(model_file, tmp_path, size, capsys):
    assert run("-m", model_file, "-o", tmp_path / "model.onnx", "--size", *size) == 2
    shown = capsys.readouterr().err
    assert f"--size: found {size[0]} {size[1]}, expected sides of at least 32" in shown


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages(model_file, tmp_path, package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert run("-m", model_file, "-o", tmp_path / "model.onnx", "--size", 40, 40) == 2
    assert "pip install -r requirements-export.txt" in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()


class FixedSize(nn.Module):
    """It can only do what it has seen."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, images):
        if images.shape[2] != 64:
            raise ValueError("only 64 rows")
        return self.conv(images)


def test_a_network_of_one_size_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("models.model_from_checkpoint", lambda _content: FixedSize())
    model = save_checkpoint(tmp_path / "best_model.pth", FixedSize())
    assert run("-m", model, "-o", tmp_path / "model.onnx") == 2
    shown = capsys.readouterr().err
    assert "cannot be exported for any size: it fixes height" in shown
    assert "fix: --size 64 96" in shown


class Brighter(FixedSize):
    """A condition on the size, of which a graph holds the one side that it has seen."""

    def forward(self, images):
        return self.conv(images if images.shape[2] % 2 == 0 else -images)


def test_what_holds_for_even_sides_alone_is_not_written(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    monkeypatch.setattr("models.model_from_checkpoint", lambda _content: Brighter())
    model = save_checkpoint(tmp_path / "best_model.pth", Brighter())
    assert run("-m", model, "-o", tmp_path / "model.onnx") == 5
    wrong = r"does not agree with the original\n  at \(1, 3, 225, 161\)"
    assert re.search(wrong, capsys.readouterr().err)
    assert not (tmp_path / "model.onnx").exists()


def test_what_does_not_take_a_size_is_told():
    only_64, any_size = torch_runner(FixedSize()), torch_runner(nn.Conv2d(3, 4, 1))
    images = np.zeros((1, 3, 65, 97), np.float32)
    size = r"does not take images \(1, 3, 65, 97\): only 64 rows\n  fix: --size"
    for whose, runners in (
        ("network", (only_64, any_size)),
        ("exported file", (any_size, only_64)),
    ):
        with pytest.raises(NumericError, match=f"the {whose} {size}"):
            compare(*runners, images)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # of a busy machine
@pytest.mark.parametrize("name", ["Linear", "SegFormer", *VARIANTS])
def test_every_kind_of_encoder_exports_for_an_odd_size(name, tmp_path, monkeypatch):
    model = build_small(name, len(CLASSES)).eval()
    # A config cannot say how small it is.
    monkeypatch.setattr("models.model_from_checkpoint", lambda _content: model)
    path = save_checkpoint(tmp_path / "best_model.pth", model)
    file = tmp_path / "model.onnx"
    assert run("-m", path, "-o", file, "--size", 65, 97) == 0
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 65, 97), np.uint8)
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels) / 255).numpy()  # mean 0, deviation 1
    assert np.abs(onnx_runner(file)(pixels) - expected).max() < 1e-3 * np.abs(expected).max()
    if name != ONE_SIZE:
        assert run("-m", path, "-o", file) == 0
        small = load(file, device="cpu", mode="whole")(pixels[0, :, :20, :60].transpose(1, 2, 0))
        assert small.shape == (20, 60)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # of a busy machine
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_exports_for_any_size(name, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name](num_classes=7, pretrained=False).eval()
    path = save_checkpoint(
        tmp_path / "best_model.pth",
        model,
        arch=name,
        classes=[f"class {one}" for one in range(7)],
        palette=[(one, one, one) for one in range(7)],
    )
    assert run("-m", path, "-o", tmp_path / "model.onnx") == 0


def test_a_file_that_is_missing_or_for_another_program_is_called_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.onnx: cannot be read \(No such file"):
        read_model(tmp_path / "gone.onnx")
    (tmp_path / "a.pt2").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"a\.pt2: a model for torch\.export\.load"):
        read_model(tmp_path / "a.pt2")
    (tmp_path / "a.onnx").write_bytes(b"onnx")
    with pytest.raises(
        CheckpointError, match=r"a\.onnx: an ONNX file, not a checkpoint\n  fix: the"
    ):
        checkpoint.load(tmp_path / "a.onnx")

"""evaluate.py on folders that the run never named, and on masks that another program predicted."""

import json
from pathlib import Path

import numpy as np
import pytest
from color_model import CLASSES, PALETTE, ColorModel, checkpoint_of, picture_of
from PIL import Image

import evaluate
from dataloaders.camvid import CamVid
from utils.errors import guard
from utils.run import checkpoint

VALUES = np.array([0, 85, 170, 255], np.uint8)  # how the run's masks code the four classes


def pairs():
    """What ColorModel will answer, and labels that differ here and there."""
    random = np.random.default_rng(0)
    for number in range(3):
        answer = random.integers(0, 4, (5, 6 + number)).repeat(8, 0).repeat(8, 1)
        wrong = random.random(answer.shape) < 0.2
        yield answer, np.where(wrong, random.integers(0, 4, answer.shape), answer)


def mean_iou(labels_and_answers):
    """By sets of pixels, class by class."""
    hits, unions = np.zeros(4), np.zeros(4)
    for label, answer in labels_and_answers:
        for one in range(4):
            hits[one] += ((label == one) & (answer == one)).sum()
            unions[one] += ((label == one) | (answer == one)).sum()
    return float((hits / unions).mean())


EXPECTED = mean_iou((label, answer) for answer, label in pairs())


def write(folder, arrays, suffix=".png"):
    folder.mkdir()
    for number, array in enumerate(arrays):
        image = array if isinstance(array, Image.Image) else Image.fromarray(array)
        image.save(folder / f"{number}{suffix}")


@pytest.fixture(name="test_set")
def _test_set(tmp_path, monkeypatch):
    monkeypatch.setattr("models.model_from_checkpoint", lambda _content: ColorModel())
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "images", [picture_of(answer) for answer, _ in pairs()])
    write(tmp_path / "masks", [VALUES[label] for _, label in pairs()])
    write(tmp_path / "ids", [answer.astype(np.uint8) for answer, _ in pairs()])
    return tmp_path


def run_file(folder, kind="Folder", classes=CLASSES, **args):
    args |= {"data_dir": "gone", "batch_size": 1}
    if kind == "Folder":
        args["classes"] = list(classes)
    content = checkpoint_of(ColorModel(), classes=classes, palette=[(1, 2, 3)] * len(classes))
    content["config"] = {
        "name": "a",
        "arch": {"type": "ENet"},
        "train_loader": {"type": kind, "args": args},
        "trainer": {"epochs": 1, "precision": "fp32", "val": "val_split" in args},
    }
    checkpoint.save([folder / "best_model.pth"], content)
    return folder / "best_model.pth"


def score(*arguments):
    assert guard(evaluate.main, [*map(str, arguments), "-o", "result"]) == 0
    return json.loads(Path("result/metrics.json").read_text())


def refused(capsys, *arguments):
    code = guard(evaluate.main, [*map(str, arguments), "-o", "result"])
    return code, capsys.readouterr().err


def test_folders_are_scored_with_the_runs_classes_and_label_map(test_set):
    label_map = {str(value): number for number, value in enumerate(VALUES)}
    model = run_file(test_set, label_map=label_map, val_split=0.5)
    for given in (model, test_set):
        found = score("-m", given, "--images", "images", "--masks", "masks")
        assert found["Mean_IoU"] == pytest.approx(EXPECTED, abs=1e-12)
        assert found["images"] == 3
        assert list(found["Class_IoU"]) == list(CLASSES)
    assert found["about"]["data"] == "images"
    assert found["about"]["checkpoint"] == str(model)


def test_the_table_of_a_known_data_set_holds_for_other_folders(test_set):
    """CamVid's 11 is void: here one pixel in each mask."""
    names = CamVid.classes
    model = run_file(test_set, kind="CamVid", classes=names, split="train", val_split=0.5)
    labels = [label.astype(np.uint8) for _, label in pairs()]
    for label in labels:
        label[0, 0] = 11
    write(test_set / "annot", labels)
    found = score("-m", model, "-i", "images", "--masks", "annot")
    assert found["void_pixels"] == 3
    kept = [(np.where(label == 11, 99, label), answer) for label, (answer, _) in
            zip(labels, pairs(), strict=True)]  # fmt: skip
    for label, answer in kept:
        answer[label == 99] = 99
    assert found["Mean_IoU"] == pytest.approx(mean_iou(kept), abs=1e-12)


def test_a_table_of_objects_lies_where_the_training_had_it(test_set, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(test_set / "cache"))
    (test_set / "gone").mkdir()
    rows = [f"{10 + number},{name}" for number, name in enumerate(CLASSES)]
    (test_set / "gone" / "objects.csv").write_text("\n".join(rows))
    write(test_set / "objects", [(10 + label).astype(np.uint8) for _, label in pairs()])
    model = run_file(test_set, label_map="objects.csv", val_split=0.5)
    found = score("-m", model, "-i", "images", "--masks", "objects")
    assert found["Mean_IoU"] == pytest.approx(EXPECTED, abs=1e-12)


def test_a_data_set_of_a_plugin_needs_it(test_set, capsys):
    model = run_file(test_set, kind="Fields", val_split=0.5)
    code, said = refused(capsys, "-m", model, "-i", "images", "--masks", "masks")
    assert (code, "fix: its --plugin" in said) == (2, True), said


def palette_image(ids):
    """A palette whose order is not that of the classes."""
    image = Image.fromarray((3 - ids).astype(np.uint8))
    image.putpalette([channel for color in PALETTE[::-1] for channel in color])
    return image


KINDS = {
    "values": (lambda ids: VALUES[ids], [f"{n}={v}" for n, v in zip(CLASSES, VALUES, strict=True)]),
    "colors": (
        lambda ids: np.array(PALETTE, np.uint8)[ids],
        [f"{n}=#{bytes(c).hex()}" for n, c in zip(CLASSES, PALETTE, strict=True)],
    ),
    "palette": (palette_image, [f"{n}=#{bytes(c).hex()}" for n, c in zip(CLASSES, PALETTE)]),  # noqa: B905
    "ids": (lambda ids: ids.astype(np.uint8), CLASSES),
}


@pytest.mark.parametrize("kind", KINDS)
def test_masks_from_elsewhere_are_scored_as_they_are_coded(test_set, kind):
    code, classes = KINDS[kind]
    write(test_set / "labels", [code(label) for _, label in pairs()])
    predicted = test_set / "predicted"
    write(predicted, [code(answer) for answer, _ in pairs()])
    found = score("--predictions", predicted, "--masks", "labels", "--classes", *classes)
    assert found["Mean_IoU"] == pytest.approx(EXPECTED, abs=1e-12)
    assert list(found["Class_IoU"]) == list(CLASSES)
    if kind in ("colors", "palette"):  # gray files hold class numbers beside them
        found = score("--predictions", "ids", "--masks", "labels", "--classes", *classes)
        assert found["Mean_IoU"] == pytest.approx(EXPECTED, abs=1e-12)


def test_void_is_not_counted_and_a_void_prediction_is_a_miss(test_set):
    labels = [label.astype(np.uint8) for _, label in pairs()]
    labels[0][0] = 200
    write(test_set / "labels", labels)
    answers = [answer.astype(np.uint8) for answer, _ in pairs()]
    answers[1][0] = 255
    write(test_set / "predicted", answers)
    codes = [f"{name}={number}" for number, name in enumerate(CLASSES)]
    found = score("--predictions", "predicted", "--masks", "labels",
                  "--classes", *codes, "void=200", "void=255")  # fmt: skip
    assert found["void_pixels"] == labels[0].shape[1]
    assert found["predicted_void"]["missed"] == answers[1].shape[1]


def test_a_missing_prediction_is_an_error_and_others_are_left_out(test_set, capsys):
    ids = test_set / "ids"
    (ids / "0.png").rename(ids / "x.png")
    flags = ("--predictions", "ids", "--masks", "masks", "--classes", *KINDS["values"][1])
    code, said = refused(capsys, *flags)
    assert code == 3
    assert "--predictions ids: none for 1 of 3 masks:\n    masks/0.png\n" in said
    (test_set / "masks" / "0.png").unlink()
    write(test_set / "more", [VALUES[answer] for answer, _ in pairs()])
    assert score("--predictions", "more", *flags[2:])["images"] == 2
    assert "1 predictions without a mask are left out" in capsys.readouterr().err


def test_masks_of_void_alone_are_cured_by_the_flag_that_named_them(test_set, capsys):
    write(test_set / "void", [np.full(label.shape, 255, np.uint8) for _, label in pairs()])
    flags = ("--predictions", "ids", "--masks", "void", "--classes", *CLASSES)
    code, said = refused(capsys, *flags)
    assert (code, "no labelled pixel: expected masks with labels\n  fix: --masks" in said) == (
        3,
        True,
    )


def test_masks_of_0_and_255_do_not_become_a_score_of_the_background(test_set, capsys):
    halves = [(np.uint8(255) * (label > 1)) for _, label in pairs()]
    write(test_set / "halves", halves)
    write(test_set / "answers", [(answer > 1).astype(np.uint8) for answer, _ in pairs()])
    flags = ("--predictions", "answers", "--masks", "halves", "--classes")
    code, said = refused(capsys, *flags, "background", "object")
    assert code == 3
    assert "--classes background=0 object=255" in said
    assert score(*flags, "background=0", "object=255", "object=1")["Mean_IoU"] > 0.5
    code, said = refused(capsys, "-m", run_file(test_set), "-i", "images", "--masks", "halves")
    assert (code, "label_map" in said) == (3, True), said


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        ("", 2, "found nothing to score"),
        ("-m a --masks b", 2, "--masks: without effect beside --model alone"),
        ("-m a --images b", 2, "--images is given: --masks is missing"),
        ("-i b --masks b", 2, "--images is given: --model is missing"),
        ("-m a -i b --masks b --split val", 2, "--split: without effect"),
        ("--predictions a --masks b", 2, "--classes is missing"),
        ("--predictions a --masks b --classes c --flip -m d", 2, "--model, --flip: without effect"),
        ("--predictions a --masks masks --classes c", 3, "--predictions a: no such folder"),
        ("--predictions masks --masks b --classes c", 3, "--masks b: no such folder"),
        ("--predictions ids --masks masks --classes a=1 b=#000000", 2, "are mixed"),
        ("--predictions ids --masks masks --classes c -mo sliding", 2, "--mode or --precision: wi"),
    ],
)
def test_flags_that_do_not_go_together_are_told(test_set, capsys, flags, code, told):
    found, said = refused(capsys, *flags.split())
    assert (found, told in said) == (code, True), said
    assert not (test_set / "result").exists()


@pytest.mark.parametrize("start", ["", "./", "../{name}/", "{root}/"])
def test_patterns_are_followed_wherever_they_lead(test_set, start, capsys):
    start = start.format(name=test_set.name, root=test_set)
    write(test_set / "answers", [VALUES[answer] for answer, _ in pairs()])
    for kind in ("answers", "masks", "images"):
        for path in sorted((test_set / kind).iterdir()):
            path.rename(path.with_name(f"{path.stem}_{kind}.png"))
    flags = (
        "--predictions",
        f"{start}answers/*_answers.png",
        "--masks",
        f"{start}masks/*_masks.png",
    )
    found = score(*flags, "--classes", *KINDS["values"][1])
    assert found["Mean_IoU"] == pytest.approx(EXPECTED, abs=1e-12)
    label_map = {str(value): number for number, value in enumerate(VALUES)}
    model = run_file(test_set, label_map=label_map)
    found = score("-m", model, "-i", f"{start}images/*_images.png", *flags[2:])
    assert found["Mean_IoU"] == pytest.approx(EXPECTED, abs=1e-12)
    code, said = refused(capsys, *flags[:3], f"{start}masks/*_msk.png", "--classes", *CLASSES)
    assert (code, "masks/*_msk.png: no file matches" in said) == (3, True), said


def test_a_run_without_validation_data_has_none_to_be_scored_on(test_set, capsys):
    code, said = refused(capsys, "-m", run_file(test_set))
    assert code == 2
    assert "the run has no validation data" in said

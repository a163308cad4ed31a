"""Files of a user's are never replaced, deleted or emptied by a command that writes."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from color_model import ColorModel, picture_of, save_checkpoint
from PIL import Image

import inference
from tools import average, import_checkpoint, lr_find, preview, submission
from utils.errors import ConfigError, DataError, ResourceError, guard
from utils.files.written import LIST, Written


@pytest.fixture(name="model_file")
def _model_file(tmp_path, monkeypatch):
    monkeypatch.setattr("models.model_from_checkpoint", lambda _content: ColorModel())
    return save_checkpoint(tmp_path / "best_model.pth", ColorModel())


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture_of(np.zeros((40, 40), np.uint8))).save(path)


def run(model_file, images, output, *more):
    arguments = ["-m", model_file, "-i", images, "-o", output, "-mo", "whole", *more]
    return guard(inference.main, [str(one) for one in arguments])


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_photo_beside_a_photo_is_not_replaced_by_its_mask(model_file, tmp_path, capsys):
    draw(tmp_path / "user/a.jpg")
    draw(tmp_path / "user/a.png")
    before = snapshot(tmp_path / "user")
    assert run(model_file, tmp_path / "user", tmp_path / "user") == 2
    shown = capsys.readouterr().err
    assert "would replace 1 files that this program did not write" in shown
    assert "a.png\n  fix: write to another place, or --overwrite" in shown
    assert snapshot(tmp_path / "user") == before


def test_what_was_written_is_no_image_of_the_next_run(model_file, tmp_path, capsys):
    """An overlay is a JPEG too: beside its image, and in the folder of an earlier run."""
    draw(tmp_path / "user/a.jpg")
    for _ in range(2):
        assert run(model_file, tmp_path / "user", tmp_path / "user", "--overlay") == 0
        assert "1 of 1 images segmented" in capsys.readouterr().out
    for name in ("one", "two"):
        output = tmp_path / "user" / name
        assert run(model_file, tmp_path / "user", output, "--overlay", "--recursive") == 0
        assert "1 of 1 images segmented" in capsys.readouterr().out


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENAMETOOLONG])
def test_what_the_file_system_refuses_is_said_of_the_file(tmp_path, number):
    def full(_):
        raise OSError(number, os.strerror(number))

    kind = ResourceError if number == errno.ENOSPC else DataError
    with pytest.raises(kind, match=rf"a\.html: cannot be written \({os.strerror(number)}\)"):
        Written(tmp_path).write(tmp_path / "a.html", full)
    assert list(tmp_path.iterdir()) == []


def test_an_overlay_is_encoded_before_it_is_written(model_file, tmp_path, monkeypatch):
    """Pillow's own writing of a JPEG into a file does not notice that a disk is full."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    draw(tmp_path / "in/a.jpg")
    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(model_file, tmp_path / "in", tmp_path / "out", "--overlay") == 6
    assert not list((tmp_path / "out").glob("*.overlay.jpg"))


def test_labels_that_somebody_drew_are_not_replaced(model_file, tmp_path):
    for name in "abc":
        draw(tmp_path / f"in/{name}.jpg")
        draw(tmp_path / f"masks/{name}.png")
    before = snapshot(tmp_path / "masks")
    assert run(model_file, tmp_path / "in", tmp_path / "masks") == 2
    assert snapshot(tmp_path / "masks") == before
    assert run(model_file, tmp_path / "in", tmp_path / "masks", "--overwrite") == 0
    assert snapshot(tmp_path / "masks") != before


def test_our_own_results_are_replaced_until_somebody_edits_one(model_file, tmp_path, capsys):
    draw(tmp_path / "in/a.jpg")
    out = tmp_path / "out"
    for _ in range(2):
        assert run(model_file, tmp_path / "in", out, "--overlay", "--save-probs") == 0
    draw(out / "a.png")
    edited = snapshot(out)
    assert run(model_file, tmp_path / "in", out) == 2
    assert "changed since: a.png" in capsys.readouterr().err
    assert snapshot(out) == edited


def test_a_link_with_the_name_of_a_result_is_somebodys(model_file, tmp_path):
    draw(tmp_path / "in/a.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").symlink_to("/nowhere")
    assert run(model_file, tmp_path / "in", tmp_path / "out") == 2
    assert (tmp_path / "out/a.png").is_symlink()


@pytest.mark.parametrize("name", ["writable", ".writable", "a.png.tmp.12", ".a.png.partial"])
def test_any_other_file_in_the_output_stays(model_file, tmp_path, name):
    draw(tmp_path / "in/a.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    assert run(model_file, tmp_path / "in", tmp_path / "out") == 0
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_the_list_is_what_sha256_says_of_the_files(tmp_path):
    name = 'it\'s "quoted"\nß\udcff.png'
    written = Written(tmp_path)
    with written.opened([tmp_path / name]):
        written.write(tmp_path / name, lambda path: path.write_bytes(b"content"))
    (line,) = filter(None, (tmp_path / LIST).read_text().splitlines())
    assert json.loads(line) == [name, hashlib.sha256(b"content").hexdigest()]
    Written(tmp_path).refuse_others([tmp_path / name], overwrite=False)


def test_a_line_cut_by_a_kill_spoils_no_other(tmp_path):
    for name in ("a", "b"):
        Written(tmp_path).write(tmp_path / name, lambda path: path.write_text("ours"))
        with (tmp_path / LIST).open("ab") as file:
            file.write(b'\n["cut", "01')
    Written(tmp_path).refuse_others([tmp_path / name for name in "ab"], overwrite=False)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_while_a_result_is_replaced_leaves_one_that_is_ours(tmp_path, monkeypatch, when):
    """The list and the file are two writes; whichever of them the kill is between."""
    target = tmp_path / "a.png"
    Written(tmp_path).write(target, lambda path: path.write_text("old"))
    child = os.fork()
    if child == 0:
        real = Path.replace

        def deadly(self, other):
            if when == "after":
                real(self, other)
            os.kill(os.getpid(), signal.SIGKILL)

        Path.replace = deadly
        Written(tmp_path).write(target, lambda path: path.write_text("new"))
    os.waitpid(child, 0)
    assert target.read_text() == {"before": "old", "after": "new"}[when]
    again = Written(tmp_path)
    again.refuse_others([target], overwrite=False)
    with again.opened([target]):
        assert {path.name for path in tmp_path.iterdir()} == {"a.png", LIST}


def test_what_a_living_run_is_writing_is_not_cleared(tmp_path):
    """Several processes may share the images of one folder."""
    target = tmp_path / "a.png"
    partial = tmp_path / ".a.png.0123abcd.partial"
    with Written(tmp_path).opened([]):
        partial.touch()
        code = (
            "from pathlib import Path; from utils.files.written import Written\n"
            f"with Written(Path({str(tmp_path)!r})).opened([Path({str(target)!r})]): pass"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        assert partial.exists()
    with Written(tmp_path).opened([target]):
        assert not partial.exists()


def test_a_name_that_is_too_long_is_one_failed_image(model_file, tmp_path, capsys):
    draw(tmp_path / "in/a.jpg")
    draw(tmp_path / f"in/{'b' * 240}.jpg")
    assert run(model_file, tmp_path / "in", tmp_path / "out", "--overlay") == 3
    shown = capsys.readouterr().err
    assert "1 of 2 images failed" in shown
    assert "cannot be written (File name too long)" in shown
    assert (tmp_path / "out/a.overlay.jpg").exists()


@pytest.mark.parametrize("tool", ["average", "import", "lr_find", "preview", "submission"])
def test_no_tool_replaces_a_file_of_the_users(tmp_path, tool):
    draw(tmp_path / "outputs/a.png")
    (tmp_path / "results").mkdir()
    mine = tmp_path / "results/a.png"
    mine.write_text("mine")
    source = save_checkpoint(tmp_path / "a.pth", ColorModel())
    before = source.read_bytes()
    commands = {
        "average": (average, [source, source, "-o", source]),
        "import": (import_checkpoint, [source, source]),
        "lr_find": (lr_find, ["-o", mine]),
        "preview": (preview, ["-o", mine]),
        "submission": (
            submission,
            ["--dataset", "ADE20K", "--masks", tmp_path / "outputs", "-o", tmp_path / "results"],
        ),
    }
    module, arguments = commands[tool]
    with pytest.raises(ConfigError, match="that this program did not write"):
        module.main([str(one) for one in arguments])
    assert mine.read_text() == "mine"
    assert source.read_bytes() == before

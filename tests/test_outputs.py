"""Which files are images, and what their results are called."""

import errno
import tempfile
from pathlib import Path

import pytest

from utils.errors import ConfigError, DataError, ResourceError
from utils.files.outputs import find_images, prepare_folder, refuse_overwriting, write_whole


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image")


def results(folder, *, output=None, recursive=False):
    output = output or folder.parent / "out"
    jobs, _ = find_images([folder], extensions=["jpg"], recursive=recursive, output=output)
    return {
        str(job.image.relative_to(folder)): str(job.result(".png").relative_to(output))
        for job in jobs
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg", "b.JPG", "c.Jpg", "d.png"], ["a.png", "b.png", "c.png"]),
        (["a.1.jpg", "a.2.jpg"], ["a.1.png", "a.2.png"]),
        (["two words.jpg", "Straße 東京.jpg"], ["Straße 東京.png", "two words.png"]),
        (['it\'s "quoted"\nline.jpg'], ['it\'s "quoted"\nline.png']),
        ([".hidden.jpg"], [".hidden.png"]),
        (["a.jpg", "a.jpg.jpg"], ["a.jpg.png", "a.png"]),
    ],
    ids=["case", "dots", "unicode", "quotes", "hidden", "double"],
)
def test_names(tmp_path, names, expected):
    make(tmp_path / "in", *names)
    assert sorted(results(tmp_path / "in").values()) == expected


def test_stems_alike_keep_their_whole_name(tmp_path):
    make(tmp_path / "in", "a.jpg", "a.JPG", "b.jpg")
    assert results(tmp_path / "in") == {
        "a.JPG": "a.JPG.png",
        "a.jpg": "a.jpg-2.png",
        "b.jpg": "b.png",
    }


def test_names_never_collide(tmp_path):
    make(tmp_path / "in", "a.jpg", "a.JPG", "A.jpg", "a.jpg.jpg", "a.jpg-2.jpg", "a.JPG.jpg")
    names = list(results(tmp_path / "in").values())
    assert len({name.casefold() for name in names}) == 6


def reader_of(monkeypatch, winerror, *, times):
    """Refuse so many renames, as Windows does while somebody reads the file; lists the refusals."""
    refusals, replace = [], Path.replace

    def refusing(self, target):
        if len(refusals) == times:
            return replace(self, target)
        refusals.append(self)
        error = PermissionError(13, "in use")
        error.winerror = winerror
        raise error

    monkeypatch.setattr(Path, "replace", refusing)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return refusals


@pytest.mark.parametrize("winerror", [5, 32])  # access denied, sharing violation
def test_a_result_that_is_being_read_is_replaced_a_little_later(tmp_path, monkeypatch, winerror):
    refusals = reader_of(monkeypatch, winerror, times=3)
    (tmp_path / "a.png").write_text("old")
    write_whole(tmp_path / "a.png", lambda path: path.write_text("new"))
    assert (tmp_path / "a.png").read_text() == "new"
    assert len(refusals) == 3


def test_a_result_that_stays_open_is_named_and_kept(tmp_path, monkeypatch):
    refusals = reader_of(monkeypatch, 32, times=10**9)
    (tmp_path / "a.png").write_text("old")
    with pytest.raises(ResourceError, match=r"a\.png: it is open in another program\n  fix: close"):
        write_whole(tmp_path / "a.png", lambda path: path.write_text("new"))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    assert 3 <= 0.1 * len(refusals) <= 10  # seconds


def test_a_folder_that_may_not_be_written_is_told_at_once(tmp_path, monkeypatch):
    refusals = reader_of(monkeypatch, None, times=10**9)
    with pytest.raises(PermissionError):
        write_whole(tmp_path / "a.png", lambda path: path.write_text("new"))
    assert len(refusals) == 1


def test_the_tree_is_kept_when_asked_for(tmp_path):
    make(tmp_path / "in", "a.jpg", "deep/er/a.jpg", "deep/b.jpg")
    assert results(tmp_path / "in") == {"a.jpg": "a.png"}
    assert results(tmp_path / "in", recursive=True) == {
        "a.jpg": "a.png",
        "deep/b.jpg": "deep/b.png",
        "deep/er/a.jpg": "deep/er/a.png",
    }


def test_a_file_needs_no_extension(tmp_path):
    make(tmp_path / "in", "scan.webp")
    (job,), left_out = find_images(
        [tmp_path / "in/scan.webp"], extensions=["jpg"], recursive=False, output=tmp_path
    )
    assert left_out == ""
    assert job.result(".png") == tmp_path / "scan.png"


@pytest.mark.parametrize(
    ("extensions", "expected", "left_out"),
    [
        (["jpg"], "ab", "4 .png (d0.png, d1.png, d2.png, ...), 1 .tif (e.tif), 1 .heic (f.heic)"),
        (["JPG", ".tif"], "abe", "4 .png (d0.png, d1.png, d2.png, ...), 1 .heic (f.heic)"),
        (["all"], ["a", "b", "d0", "d1", "d2", "d3", "e"], "1 .heic (f.heic)"),
    ],
)
def test_several_extensions_and_what_is_left_out(tmp_path, extensions, expected, left_out):
    names = ["a.jpg", "b.JPG", "d0.png", "d1.png", "d2.png", "d3.png", "e.tif", "f.heic", "._a.jpg"]
    make(tmp_path / "in", *names)
    jobs, said = find_images(
        [tmp_path / "in"], extensions=extensions, recursive=False, output=tmp_path / "out"
    )
    assert [job.target.name for job in jobs] == list(expected)
    assert said == left_out


def test_several_paths_each_image_once_and_no_two_results_of_one_name(tmp_path):
    make(tmp_path, "one/a.jpg", "two/a.jpg", "two/b.jpg", "c.webp")
    output = tmp_path / "out"

    def targets(*places):
        paths = [tmp_path / place for place in places]
        jobs, _ = find_images(paths, extensions=["jpg"], recursive=False, output=output)
        return [str(job.target.relative_to(output)) for job in jobs]

    assert targets("one", "two", "c.webp", "one/a.jpg") == ["one/a", "two/a", "two/b", "c"]
    assert targets("two", "two/b.jpg") == ["a", "b"]
    assert targets("one/a.jpg", "two/a.jpg") == ["a.jpg", "a.jpg-2"]
    make(tmp_path, "x/s/a.jpg", "y/s/a.jpg")
    assert targets("x/s", "y/s") == ["x/s/a", "y/s/a"]
    assert targets("x/s", "x/../x/s") == ["a"]
    make(tmp_path, "x/s/t/s/a.jpg")
    assert targets("x/s", "x/s/t/s") == ["a", "t/s/a"]
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        targets("one", "nowhere")
    make(tmp_path, "three/x.png")
    with pytest.raises(
        DataError, match=r"three: no file ends in \.jpg\n.*\n  fix: --extension png"
    ):
        targets("one", "three")


def test_confidence_takes_no_other_images_name(tmp_path):
    make(tmp_path / "in", "a.jpg", "a.confidence.jpg")
    jobs, _ = find_images(
        [tmp_path / "in"], extensions=["jpg"], recursive=False, output=tmp_path / "out"
    )
    names = [job.result(suffix).name for job in jobs for suffix in (".png", ".confidence.png")]
    assert len(set(names)) == 4


def test_output_inside_input_is_not_searched(tmp_path):
    make(tmp_path / "in", "a.jpg", "masks/a.overlay.jpg")
    found = results(tmp_path / "in", recursive=True, output=tmp_path / "in/masks")
    assert found == {"a.jpg": "a.png"}


def test_links_are_followed_under_their_own_name_and_loops_end(tmp_path):
    make(tmp_path / "elsewhere", "real.jpg")
    make(tmp_path / "in", "a.jpg")
    (tmp_path / "in/link.jpg").symlink_to(tmp_path / "elsewhere/real.jpg")
    (tmp_path / "in/album").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    assert results(tmp_path / "in", recursive=True) == {
        "a.jpg": "a.png",
        "album/real.jpg": "album/real.png",
        "link.jpg": "link.png",
    }


def test_missing_images(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        results(tmp_path / "nowhere")


def test_no_match_names_what_is_there(tmp_path):
    make(tmp_path / "in", "a.png", "b.PNG", "notes.txt")
    with pytest.raises(
        DataError, match=r"no file ends in \.jpg\n.*\.png \(2\), \.txt \(1\)"
    ) as caught:
        results(tmp_path / "in")
    assert "fix: --extension png" in str(caught.value)


def test_empty_folder_mentions_recursive(tmp_path):
    (tmp_path / "in/sub").mkdir(parents=True)
    with pytest.raises(
        DataError, match="no files; folders inside it are searched with --recursive"
    ):
        results(tmp_path / "in")


def test_an_image_is_never_replaced(tmp_path):
    make(tmp_path / "in", "a.png")
    jobs, _ = find_images(
        [tmp_path / "in"], extensions=["png"], recursive=False, output=tmp_path / "in"
    )
    with pytest.raises(ConfigError, match=r"a\.png would replace the image"):
        refuse_overwriting(jobs)
    refuse_overwriting([jobs[0]._replace(target=tmp_path / "out/a")])


def test_read_only_output(tmp_path, monkeypatch):
    def refused(*_arguments, **_options):
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(ResourceError, match=r"masks: cannot be written \(Read-only file system\)"):
        prepare_folder(tmp_path / "masks")


def test_output_that_is_a_file(tmp_path):
    make(tmp_path, "masks")
    with pytest.raises(ResourceError, match="cannot be written"):
        prepare_folder(tmp_path / "masks")


def test_nothing_is_half_written(tmp_path):
    target = tmp_path / "mask.png"
    target.write_bytes(b"old")

    def fails(path):
        path.write_bytes(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(target, fails)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]
    write_whole(target, lambda path: path.write_bytes(b"new"))
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """Two containers with equal process ids, here within one process."""
    target = tmp_path / "mask.png"

    def slow(path):
        path.write_bytes(b"half")
        write_whole(target, lambda other: other.write_bytes(b"other"))
        assert path.read_bytes() == b"half"
        path.write_bytes(b"whole")

    write_whole(target, slow)
    assert target.read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_two_commands_may_try_one_folder_at_a_time(tmp_path, monkeypatch):
    """Trying a folder leaves no name in it that another command could take or miss."""
    (tmp_path / "writable").write_text("the user's own")
    names = []
    trial = tempfile.TemporaryFile

    def watched(**options):
        file = trial(**options)
        names.extend(path.name for path in tmp_path.iterdir())
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", watched)
    prepare_folder(tmp_path)
    assert names == ["writable"]
    assert (tmp_path / "writable").read_text() == "the user's own"


def test_a_result_that_is_a_link_is_replaced(tmp_path):
    (tmp_path / "precious").write_bytes(b"keep")
    (tmp_path / "mask.png").symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "mask.png", lambda path: path.write_bytes(b"new"))
    assert (tmp_path / "precious").read_bytes() == b"keep"
    assert not (tmp_path / "mask.png").is_symlink()


def test_what_a_mac_writes_beside_an_image_is_no_image(tmp_path):
    make(tmp_path / "in", "a.jpg", "._a.jpg", "sub/b.jpg", ".thumbnails/a.jpg", "sub/._b.jpg")
    assert results(tmp_path / "in", recursive=True) == {"a.jpg": "a.png", "sub/b.jpg": "sub/b.png"}

"""What was found out about a file is read from it once, until its size or time changes."""

import json
import os

import pytest

from dataloaders import known_files
from dataloaders.known_files import known, stamps
from utils.data.pixel_cache import default_folder
from utils.errors import DataError


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(130):
        (tmp_path / f"{number:03d}.txt").write_text(f"{number} " + "x" * number)
    return sorted(tmp_path.glob("*.txt"))


def ask(files, about="words"):
    """The first word of each file, and the files that were opened for it."""
    opened = []

    def first_word(index):
        opened.append(files[index])
        word = files[index].read_text().split()[0]
        if word == "bad":
            raise DataError(f"{files[index]}: bad")
        return [word]

    return known(files, first_word, about=about, title="WORDS"), sorted(opened)


def numbers(count):
    return [[str(number)] for number in range(count)]


def test_files_are_read_once(files):
    assert ask(files) == (numbers(130), files)
    assert ask(files) == (numbers(130), [])
    assert ask(files, about="letters") == (numbers(130), files)
    assert ask(files[:3]) == (numbers(3), [])
    assert ask([]) == ([], [])


def test_what_changed_is_read_again_and_nothing_else(files):
    ask(files[:100])
    assert ask(files) == (numbers(130), files[100:])  # files were added
    files[7].write_text("seven")
    status = files[9].stat()
    files[9].write_text("nine".ljust(status.st_size))  # as long as before
    os.utime(files[9], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    words, opened = ask(files)
    assert (words[7], words[9], opened) == (["seven"], ["nine"], [files[7], files[9]])


def test_a_file_that_changes_while_it_is_read_is_read_again(files):
    def read(index):
        files[index].write_text("changed")
        return "old"

    assert known(files[:1], read, about="words", title="WORDS") == ["old"]
    assert ask(files[:1]) == ([["changed"]], files[:1])


def test_faults_are_told_every_time(files):
    files[4].write_text("bad")
    for opened in (files, [files[4]]):
        words, read = ask(files)
        assert str(words[4]) == f"{files[4]}: bad"
        assert read == opened
    files[4].write_text("good")
    assert ask(files)[0][4] == ["good"]
    files[4].unlink()
    words, read = ask(files)
    assert isinstance(words[4], FileNotFoundError)
    assert read == [files[4]]


@pytest.mark.parametrize("content", ["", "no json", "[1]", '{"a": 1}', "\udcff"])
def test_a_damaged_memory_costs_only_the_reading(files, content):
    ask(files)
    for file in (default_folder().parent / "files").iterdir():
        file.write_bytes(content.encode(errors="surrogateescape"))
    assert ask(files) == (numbers(130), files)
    assert ask(files) == (numbers(130), [])


def test_a_memory_that_cannot_be_kept_is_said(files, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    with caplog.at_level("INFO", logger="segmentation"):
        assert ask(files)[0] == numbers(130)
    assert "what was read is not remembered in" in caplog.text


def test_reading_many_is_announced(files, monkeypatch, caplog):
    monkeypatch.setattr(known_files, "_MANY", 100)
    with caplog.at_level("INFO", logger="segmentation"):
        ask(files[:100])
        ask(files)
    assert caplog.messages == ["WORDS: reading 100 of 100 files"]


def test_names_need_not_be_utf8(files, tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff.txt")
    odd.write_text("odd")
    assert ask([odd]) == ([["odd"]], [odd])
    assert ask([odd]) == ([["odd"]], [])


def test_a_stamp_is_size_and_time(files, tmp_path):
    os.utime(files[5], ns=(1, 1234567890123456789))
    assert stamps([files[5]]) == ["7 1234567890123456789"]
    assert "No such file" in stamps([tmp_path / "missing"])[0]


def test_of_a_file_that_changed_one_answer_is_kept(files):
    for _ in range(3):
        files[0].write_text("0 " + files[0].read_text())
        ask(files)
    (memory,) = (default_folder().parent / "files").iterdir()
    assert len(json.loads(memory.read_text())) == len(files)

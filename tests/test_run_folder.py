"""Run folders belong to one run; the furthest sound checkpoint is found; old ones go."""

import errno
import os
import re
import shutil
import stat
from pathlib import Path

import pytest
from test_checkpoint import CONTENT

from utils.errors import CheckpointError, ConfigError, ResourceError
from utils.files.outputs import write_whole
from utils.files.written import remove_leftovers
from utils.run import checkpoint
from utils.run import folder as run_folder


def save(path, step):
    checkpoint.save([path], {**CONTENT, "step": step})


def test_runs_started_in_the_same_second_get_folders_of_their_own(tmp_path):
    folders = [run_folder.create(tmp_path, "net") for _ in range(5)]
    assert len(set(folders)) == 5
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folders[0].name)


def test_a_save_dir_that_is_a_file_is_explained(tmp_path):
    (tmp_path / "saved").write_text("")
    with pytest.raises(ResourceError, match=r"cannot make a run folder in .*\n.*trainer\.save_dir"):
        run_folder.create(tmp_path / "saved", "net")


def test_the_furthest_checkpoint_of_a_folder_is_taken(tmp_path):
    save(tmp_path / "last.pth", 20)
    save(tmp_path / "checkpoint-epoch2.pth", 20)
    save(tmp_path / "checkpoint-iter9.pth", 9)
    save(tmp_path / "checkpoint-iter27.pth", 27)
    assert run_folder.find_checkpoint(tmp_path)[0].name == "checkpoint-iter27.pth"


def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, caplog):
    save(tmp_path / "checkpoint-epoch1.pth", 10)
    (tmp_path / "last.pth").write_bytes(b"half a file")
    path, content = run_folder.find_checkpoint(tmp_path)
    assert (path.name, content["step"]) == ("checkpoint-epoch1.pth", 10)
    assert "last.pth: not a checkpoint, or cut short" in caplog.text


def test_a_folder_without_checkpoints_says_what_was_tried(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing to resume from\n  no last\.pth"):
        run_folder.find_checkpoint(tmp_path)
    (tmp_path / "last.pth").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match=r"nothing to resume from\n  .*cut short"):
        run_folder.find_checkpoint(tmp_path)


def test_a_folder_of_runs_names_the_newest_ones(tmp_path):
    for run in ("a/2026-01-01_00-00-00", "a/2026-03-01_00-00-00", "b/2026-02-01_00-00-00"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "last.pth").touch()
    with pytest.raises(CheckpointError) as caught:
        run_folder.find_checkpoint(tmp_path)
    assert re.findall(r"run folder in it: \S+-(\d\d)-01_", str(caught.value)) == ["03", "02", "01"]
    with pytest.raises(CheckpointError, match=r"in it: \S+2026-03.*\n.*in it: \S+2026-01"):
        run_folder.find_checkpoint(tmp_path / "a")


def test_trimming_goes_by_number_not_by_name_or_time(tmp_path):
    for epoch in (1, 2, 9, 10, 11):
        (tmp_path / f"checkpoint-epoch{epoch}.pth").touch()
    for step in (8, 9, 10):
        (tmp_path / f"checkpoint-iter{step}.pth").touch()
    (tmp_path / "checkpoint-epoch-mine.pth").touch()
    run_folder.trim(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-epoch-mine.pth",
        "checkpoint-epoch10.pth",
        "checkpoint-epoch11.pth",
        "checkpoint-iter10.pth",
        "checkpoint-iter9.pth",
    ]


def test_a_checkpoint_that_somebody_reads_goes_the_next_time(tmp_path, monkeypatch):
    """Windows does not delete a file that is open."""
    for epoch in (1, 2, 3):
        (tmp_path / f"checkpoint-epoch{epoch}.pth").touch()
    unlink = Path.unlink

    def refused(self):
        if self.name == "checkpoint-epoch2.pth":
            raise PermissionError(13, "in use")
        unlink(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        run_folder.trim(tmp_path, keep=1)
    assert sorted(path.name[16] for path in tmp_path.iterdir()) == ["2", "3"]
    run_folder.trim(tmp_path, keep=1)
    assert [path.name[16] for path in tmp_path.iterdir()] == ["3"]


def test_a_drive_that_is_not_there_is_explained(monkeypatch):
    """On Windows no part of such a path exists, not even the first."""
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"^trainer\.save_dir: cannot make Z:.*\n  set trainer"):
        run_folder.check_folders(save_dir=Path("Z:/runs"), log_dir=None)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / "last.pth").touch()
    child = os.fork()
    if child == 0:
        write_whole(tmp_path / "last.pth", lambda path: path.touch() or os._exit(0))
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".mine.partial").touch()
    (tmp_path / ".notes.pth.0123abcd.partial").touch()
    remove_leftovers(tmp_path, run_folder.OURS.fullmatch)
    kept = {".mine.partial", ".notes.pth.0123abcd.partial", "last.pth"}
    assert {path.name for path in tmp_path.iterdir()} == kept  # the others are the user's


def test_the_third_newest_checkpoint_is_tried_too(tmp_path, caplog):
    for epoch in (1, 2, 3):
        save(tmp_path / f"checkpoint-epoch{epoch}.pth", 10 * epoch)
    for name in ("last.pth", "checkpoint-epoch3.pth", "checkpoint-epoch2.pth"):
        (tmp_path / name).write_bytes(b"half a file")
    assert run_folder.find_checkpoint(tmp_path)[0].name == "checkpoint-epoch1.pth"
    passed = [line.split(": ")[1] for line in caplog.messages if line.startswith("passed over: ")]
    assert [Path(one).name for one in passed] == [
        "last.pth",
        "checkpoint-epoch3.pth",
        "checkpoint-epoch2.pth",
    ]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_takes_checkpoints(tmp_path, monkeypatch, number):
    fsync = os.fsync

    def refused(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr("os.fsync", refused)
    save(tmp_path / "last.pth", 1)
    assert checkpoint.load(tmp_path / "last.pth")["step"] == 1


def test_a_folder_above_that_cannot_be_listed_is_no_obstacle(tmp_path, monkeypatch):
    """As /home is on clusters: it may be entered (mode 711). For root only a refusal shows it."""
    opened = os.open

    def refused(path, flags, *rest, **options):
        if Path(path) == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr("os.open", refused)
    assert run_folder.create(tmp_path / "saved", "net").is_dir()


def test_the_new_folders_are_made_durable_from_the_top(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        "os.fsync",
        lambda handle: (
            synced.append(str(Path(f"/proc/self/fd/{handle}").readlink())),
            fsync(handle),
        ),
    )
    run_folder.create(tmp_path / "saved", "net")
    assert set(synced) == {str(tmp_path), f"{tmp_path}/saved", f"{tmp_path}/saved/net"}


LINKS = {"dangling": "nowhere", "loop": "link"}


@pytest.mark.parametrize("fault", [*LINKS, "name", "path"])
def test_a_save_dir_that_could_never_be_made_is_found_before_the_data(tmp_path, fault):
    (tmp_path / "link").symlink_to(tmp_path / LINKS.get(fault, "nowhere"))
    folder = {"name": tmp_path / ("x" * 256), "path": tmp_path.joinpath(*["x" * 200] * 21)}
    with pytest.raises(ConfigError, match=r"^trainer\.save_dir: cannot make "):
        run_folder.check_folders(save_dir=folder.get(fault, tmp_path / "link" / "a"), log_dir=None)


def test_a_disk_without_room_for_a_checkpoint_is_refused(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    checkpoint.require_room(tmp_path, free // 2)
    with pytest.raises(ResourceError, match=r"too little room for checkpoints\n  needed: [\d,]+ b"):
        checkpoint.require_room(tmp_path, 10 * free)

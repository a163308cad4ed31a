"""What a user sees of a wrong config: one block on stderr, exit code 2, nothing written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bad_configs import SHORT

ROOT = Path(__file__).parent.parent


def train(*arguments, cwd):
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "short.json").write_text(json.dumps(SHORT))
    return tmp_path


CALLS = {
    "misspelt key": (
        ["-c", "short.json", "--set", "trainer.epoch=3"],
        "error: short.json with --set: trainer.epoch: unknown key; did you mean 'epochs'? Known: ",
    ),
    "no such file": (
        ["--config", "shrot.json"],
        "error: shrot.json: no such file; did you mean 'short.json'? Known: short.json\n",
    ),
    "no config.json": (
        [],
        "error: config.json: no such file. Known: short.json\n",
    ),
    "no value": (
        ["-c", "short.json", "--set", "name"],
        "error: --set: 'name': expected key=value, such as trainer.epochs=2\n",
    ),
    # Not in the schema, so it is answered by build(), which knows the table itself.
    "unlisted model": (
        ["-c", "short.json", "--set", "arch.type=Unet3", "train_loader.args.length=8"],
        "error: arch.type: unknown name 'Unet3'; did you mean 'UNet'? Known: ",
    ),
}


@pytest.mark.parametrize(("arguments", "answer"), CALLS.values(), ids=CALLS)
def test_the_answer_is_one_block(arguments, answer, folder):
    done = train(*arguments, cwd=folder)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr[done.stderr.index("error: ") :].startswith(answer)
    assert done.stderr.count("error: ") == 1
    assert [path.name for path in folder.iterdir()] == ["short.json"]


def test_the_schema_command_starts_anywhere(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "schema.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--check" in done.stdout

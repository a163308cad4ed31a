"""Hundreds of broken configs against the real command line, before PyTorch is imported."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from config_mutants import mutants, valid

from utils.config.config import load_config

ROOT = Path(__file__).parent.parent

# One process for all of them: what it prints is the exit code and the answer of each, and what it
# opened for writing. PyTorch must never have been imported.
RUN_ALL = """
import contextlib, io, json, os, sys

written = []
def watch(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.append(str(arguments[0]))
    if event in ("os.mkdir", "os.rename", "os.remove"):
        written.append(str(arguments))

sys.path.insert(0, sys.argv[1])
import train
from utils.errors import guard

sys.addaudithook(watch)
answers = []
for path in sys.argv[2:]:
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        code = guard(train.main, ["--config", path])
    answers.append([code, stderr.getvalue()])
print(json.dumps({"answers": answers, "written": written, "torch": "torch" in sys.modules}))
"""


def run(code, *arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(ROOT), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    return json.loads(done.stdout)


def test_every_mutant_is_refused_with_its_path_before_torch(tmp_path):
    cases = mutants(seed=20)
    counts = Counter(mutant.operator for mutant in cases)
    assert len(cases) >= 300
    assert counts["slip"] >= 60
    files = []
    for number, mutant in enumerate(cases):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_bytes(mutant.content)
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    result = run(RUN_ALL, *map(str, files), cwd=cwd)
    wrong = []
    for mutant, file, (code, answer) in zip(cases, files, result["answers"], strict=True):
        begins = answer.startswith(f"error: {file}")
        if not (code == 2 and begins and mutant.path in answer and mutant.advice in answer):
            wrong.append((mutant.operator, mutant.path, mutant.advice, code, answer))
    assert wrong == []
    assert result["torch"] is False
    assert result["written"] == []
    assert list(cwd.iterdir()) == []


@pytest.mark.parametrize("number", range(len(valid(seed=20))))
def test_every_valid_variant_is_accepted(number, tmp_path):
    path = tmp_path / "c.json"
    path.write_bytes(valid(seed=20)[number])
    assert load_config(path).arch.type == "PSPNet"

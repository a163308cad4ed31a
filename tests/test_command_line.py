"""Every command says what it is, and the commands that are printed work."""

import contextlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import utils
from utils.run.next_steps import command_line

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("train.py", "evaluate.py", "inference.py", "export.py")
TOOLS = [f"tools/{path.name}" for path in sorted((ROOT / "tools").glob("*.py"))]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))

# What takes seconds to import, or may not be installed.
SLOW = ("torch", "torchvision", "timm", "onnx", "matplotlib", "scipy")
ASK = f"""
import contextlib, io, json, runpy, sys
for name in {SLOW}:
    sys.modules[name] = None  # importing it raises
answers = {{}}
for script, flag in json.loads(sys.argv[1]):
    sys.argv = [script, flag]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            answers[f"{{script}} {{flag}}"] = [end.code, printed.getvalue()]
print(json.dumps(answers))
"""


def test_commands_and_tools_say_at_once_what_they_are():
    """Without torch: it takes seconds to import."""
    asked = [(script, "--help") for script in (*COMMANDS, *TOOLS)]
    asked += [(script, "--version") for script in COMMANDS]
    command = [sys.executable, "-c", ASK, json.dumps(asked)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    answers = json.loads(ended.stdout)
    for script, flag in asked:
        code, text = answers[f"{script} {flag}"]
        name = Path(script).name
        assert code == 0
        if flag == "--version":
            assert text == f"{name} {utils.VERSION}\n"
        else:
            assert text.startswith(f"usage: {name} ")
            assert len(re.findall(r"^[A-Z].*", text, re.MULTILINE)) >= 1  # what it does


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda path: path.name)
def test_a_benchmark_says_what_it_is_instead_of_running(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with contextlib.suppress(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    answer = " ".join(capsys.readouterr().out.split())
    first_line = script.read_text(encoding="utf-8").removeprefix('"""').splitlines()[0]
    assert first_line in answer


def test_there_is_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "utils.VERSION"}
    newest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert newest == utils.VERSION


def test_a_printed_command_works_from_another_folder(tmp_path, monkeypatch):
    place = tmp_path / "my runs"
    place.mkdir()
    for folder in (place, ROOT):
        monkeypatch.chdir(folder)
        line = command_line("evaluate", "--version")
        assert subprocess.run(line, shell=True, capture_output=True, check=False).returncode == 0
    assert shlex.split(line)[1:] == ["evaluate.py", "--version"]


def test_a_printed_command_names_the_python_that_runs(tmp_path, monkeypatch):
    """By its short name only where the shell finds this one under it."""
    python = tmp_path / "python"
    python.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert shlex.split(command_line("train"))[0] == str(python)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert shlex.split(command_line("train"))[0] == "python"


def test_a_printed_command_is_quoted_for_the_users_shell(monkeypatch):
    folder = r"C:\my runs\2026"
    assert command_line("train", "--resume", folder).endswith(rf"--resume '{folder}'")
    monkeypatch.setattr(sys, "platform", "win32")
    assert command_line("train", "--resume", folder).endswith(rf'--resume "{folder}"')

"""What a command says and returns for each kind of ending."""

import io
import sys
from pathlib import Path

import pytest

from utils import errors

ROOT = Path(__file__).resolve().parents[1]


def ending(error):
    def main(arguments):
        raise error

    return main


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ConfigError, 2),
        (errors.DataError, 3),
        (errors.CheckpointError, 4),
        (errors.NumericError, 5),
        (errors.ResourceError, 6),
    ],
)
def test_a_users_mistake_is_one_block_and_its_code(kind, code, capsys):
    assert errors.guard(ending(kind("what\n  fix: how")), []) == code
    assert capsys.readouterr().err == "error: what\n  fix: how\n"


def test_an_interrupted_run_is_no_error(capsys):
    stopped = errors.RunInterruptedError("SIGTERM at iteration 4: saved", signal_number=15)
    assert errors.guard(ending(stopped), []) == 143
    assert capsys.readouterr().err == "stopped: SIGTERM at iteration 4: saved\n"


def test_ctrl_c_before_training_has_its_code(capsys):
    assert errors.guard(ending(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_bug_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        errors.guard(ending(ZeroDivisionError()), [])


def test_of_several_processes_each_says_who_it_is(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert errors.guard(ending(errors.DataError("what")), []) == 3
    assert capsys.readouterr().err == "[process 3] error: what\n"


def test_a_missing_package_is_named_with_its_cure(capsys):
    def without_torch(_):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    assert errors.guard(without_torch, []) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the package torch is missing in the environment ")
    assert "-m pip install -r requirements.txt" in said
    with pytest.raises(ModuleNotFoundError):
        errors.guard(ending(ModuleNotFoundError(name="torch.no_such_part")), [])


def test_the_command_line_reaches_the_command():
    assert errors.guard(len, ["a", "b"]) == 2


def test_what_the_console_has_no_letters_for_is_escaped(monkeypatch):
    """Cyrillic on a Western console, and bytes of a file name that are not UTF-8."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))

    def main(arguments):
        sys.stdout.write(" ".join(arguments) + "\n")
        sys.stdout.flush()
        return 0

    assert errors.guard(main, ["é", "дом", "\udcff"]) == 0
    assert written.getvalue() == b"\xe9 \\u0434\\u043e\\u043c \\udcff\n"


def test_every_command_is_guarded():
    scripts = {*ROOT.glob("*.py"), *(ROOT / "tools").glob("*.py")} - {ROOT / "setup.py"}
    commands = {path.name: path.read_text(encoding="utf-8") for path in scripts}
    run = {name: text for name, text in commands.items() if "__main__" in text}
    assert len(run) > 12
    assert [name for name, text in run.items() if "guard(main, sys.argv[1:])" not in text] == []

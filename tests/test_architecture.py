"""The house rules that a machine can check: imports point down, files stay readable."""

import ast
import re
import sys
from pathlib import Path

import utils

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("base", "dataloaders", "models", "utils", "planning", "tools", "benchmarks")
COMMANDS = ("train", "evaluate", "inference", "export", "command")
# Each room may use those below it; models and dataloaders never each other.
BELOW = {
    "utils": {"utils"},
    "base": {"base", "utils"},
    "models": {"models", "base", "utils"},
    "dataloaders": {"dataloaders", "base", "utils"},
    "validation": {"base", "utils"},
    "trainer": {"validation", "base", "utils"},
    "measuring": {"trainer", "base", "utils"},
    "assembly": {"tables", "trainer", "models", "dataloaders", "base", "utils"},
    "planning": {"planning", "assembly", "measuring", "models", "dataloaders", "base", "utils"},
    "tables": {"models", "dataloaders", "base", "utils"},
    "prediction_flags": {"utils"},
}
# Which package of utils/ may use which; errors and seeding serve all. CONTRIBUTING.md draws it.
PACKAGES_OF_UTILS = {
    "errors": set(),
    "seeding": set(),
    "config": set(),
    "drawing": set(),
    "hardware": set(),
    "files": {"drawing"},
    "losses": {"config"},
    "optim": {"config", "files"},
    "lr_scheduler": {"optim"},
    "metrics": {"hardware"},
    "data": {"drawing", "files", "hardware"},
    "run": {"config", "drawing", "files", "hardware"},
    "inference": {"data", "drawing", "files", "hardware"},
    "pages": {"drawing", "files", "run"},
    "evaluation": {"drawing", "hardware", "inference", "metrics", "pages"},
}
OURS = {*PACKAGES, *COMMANDS, *BELOW}


def sources():
    files = list(ROOT.glob("*.py"))
    for package in PACKAGES:
        files += (ROOT / package).rglob("*.py")
    return sorted(files)


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module


def wrong_imports(room, tree):
    return [
        name
        for name in imports(tree)
        if (top := name.partition(".")[0]) in OURS and top not in BELOW.get(room, OURS)
    ]


def modules(tree):
    """Full names of what is imported from utils: `from utils.a import b` may mean utils.a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_packages(package, tree):
    used = {name.split(".")[1] for name in modules(tree) if name.startswith("utils.")}
    for_all = {package, "errors", "seeding", *utils.__all__}
    return sorted(used - PACKAGES_OF_UTILS[package] - for_all)


def offenders(rule):
    """The files that break a rule, each with what the rule says of it."""
    found = {str(path.relative_to(ROOT)): rule(path, path.read_text()) for path in sources()}
    return {name: fault for name, fault in found.items() if fault}


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_imports_point_down():
    assert offenders(lambda path, text: wrong_imports(room(path), ast.parse(text))) == {}


def test_an_import_that_points_up_is_found():
    tree = ast.parse("from trainer import Trainer\nimport models.enet\nfrom utils import errors")
    assert wrong_imports("utils", tree) == ["trainer", "models.enet"]
    assert wrong_imports("models", tree) == ["trainer"]
    assert wrong_imports("train", tree) == []


def test_packages_of_utils_use_only_those_of_the_table():
    def rule(path, text):
        parts = path.relative_to(ROOT).parts
        if parts[0] != "utils" or (len(parts) == 2 and parts[1] == "__init__.py"):
            return []
        return wrong_packages(parts[1].removesuffix(".py"), ast.parse(text))

    assert offenders(rule) == {}
    tree = ast.parse("from utils.run import log\nfrom utils import evaluation\nimport utils.errors")
    assert wrong_packages("data", tree) == ["evaluation", "run"]


def test_the_table_has_no_circle():
    open_ = dict(PACKAGES_OF_UTILS)
    while open_:
        free = [name for name, below in open_.items() if not below & set(open_)]
        assert free, f"a circle among {sorted(open_)}"
        for name in free:
            del open_[name]


def test_files_and_functions_fit_a_reader():
    def too_long(path, text):
        functions = [
            node.name
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 50
        ]
        return functions + ([path.stem] if len(text.splitlines()) > 300 else [])

    assert offenders(too_long) == {}


def test_no_file_is_a_drawer_for_everything():
    names = {"helpers", "helper", "misc", "common", "utils"}
    assert offenders(lambda path, _: path.stem in names) == {}


def test_nothing_runs_what_a_stranger_wrote():
    phrases = ("weights_only=False", "allow_pickle=True", "shell=True", "extractall")

    def dangerous(_, text):
        calls = [
            node.func.id
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"eval", "exec", "compile"}
        ]
        return calls + [phrase for phrase in phrases if phrase in text]

    assert offenders(dangerous) == {}


def test_temporary_names_come_from_one_place():
    """A process id is not unique: containers on several machines may share a folder."""
    found = offenders(lambda _, text: re.findall(r"getpid|\.tmp\b", text))
    assert found == {"utils/run/log.py": ["getpid"]}  # for people, with the host: who writes here


def test_weights_are_read_in_one_place_and_never_unsafely():
    readers = r"(?:torch\.load|safetensors\.torch|load_state_dict_from_url|timm.* load_state_dict)"
    assert set(offenders(lambda _, text: re.findall(readers, text))) == {
        "utils/files/tensor_files.py"
    }
    calls = offenders(lambda _, text: re.findall(r"torch\.load\([^)]*\)", text))
    assert all("weights_only=True" in call for found in calls.values() for call in found)


def test_no_script_has_the_name_of_a_module_of_pythons():
    """A script's folder is searched first, for what any library imports."""
    scripts = [*ROOT.glob("tools/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("*.py")]
    assert len(scripts) > 20
    assert not {path.stem for path in scripts} & sys.stdlib_module_names


def test_only_commands_print_exit_or_read_the_command_line():
    words = ("sys.exit(", "sys.argv", "sys.stdout.write", "print(")

    def talkative(path, text):
        if room(path) in {*COMMANDS, "tools", "benchmarks"}:
            return []
        calls = [
            ast.unparse(node)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call | ast.Attribute)
        ]
        return [word for word in words if any(call.startswith(word) for call in calls)]

    assert offenders(talkative) == {}

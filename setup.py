"""Make the wheel: one package `segmentation`, in which everything has its place of the checkout.

setuptools runs it, and pip asks it as the build backend. Copies are changed by these rules, the
checkout never:

1. Imports of modules of ours name the package: `from utils.errors import guard` becomes
   `from segmentation.utils.errors import guard`.
2. So does a string that is, as a whole, the dotted name of a module of ours: `"models.unet"`.
3. Where text names a command, be it `train.py` or `tools/preview.py`, it becomes the installed one,
   `segmentation train`; a file of optional requirements becomes the extra of its name.
4. A line that changes `sys.path` goes.
"""

import ast
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NoReturn

from setuptools import find_packages, setup
from setuptools.build_meta import (
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_wheel,
)
from setuptools.command.build_py import build_py

__all__ = [  # what pip asks a build backend for
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_wheel",
]

_PACKAGE = "segmentation"
_FOLDERS = ("base", "dataloaders", "models", "utils")
_COMMANDS = ("train", "evaluate", "inference", "export")
_WRITERS = ("config_reference", "encoders", "figures", "schema")  # of the checkout's documents
_EXTRAS = ("charts", "coco", "export", "matlab", "raster")
_TOOLS = sorted({path.stem for path in Path("tools").glob("*.py")} - {*_WRITERS})

# What a text says in the checkout, and in the package.
_RULES = (
    (rf"(torchrun [^\n`]*?)\b({'|'.join(_COMMANDS)})\.py\b", rf"\1-m {_PACKAGE}.\2"),
    (
        rf"(?:python )?(?<![\w./])(?:({'|'.join(_COMMANDS)})|tools/({'|'.join(_TOOLS)}))\.py\b",
        rf"{_PACKAGE} \1\2",
    ),
    (rf"-r requirements-({'|'.join(_EXTRAS)})\.txt", rf"'{_PACKAGE}[\1]'"),
)


def build_editable(*_: object) -> NoReturn:
    """Refuse `pip install -e`, before it downloads anything."""
    raise SystemExit(
        "error: a checkout needs no installation: pip install -r requirements.txt, and run its "
        "commands where they are\n  fix: without -e, pip install makes a copy that does not follow "
        "the checkout"
    )


get_requires_for_build_editable = build_editable


class Build(build_py):
    """Copies the modules, and changes the copies."""

    def run(self) -> None:
        """Build the package anew."""
        target = Path(self.build_lib, _PACKAGE)
        shutil.rmtree(target, ignore_errors=True)  # what an earlier build left
        super().run()
        for name in ("setup", *(f"tools/{tool}" for tool in _WRITERS)):
            (target / f"{name}.py").unlink()
        files = [path for path in target.rglob("*") if path.is_file()]
        modules = {
            ".".join(path.relative_to(target).with_suffix("").parts).removesuffix(".__init__")
            for path in files
            if path.suffix == ".py"
        }
        modules |= {"tools"}  # without a file of its own
        for path in files:
            text = _with_commands(path.read_text(encoding="utf-8"))
            if path.suffix == ".py":
                text = _with_imports(text, modules)
            path.write_text(text, encoding="utf-8")
        start = '"""Semantic segmentation: `from segmentation.inference import load`."""\n'
        (target / "__init__.py").write_text(start, encoding="utf-8")


def _with_commands(text: str) -> str:
    for pattern, installed in _RULES:
        text = re.sub(pattern, installed, text)
    return text


def _with_imports(text: str, modules: Collection[str]) -> str:
    lines = text.split("\n")
    for number, column, old, new in sorted(_changes(text, modules), reverse=True):
        line = lines[number - 1].encode()
        assert line[column:].startswith(old.encode()), f"line {number}: expected {old}: {line}"
        lines[number - 1] = (line[:column] + new.encode() + line[column + len(old) :]).decode()
    return "\n".join(lines)


def _changes(text: str, modules: Collection[str]) -> Iterator[tuple[int, int, str, str]]:
    """Where something stands: line, column in bytes; what, and what it becomes."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.ImportFrom(module=str(name)) if name in modules:
                old, new = f"from {name} import", f"from {_PACKAGE}.{name} import"
            case ast.Import(names=names) if any(alias.name in modules for alias in names):
                old = ast.unparse(node)
                name = old.removeprefix("import ")
                assert name.isidentifier(), f"line {node.lineno}: {old}: write from ... import ..."
                new = f"from {_PACKAGE} {old}"
            case ast.Constant(value=str(name)) if "." in name and name in modules:
                old, new = f'"{name}"', f'"{_PACKAGE}.{name}"'
            case ast.Expr(value=ast.Call()) if ast.unparse(node).startswith("sys.path.insert("):
                old, new = ast.unparse(node), "pass"
            case _:
                continue
        yield node.lineno, node.col_offset, old, new


def _extra(name: str) -> list[str]:
    lines = Path(f"requirements-{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and line[0] not in "#-"]


if __name__ == "__main__":
    setup(
        cmdclass={"build_py": Build},
        package_dir={_PACKAGE: "."},
        packages=[
            _PACKAGE,
            f"{_PACKAGE}.tools",
            *(
                f"{_PACKAGE}.{name}"
                for name in find_packages(include=[f"{folder}*" for folder in _FOLDERS])
            ),
        ],
        package_data={
            _PACKAGE: ["config.json", "config.schema.json", "configs/*.json"],
            f"{_PACKAGE}.utils": ["*/*.html", "*/*.css"],
        },
        extras_require={name: _extra(name) for name in _EXTRAS},
    )

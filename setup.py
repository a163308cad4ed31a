"""Make the wheel: one package `segmentation`, in which everything has its place of the checkout.

setuptools runs this file, and pip asks it as the build backend. Copies are changed by four rules:

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
from setuptools.build_meta import *  # noqa: F403  what pip asks a backend for
from setuptools.command.build_py import build_py

_PACKAGE = "segmentation"
_FOLDERS = ("base", "dataloaders", "models", "planning", "utils")
_COMMANDS = "train|evaluate|inference|export"
_WRITERS = ("config_reference", "encoders", "figures", "schema")  # of the checkout's documents
_TOOLS = "|".join({path.stem for path in Path("tools").glob("*.py")} - {*_WRITERS})
_EXTRAS = ("charts", "coco", "export", "matlab", "raster")

_TEXTS = (
    (rf"(torchrun [^\n`]*?)\b({_COMMANDS})\.py\b", rf"\1-m {_PACKAGE}.\2"),
    (rf"(?:python )?(?<![\w./])(?:({_COMMANDS})|tools/({_TOOLS}))\.py\b", rf"{_PACKAGE} \1\2"),
    (rf"-r requirements-({'|'.join(_EXTRAS)})\.txt", rf"'{_PACKAGE}[\1]'"),
)


def build_editable(*_: object) -> NoReturn:
    """Refuse `pip install -e`."""
    raise SystemExit(
        "error: a checkout needs no installation: pip install -r requirements.txt, and run its "
        "commands where they are\n  fix: without -e, pip install makes a copy that does not follow "
        "the checkout"
    )


# Asked before anything is downloaded.
get_requires_for_build_editable = prepare_metadata_for_build_editable = build_editable


class Build(build_py):
    """Copies the modules, and changes the copies."""

    def run(self) -> None:
        """Build the package anew."""
        target = Path(self.build_lib, _PACKAGE)
        shutil.rmtree(target, ignore_errors=True)  # what an earlier build left
        super().run()
        for name in ("setup", *(f"tools/{tool}" for tool in _WRITERS)):
            (target / f"{name}.py").unlink()
        files = [path.relative_to(target) for path in target.rglob("*") if path.is_file()]
        names = [".".join(file.with_suffix("").parts) for file in files if file.suffix == ".py"]
        modules = {"tools", *(name.removesuffix(".__init__") for name in names)}
        for file in files:
            text = with_commands((target / file).read_text(encoding="utf-8"))
            if file.suffix == ".py":
                text = with_package(text, modules)
            (target / file).write_text(text, encoding="utf-8")
        (target / "__init__.py").write_text('"""`from segmentation.inference import load`."""\n')


def with_commands(text: str) -> str:
    """Rule 3."""
    for pattern, installed in _TEXTS:
        text = re.sub(pattern, installed, text)
    return text


def with_package(text: str, modules: Collection[str]) -> str:
    """Rules 1, 2 and 4; what they do not foresee stops the build."""
    lines = [line.encode() for line in text.split("\n")]  # as columns count bytes
    for number, column, old, new in sorted(_changes(text, modules), reverse=True):
        start, rest = lines[number][:column], lines[number][column:]
        assert rest.startswith(old.encode()), f"{rest.decode()}: expected {old}"
        lines[number] = start + new.encode() + rest.removeprefix(old.encode())
    return b"\n".join(lines).decode()


def _changes(text: str, modules: Collection[str]) -> Iterator[tuple[int, int, str, str]]:
    """Line and column from 0, what stands there, what it becomes."""
    tops = {name for name in modules if "." not in name}
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.ImportFrom(module=str(name)) if name in modules:
                old, new = f"from {name} import", f"from {_PACKAGE}.{name} import"
            case ast.Import(names=[ast.alias(name=str(name), asname=None)]) if name in tops:
                old, new = f"import {name}", f"from {_PACKAGE} import {name}"
            case ast.Import(names=names) if any(alias.name in modules for alias in names):
                old, new = "from ... import ...", ""  # which does not stand there
            case ast.Constant(value=str(name)) if "." in name and name in modules:
                old, new = f'"{name}"', f'"{_PACKAGE}.{name}"'
            case ast.Expr(value=ast.Call()) if ast.unparse(node).startswith("sys.path.insert("):
                old, new = ast.unparse(node), "pass"
            case _:
                continue
        yield node.lineno - 1, node.col_offset, old, new


def _extra(name: str) -> list[str]:
    lines = Path(f"requirements-{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and line[0] not in "#-"]


if __name__ == "__main__":
    subpackages = find_packages(include=[f"{folder}*" for folder in _FOLDERS])
    setup(
        cmdclass={"build_py": Build},
        package_dir={_PACKAGE: "."},
        packages=[_PACKAGE, *(f"{_PACKAGE}.{name}" for name in ["tools", *subpackages])],
        package_data={
            _PACKAGE: ["config.json", "config.schema.json", "configs/*.json"],
            f"{_PACKAGE}.utils": ["*/*.html", "*/*.css"],
        },
        extras_require={name: _extra(name) for name in _EXTRAS},
    )

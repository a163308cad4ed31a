"""The wheel: one package and one command, beside a project with the names of our folders."""

import ast
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

import setup
import utils

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("base", "configs", "dataloaders", "models", "planning", "tools", "utils")
OURS = {path.stem for path in ROOT.glob("*.py")} | {*FOLDERS}
WRITERS = {f"tools/{name}.py" for name in ("config_reference", "encoders", "figures", "schema")}
COMMANDS = {"train", "evaluate", "inference", "export"}
TOOLS = {path.stem for path in (ROOT / "tools").glob("*.py") if f"tools/{path.name}" not in WRITERS}
EXTRAS = {path.stem.removeprefix("requirements-") for path in ROOT.glob("requirements-*.txt")}
EXTRAS -= {"dev", "peers"}
# Short, on images that are drawn on the spot.
SHORT = (
    "trainer.epochs=1 train_loader.args.length=8 val_loader.args.length=4 "
    "train_loader.args.num_workers=1 val_loader.args.num_workers=0"
)


@pytest.fixture(scope="module", name="source")
def _source(tmp_path_factory):
    """A copy of the checkout: building leaves files where it was done."""
    source = tmp_path_factory.mktemp("checkout")
    for pattern in ("*.py", "*.toml", "*.txt", "*.in", "*.json", "LICENSE"):
        for path in ROOT.glob(pattern):
            shutil.copy(path, source)
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    return source


@pytest.fixture(scope="module", name="environment")
def _environment(source, tmp_path_factory):
    """An environment with the wheel; the rest is borrowed from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=os.name != "nt")
    site_of(folder).joinpath("borrowed.pth").write_text(sysconfig.get_path("purelib"))
    pip("--python", folder, "install", "--no-compile", source)
    return folder


def pip(*words, code=0):
    """What pip prints when it builds here, with nothing but what is here."""
    words = [*words, "--no-index", "--no-build-isolation", "--no-deps"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def site_of(environment):
    places = {"base": str(environment), "platbase": str(environment)}
    return Path(sysconfig.get_path("purelib", "venv", places))


def programs_of(environment):
    return Path(sysconfig.get_path("scripts", "venv", {"base": str(environment)}))


@pytest.fixture(name="shell")
def _shell(environment, tmp_path):
    """Run a line in a project that has `utils`, `models` and others of our names."""
    for name in OURS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"MINE = {name!r}\n")
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    variables["PATH"] = os.pathsep.join([str(programs_of(environment)), variables["PATH"]])

    def run(line, code=0):
        done = subprocess.run(
            line,
            shell=True,
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


def test_a_wheel_is_one_package_and_one_command(environment, shell):
    """Its files, imports, texts, requirements; the command; what is printed to go on with."""
    site = site_of(environment)
    info = importlib.metadata.PathDistribution(site / f"segmentation-{utils.VERSION}.dist-info")
    files = [file for file in map(str, info.files) if not file.endswith(".pyc")]
    assert {file.split("/")[0] for file in files} == {"..", "segmentation", info._path.name}
    assert len([file for file in files if file.startswith("..")]) == 1
    package = site / "segmentation"
    assert {str(path.relative_to(package)) for path in of_the_package(package)} == expected_files()
    for path in of_the_package(package):
        assert foreign_words(path, package) == [], path
    assert_requires_what_the_files_of_requirements_say(info.requires)
    listed = shell("segmentation --help").partition("commands: ")[2].partition(";")[0]
    assert set(re.split(r",\s+", listed)) == COMMANDS | TOOLS
    assert shell("segmentation train --version") == f"segmentation train {utils.VERSION}\n"
    assert shell("segmentation preview --help").startswith("usage: segmentation preview ")
    assert_printed_commands_are_those_of_the_wheel(shell, programs_of(environment))


def of_the_package(package):
    return [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]


def expected_files():
    files = [*ROOT.glob("*.py"), ROOT / "config.json", ROOT / "config.schema.json"]
    for name in FOLDERS:
        for kind in ("py", "html", "css", "json"):
            files += (ROOT / name).rglob(f"*.{kind}")
    names = {str(path.relative_to(ROOT)) for path in files}
    return {"__init__.py", *names} - {"setup.py", *WRITERS}


def foreign_words(path, package):
    """What would not work in the package: a name of the checkout."""
    text = path.read_text(encoding="utf-8")
    commands = "|".join([*COMMANDS, *(f"tools/{name}" for name in TOOLS)])
    found = re.findall(rf"(?<![\w./])(?:{commands})\.py|requirements-\w+\.txt|sys\.path\.in", text)
    for node in ast.walk(ast.parse(text) if path.suffix == ".py" else ast.Module([], [])):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in OURS]
        elif isinstance(node, ast.ImportFrom):
            name = node.module.removeprefix("segmentation").lstrip(".")
            ours = name != node.module
            place = package.joinpath(*name.split("."))
            if node.module.split(".")[0] in OURS or (
                ours and not (place.is_dir() or place.with_suffix(".py").is_file())
            ):
                found.append(node.module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            first, _, rest = node.value.partition(".")
            place = ROOT.joinpath(first, *rest.split("."))
            if first in OURS and rest and (place.is_dir() or place.with_suffix(".py").is_file()):
                found.append(node.value)
    return found


def assert_requires_what_the_files_of_requirements_say(stated):
    expected = set()
    for extra in ("", *EXTRAS):
        file = ROOT / f"requirements{extra and f'-{extra}'}.txt"
        for line in re.sub(r"\s*#.*", "", file.read_text()).splitlines():
            if line and not line.startswith("-r"):
                expected.add(Requirement(line + (f'; extra == "{extra}"' if extra else "")))
    assert set(map(Requirement, stated)) == expected


def assert_printed_commands_are_those_of_the_wheel(shell, programs):
    """By name where the shell finds it, else by place; through Python where it is elsewhere."""
    code = (
        "from segmentation.utils.run.next_steps import command_line as c; print(c('train', '-h'))"
    )
    command = f"-c {shlex.quote(code)}"
    assert shell(f"python {command}") == "segmentation train -h\n"
    full = f"{programs / 'segmentation'} train -h\n"
    assert shell(f"PATH=/usr/bin:/bin {programs / 'python'} {command}") == full
    program = programs / "segmentation"
    moved = program.rename(program.with_name("elsewhere"))
    try:
        assert shell(f"python {command}") == "python -m segmentation.train -h\n"
    finally:
        moved.rename(program)


MODULES = {"models", "models.unet", "utils", "utils.errors", "tables", "tools", "tools.preview"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from utils import VERSION\n", "from segmentation.utils import VERSION\n"),
        (
            "def f():\n    from utils.errors import guard  # é\n",
            "def f():\n    from segmentation.utils.errors import guard  # é\n",
        ),
        ("import tables\n", "from segmentation import tables\n"),
        ("import torch\nfrom modelsx import y\n", None),
        ('é = "é", "models.unet"\n', 'é = "é", "segmentation.models.unet"\n'),
        ('x = "models", "models.net", "models.unet."\n', None),
        ("import sys\nsys.path.insert(0, str(1))  # why\n", "import sys\npass  # why\n"),
    ],
)
def test_imports_name_the_package(before, after):
    assert setup.with_package(before, MODULES) == (after or before)


def test_what_the_rules_do_not_foresee_stops_the_build():
    for text in ("import models.unet", "x = 'models.unet'", "import os, tables"):
        with pytest.raises(AssertionError, match=r"^.*(?:models\.unet|os, tables)"):
            setup.with_package(text, MODULES)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("python train.py -c a.json", "segmentation train -c a.json"),
        ("see tools/preview.py.", "see segmentation preview."),
        ("utils/inference.py, retrain.py, tools/schema.py", None),
        (
            "torchrun --nproc_per_node 4 evaluate.py -m a",
            "torchrun --nproc_per_node 4 -m segmentation.evaluate -m a",
        ),
        ("pip install -r requirements-coco.txt", "pip install 'segmentation[coco]'"),
        ("pip install -r requirements-dev.txt", None),
    ],
)
def test_texts_name_the_installed_command(before, after):
    assert setup.with_commands(before) == (after or before)


def test_a_link_to_the_checkout_is_refused_before_anything_is_downloaded():
    for hook in (setup.get_requires_for_build_editable, setup.build_editable):
        with pytest.raises(SystemExit, match=r"a checkout needs no installation: pip install -r"):
            hook("folder", None)


@pytest.mark.slow
def test_pip_shows_the_refusal(source):
    said = pip("install", "--dry-run", "--editable", source, code=1)
    assert "error: a checkout needs no installation: pip install -r requirements.txt" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_source_archive_makes_the_same_wheel(source, tmp_path):
    code = "from setup import build_sdist; build_sdist('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (archive,) = (source / "dist").glob("*.tar.gz")
    contents = []
    for number, place in enumerate([source, archive]):
        pip("wheel", "--wheel-dir", tmp_path / str(number), place)
        (wheel,) = (tmp_path / str(number)).glob("*.whl")
        with zipfile.ZipFile(wheel) as opened:
            contents.append({name: opened.read(name) for name in opened.namelist()})
    assert contents[0] == contents[1]


@pytest.fixture(name="model")
def _model(shell, environment, tmp_path):
    """A model that the installed command has trained, from the config that is installed too."""
    shutil.copy(site_of(environment) / "segmentation" / "config.json", tmp_path)
    printed = shell(f"segmentation train -d cpu --set {SHORT}")
    (model,) = tmp_path.glob("saved/*/*/best_model.pth")
    return model, re.findall(r"^next: (segmentation .*)", printed, re.MULTILINE)


@pytest.mark.slow
def test_the_whole_job_beside_a_project_with_our_names(shell, model, tmp_path):
    file, lines = model
    assert [line.split()[1] for line in lines] == ["inference", "evaluate"]
    assert "images segmented" in shell(lines[0])
    assert "Mean_IoU" in shell(lines[1])
    assert "proven equal" in shell(f"segmentation export -m {file} -o model.onnx")
    shell("segmentation preview -o sheet.png -n 2")
    assert {path.name for path in tmp_path.glob("*.*")} >= {"model.onnx", "sheet.png"}
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "image.png")
    (tmp_path / "project.py").write_text(PROJECT.format(file=file.name))
    shutil.copy(file, tmp_path)
    assert shell("python project.py") == "utils models (40, 60) uint8\n"


PROJECT = """
import numpy as np
from PIL import Image

import models
import utils
from segmentation.inference import load

image = np.asarray(Image.open("image.png"))
model = load("{file}")
mask = model(image)
print(utils.MINE, models.MINE, mask.shape, mask.dtype)
"""


@pytest.mark.slow
def test_a_stopped_run_goes_on_by_the_command_that_it_names(shell, environment, tmp_path):
    shutil.copy(site_of(environment) / "segmentation" / "config.json", tmp_path)
    stopping = (
        "import os, signal, sys\n"
        "from segmentation import train, trainer\n"
        "step = trainer.Trainer.train_iteration\n"
        "def stop(*words):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return step(*words)\n"
        "trainer.Trainer.train_iteration = stop\n"
        "sys.exit(train.guard(train.main, sys.argv[1:]))\n"
    )
    (tmp_path / "stopping.py").write_text(stopping)
    stopped = shell(f"python stopping.py -d cpu --set {SHORT}", code=143)
    (line,) = re.findall("go on with: (segmentation train --resume .*)", stopped)
    assert "run folder: " in shell(line)


@pytest.mark.slow
def test_several_processes_start_from_the_package(shell, model):
    """Those of torchrun, and those that n_gpu starts, here on a CPU."""
    words = f"-d cpu --set {SHORT}"
    run = "python -m torch.distributed.run --nproc_per_node 2 -m segmentation.train"
    assert shell(f"{run} {words}").count("run folder:") == 1
    code = (
        "import sys; from segmentation import train; train._processes = lambda *_: 2; "
        "sys.exit(train.main(sys.argv[1:]))"
    )
    assert shell(f"python -c {shlex.quote(code)} {words}").count("run folder:") == 1


@pytest.mark.slow
def test_a_plugin_names_the_package(shell, environment, tmp_path):
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (example,) = [code for code in examples if 'LOSSES["Brier"]' in code]
    (tmp_path / "old.py").write_text(example)
    (tmp_path / "new.py").write_text(example.replace("from utils.", "from segmentation.utils."))
    config = site_of(environment) / "segmentation" / "config.json"
    line = f"segmentation train -c {config} -d cpu --set {SHORT} loss=Brier --plugin"
    told = shell(f"{line} old.py", code=2)
    assert "No module named 'utils.losses'\n  fix: here it is: from segmentation.models" in told
    assert "best Mean_IoU" in shell(f"{line} new.py")

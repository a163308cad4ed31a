"""Kinds of trials with files: checkpoints, configs, images, masks, what users have in a folder."""

import copy
import io
import os
import pickle
import random
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from color_model import ColorModel, picture_of, save_checkpoint
from config_mutants import mutants
from forks import run
from PIL import Image
from training import batches_of, plain_config, trainer_of

import inference
import models
import train
from models.pretrained import weights_of
from utils.errors import DataError, UserError, guard
from utils.files.images import read_image, read_mask
from utils.run import checkpoint

Trials = Iterator[str]


def _each(folder: Path, cases: list, judge) -> Trials:
    """Judge all cases in one child; where it dies, the rest go to another one."""
    verdicts, number = folder / "verdicts", 0
    while number < len(cases):

        def work(_, first=number):
            with verdicts.open("a", buffering=1) as file:
                for case in cases[first:]:
                    try:
                        fault = judge(case)
                    except Exception as error:  # noqa: BLE001  that is what is looked for
                        fault = f"{type(error).__name__}: {error}"
                    file.write(" ".join(f"{fault}.".split()) + "\n")
            return 0

        verdicts.unlink(missing_ok=True)
        ended = run(work, folder / "words", limit=600)
        found = verdicts.read_text().splitlines()
        yield from (line.removesuffix(".") for line in found)
        number += len(found)
        if number < len(cases):
            yield f"the process died ({ended.code}) of {str(cases[number])[:80]}"
            number += 1


def _state(folder: Path) -> dict:
    """What a run saves after its first iteration."""
    trainer = trainer_of(plain_config(folder, ema=0.9))
    trainer.train_iteration(batches_of(trainer)[:1])
    return checkpoint.to_plain(trainer.state())


def _same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    tensors = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return torch.equal(one, other) if tensors else one == other


def damaged_checkpoints(folder: Path, count: int) -> Trials:
    """A checkpoint cut or with a byte changed anywhere: refused, or read as it was."""
    path, bad = folder / "last.pth", folder / "bad.pth"
    checkpoint.save([path], _state(folder))
    data, whole, rng = path.read_bytes(), checkpoint.load(path), random.Random(2)
    cases = [(None, rng.randrange(len(data))) for _ in range(count // 3)]
    cases += [(rng.randrange(1, 256), rng.randrange(len(data))) for _ in range(count - count // 3)]

    def judge(case):
        change, place = case
        broken = bytearray(data[:place] if change is None else data)
        if change is not None:
            broken[place] ^= change
        bad.write_bytes(broken)
        try:
            return "" if _same(checkpoint.load(bad), whole) else "other content"
        except checkpoint.CheckpointError:
            return ""

    return _each(folder, cases, judge)


WRONG = (None, "x", -5, 1.5, [], {}, float("nan"), 2**70, True)
FIELDS = (
    ("arch",), ("config",), ("state_dict",), ("classes",), ("palette",), ("mean",), ("std",),
    ("ignore_index",), ("epoch",), ("iteration",), ("step",), ("optimizer",),
    ("optimizer", "state"), ("optimizer", "param_groups"), ("ema",), ("ema", "state_dict"),
    ("monitor_epochs",), ("running",), ("running", "counts"), ("log_bytes",),
)  # fmt: skip


def forged_checkpoints(folder: Path, count: int) -> Trials:
    """A field of another kind, a tensor of another shape, dtype or value: refused, or harmless."""
    state, path = _state(folder), folder / "forged.pth"
    trainer = trainer_of(plain_config(folder, ema=0.9))
    cases = [(field, value) for value in WRONG for field in FIELDS]
    cases += [
        (("optimizer", "state", 0, "momentum_buffer"), tensor)
        for tensor in (torch.zeros(1), torch.zeros(4, 3, 3), torch.zeros(4, 3, 3, 2))
    ]
    random.Random(3).shuffle(cases)

    def judge(case):
        (*parents, name), value = case
        content = part = copy.deepcopy(state)
        for key in parents:
            part = part[key]
        part[name] = value
        torch.save({"format_version": 1} | content, path)
        try:
            trainer.restore(checkpoint.load(path))
            trainer.train_iteration(batches_of(trainer)[:1])
        except UserError as error:
            return "" if error.exit_code in (2, 4) else f"{case}: exit {error.exit_code}"
        return ""

    return _each(folder, cases[:count], judge)


class _Call:
    """Unpickled by whoever does not look, it calls something."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


CALLS = (
    ("posix", "system"), ("os", "system"), ("builtins", "eval"), ("builtins", "exec"),
    ("builtins", "__import__"), ("subprocess", "Popen"), ("subprocess", "check_output"),
    ("runpy", "_run_code"), ("pty", "spawn"), ("socket", "socket"), ("shutil", "rmtree"),
    ("pathlib", "Path"), ("operator", "methodcaller"), ("functools", "partial"),
    ("pkgutil", "resolve_name"), ("importlib", "import_module"), ("os", "mkdir"),
    ("numpy._core.multiarray", "_reconstruct"), ("torch", "load"), ("torch.jit", "load"),
)  # fmt: skip


def _malicious(canary: Path) -> list[bytes]:
    """One file a payload: pickles that call, archives and headers that lie."""
    files = []
    for module, name in CALLS:
        protocol2 = (
            b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(X"
            + struct.pack("<I", len(str(canary))) + str(canary).encode() + b"tR."
        )  # fmt: skip
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("archive/data.pkl", protocol2)
            file.writestr("archive/version", "3\n")
        files.append(archive.getvalue())
    files.append(pickle.dumps(_Call(os.mkdir, str(canary))))  # from before torch 1.6
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(1 << 26))
    header = b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32",'
    header += b'"shape":[4],"data_offsets":[8,24]}}'
    files += [
        bomb.getvalue(),
        struct.pack("<Q", 1 << 32) + b'{"' + bytes(64),
        struct.pack("<Q", len(header)) + header + bytes(24),
    ]
    return files


def malicious(folder: Path, count: int) -> Trials:
    """Payloads through --resume, --model and arch.args.pretrained: refused, nothing executed."""
    canary, path, caught = folder / "canary", folder / "evil.pth", []
    cases = [(data, door) for data in _malicious(canary) for door in range(3)]
    armed = [False]

    def watch(event, arguments):
        if armed[0] and (
            event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pty.spawn")
            or event.startswith(("socket.", "shutil.", "os.mkdir", "os.remove"))
        ):
            caught.append(event)

    def judge(case):
        data, door = case
        path.write_bytes(data)
        doors = (
            lambda: train.main(["--resume", str(path)]),
            lambda: inference.main(["-m", str(path), "-i", str(folder / "in"), "-o", "x"]),
            lambda: weights_of("resnet18", str(path)),
        )
        if not watching:
            sys.addaudithook(watch)
            watching.append(True)
        armed[0] = True
        try:
            doors[door]()
        except UserError as error:
            fault = "" if error.exit_code == 4 else f"exit {error.exit_code}"
        else:
            fault = "taken"
        armed[0] = False
        return fault or ("executed" if caught or canary.exists() else "")

    watching: list[bool] = []
    (folder / "in").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "in/a.jpg")
    return _each(folder, cases[:count], judge)


def configs(folder: Path, count: int) -> Trials:
    """Broken copies of the documented config: exit 2, and the place of the fault."""
    cases, path = [], folder / "c.json"
    for seed in range(1, 20):
        cases += mutants(seed) if len(cases) < count else []

    def judge(mutant):
        # In the child; a config that is taken would get so far.
        train._train = train._check_data = lambda *_args, **_options: 0
        path.write_bytes(mutant.content)
        sys.stderr = said = io.StringIO()
        try:
            code = guard(train.main, ["--config", str(path)])
        finally:
            sys.stderr = sys.__stderr__
        if code != 2:
            return f"{mutant.operator}: exit {code}"
        return "" if mutant.path in said.getvalue() else f"{mutant.operator}: {mutant.path} unnamed"

    return _each(folder, cases[:count], judge)


def images(folder: Path, count: int) -> Trials:
    """Images and masks cut or with a byte changed anywhere: read in their size, or DataError."""
    rng = random.Random(4)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3)).astype(np.uint8)
    kinds = {
        "jpg": pixels,
        "png": pixels,
        "tif": pixels,
        "webp": pixels,
        "mask": pixels[..., 0] % 5,
    }
    cases = []
    for number in range(count):
        kind = list(kinds)[number % 5]
        buffer = io.BytesIO()
        names = {"jpg": "JPEG", "tif": "TIFF", "webp": "WEBP"}
        Image.fromarray(kinds[kind]).save(buffer, format=names.get(kind, "PNG"))
        data = bytearray(buffer.getvalue())
        place = rng.randrange(len(data))
        if number % 2:
            del data[place:]
        else:
            data[place] ^= rng.randrange(1, 256)
        cases.append((kind, bytes(data)))

    def judge(case):
        kind, data = case
        path = folder / f"x.{'png' if kind == 'mask' else kind}"
        path.write_bytes(data)
        try:
            found = read_mask(path) if kind == "mask" else read_image(path)
        except DataError as error:
            return "" if path.name in str(error) else "the file is not named"
        return "" if isinstance(found, tuple) or found.ndim in (2, 3) else f"shape {found.shape}"

    return _each(folder, cases, judge)


def users_files(folder: Path, count: int) -> Trials:
    """What is in the way of a result: a file, an empty one, a link, a folder, an edited result."""

    def edited(path):
        assert segment() == 0
        path.write_bytes(path.read_bytes() + b"!")

    def copied(path):
        path.write_bytes((folder / "in/a.jpg").read_bytes())

    makes = {
        "file": copied,
        "empty": Path.touch,
        "link": lambda path: path.symlink_to(folder / "in/a.jpg"),
        "folder": Path.mkdir,
        "edited": edited,
    }
    out = folder / "out"
    flags = ["--overlay", "--save-probs", "-mo", "whole"]

    def segment():
        models.model_from_checkpoint = lambda _content: ColorModel()  # in the child
        return guard(
            inference.main,
            ["-m", str(folder / "m.pth"), "-i", str(folder / "in"), "-o", str(out), *flags],
        )

    names = ("a.png", "a.overlay.jpg", "a.npy", "b.png")
    cases = [(make, name) for make in makes for name in names]

    def judge(case):
        make, name = case
        for path in list(out.iterdir()) if out.exists() else []:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        out.mkdir(exist_ok=True)
        makes[make](out / name)
        before = _snapshot(out)
        code = segment()
        kept = _snapshot(out) == before and _snapshot(folder / "in") == images_before
        return "" if code == 2 and kept else f"{case}: exit {code}, kept {kept}"

    save_checkpoint(folder / "m.pth", ColorModel())
    (folder / "in").mkdir()
    for name in "ab":
        Image.fromarray(picture_of(np.zeros((40, 40), np.uint8))).save(folder / f"in/{name}.jpg")
    images_before = _snapshot(folder / "in")
    return _each(folder, cases[:count], judge)


def _snapshot(folder: Path) -> dict:
    return {
        path.name: path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
        for path in folder.iterdir()
    }

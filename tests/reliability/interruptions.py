"""Kinds of trials that interrupt a run: kills, power loss, signals, disks, workers."""

import errno
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import forks
import torch
from forks import run
from runs import begin, brought_to_its_end, fault_of, resume, run_of, warm, write
from test_resume import contents, differing
from test_run_folder import save

import assembly
import base.base_trainer as base_trainer
import trainer as trainer_module
import utils.run.folder as run_folder
from dataloaders.shapes import Shapes
from utils.errors import DataError
from utils.run import checkpoint, log
from utils.run import resume as resume_module

Trials = Iterator[str]


def _die(*_args, **_options):
    os.kill(os.getpid(), signal.SIGKILL)


def _on_call(place: object, name: str, number: int, act) -> None:
    """Replace what an object calls `name`: the call of this number does something else first."""
    real, calls = getattr(place, name), [0]

    def counted(*args, **options):
        calls[0] += 1
        if calls[0] == number:
            act(*args)
        return real(*args, **options)

    setattr(place, name, counted)


def _planted(work, *plants):
    def planted(arguments):
        for plant in plants:
            _on_call(*plant)
        return work(arguments)

    return planted


def _duration(folder: Path) -> float:
    warm()
    began = time.monotonic()
    assert run(begin(write(folder)), folder / "words").code == 0
    return time.monotonic() - began


def kills_at_random(folder: Path, count: int) -> Trials:
    """SIGKILL at times spread over the whole run."""
    (folder / "whole").mkdir()
    seconds, rng = _duration(folder / "whole"), random.Random(0)
    for number in range(count):
        here = folder / str(number)
        here.mkdir()
        moment = seconds * (number + rng.random()) / count
        run(begin(write(here)), here / "words", send=(moment, signal.SIGKILL))
        yield brought_to_its_end(here)


SAVE_CALLS = ((os, "fsync"), (Path, "replace"), (Path, "unlink"))


def kills_at_save_calls(folder: Path, count: int) -> Trials:
    """SIGKILL before every call with which a save, or the deletion of an old one, changes disks."""
    points = [(place, name, number) for place, name in SAVE_CALLS for number in range(1, 60)]
    done = set()
    for place, name, number in points[:: max(1, 60 // count)] if count < 20 else points:
        if name in done:
            continue
        here = folder / f"{name}{number}"
        here.mkdir()
        ended = run(_planted(begin(write(here)), (place, name, number, _die)), here / "words")
        if ended.code == 0:  # the run has no such call any more
            done.add(name)
            continue
        yield brought_to_its_end(here)


ELSEWHERE = (
    (assembly, "build_loaders", 1), (assembly, "build_model", 1), (run_folder, "create", 1),
    (log, "RunLog", 1), (log, "remove_leftovers", 1), (log, "write_durably", 1),
    (base_trainer.BaseTrainer, "_require_room", 1), (trainer_module.Trainer, "validate", 1),
    (trainer_module.Trainer, "validate", 2), (trainer_module.Validator, "run", 2),
)  # fmt: skip
RESUMED = (
    (resume_module, "check_classes", 1), (run_folder, "find_checkpoint", 1),
    (run_folder, "begin_history", 1), (trainer_module.Trainer, "restore", 1),
    (log.RunLog, "_cut", 1), (log, "remove_leftovers", 1), (log, "write_durably", 1),
    (assembly, "build_model", 1), (trainer_module.Trainer, "validate", 1),
    (Path, "rename", 1), (Path, "rename", 2),
)  # fmt: skip


def kills_elsewhere(folder: Path, count: int) -> Trials:
    """SIGKILL in start-up, in validation, in resuming, in going back to an older checkpoint."""
    points = [(point, False) for point in ELSEWHERE] + [(point, True) for point in RESUMED]
    for number, ((place, name, call), twice) in enumerate(points[:count]):
        here = folder / str(number)
        here.mkdir()
        work = begin(write(here))
        if twice:
            run(
                _planted(work, (trainer_module.Trainer, "train_iteration", 4, _die)), here / "words"
            )
            back = name == "rename"
            work = resume(run_of(here) / ("checkpoint-epoch1.pth" if back else ""))
        run(_planted(work, (place, name, call, _die)), here / "words")
        yield brought_to_its_end(here)


def power_losses(folder: Path, count: int) -> Trials:
    """What a disk may hold when the power goes, built from the recorded order of calls.

    Data that no fsync has followed may be there, empty, cut or zeros; a rename that no fsync of the
    folder has followed may not have happened. A save that has returned must be found again.
    """
    live, seen = folder / "live", []
    live.mkdir()
    real = {"fsync": os.fsync, "replace": Path.replace}

    def fsync(handle):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        seen.append(("fsync", path, path.read_bytes() if path.is_file() else b""))
        real["fsync"](handle)

    def replace(path, target):
        seen.append(("replace", path, target))
        return real["replace"](path, target)

    os.fsync, Path.replace = fsync, replace
    try:
        for step in range(1, 4):
            for name in ("last.pth", f"checkpoint-epoch{step}.pth"):
                save(live / name, step)
                seen.append(("returned", step, None))
    finally:
        os.fsync, Path.replace = real["fsync"], real["replace"]
    states = list(_states(seen))
    for number, (files, returned) in enumerate(states[:count]):
        here = folder / str(number)
        here.mkdir()
        for name, data in files.items():
            (here / name).write_bytes(data)
        try:
            step = run_folder.find_checkpoint(here)[1]["step"] if files else 0
        except checkpoint.CheckpointError as error:
            step = 0 if not returned else str(error)
        yield "" if isinstance(step, int) and step >= returned else f"{step} after {returned}"


def _states(seen) -> Iterator[tuple[dict[str, bytes], int]]:
    durable: dict[str, bytes] = {}
    pending: list[tuple[str, bytes | None]] = []  # renames that the folder may not know yet
    synced: dict[Path, bytes] = {}
    returned = 0
    for kind, first, second in seen:
        if kind == "fsync" and second:
            for data in (b"", second[: len(second) // 2], bytes(len(second))):
                yield {**durable, f"{first.name}": data}, returned
            synced[first] = second
        elif kind == "replace":
            whole = synced.get(first)
            pending.append((second.name, whole))
            if whole is None:  # renamed before its data were durable: any prefix is possible
                for data in (b"", b"PK"):
                    yield {**durable, second.name: data}, returned
        elif kind == "fsync":
            for done in range(len(pending) + 1):
                yield {**durable, **{n: d or b"" for n, d in pending[:done]}}, returned
            durable |= {name: data or b"" for name, data in pending}
            pending.clear()
        else:
            returned = first
            for done in range(len(pending) + 1):
                yield {**durable, **{n: d or b"" for n, d in pending[:done]}}, returned


def signals(folder: Path, count: int) -> Trials:
    """SIGTERM, Ctrl-C, SIGHUP at times spread over the whole run; every second has a worker."""
    (folder / "whole").mkdir()
    seconds, rng = _duration(folder / "whole"), random.Random(1)
    codes = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
    for number in range(count):
        here = folder / str(number)
        here.mkdir()
        sent = list(codes)[number % 3]
        work = begin(write(here, train_loader={"num_workers": number % 2}))
        moment = seconds * (number + rng.random()) / count
        ended = run(work, here / "words", send=(moment, sent))
        right = ended.code in (codes[sent], -sent, 0)  # -sent: before there was a run to save
        saved = ended.code != codes[sent] or "saved" in ended.words or "interrupted" in ended.words
        fault = ended.fault or ("" if right and saved else f"exit {ended.code}")
        yield fault or brought_to_its_end(here)


def storage(folder: Path, count: int) -> Trials:
    """A disk that is full, fails or goes away, at one save after the other."""

    def fails(number):
        def act(*_):
            raise OSError(number, os.strerror(number))

        return act

    def limited(*_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    numbers = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
    plants = [(os, "fsync", call, fails(numbers[call % 3])) for call in range(2, 17, 2)]
    plants += [(Path, "replace", call, fails(errno.ENOSPC)) for call in range(2, 12, 2)]
    plants += [(trainer_module.Trainer, "train_iteration", call, limited) for call in (1, 2, 3, 4)]
    plants += [
        (trainer_module.Trainer, "train_iteration", call, lambda self, *_: _vanish(self))
        for call in (2, 3, 4)
    ]
    for number, plant in enumerate(plants[:count]):
        here = folder / str(number)
        here.mkdir()
        ended = run(_planted(begin(write(here)), plant), here / "words")
        fault = ended.fault or ("" if ended.code == 6 else f"exit {ended.code}")
        saved = list(here.glob("*/*/*/*.pth"))
        fault = fault or (
            "no way to go on is said" if saved and "--resume" not in ended.words else ""
        )
        if (moved := here / "moved").exists():  # the disk is back
            shutil.rmtree(run_of(here), ignore_errors=True)
            moved.rename(here / "saved")
        yield fault or brought_to_its_end(here)


def _vanish(trainer) -> None:
    saved = trainer.run.folder.parent.parent
    saved.rename(saved.parent / "moved")


def workers(folder: Path, count: int) -> Trials:
    """A worker that is killed, crashes, leaves, raises or hangs, at one image after the other."""
    acts = {
        "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), 6),
        "segfault": (lambda: os.kill(os.getpid(), signal.SIGSEGV), 6),
        "bus error": (lambda: os.kill(os.getpid(), signal.SIGBUS), 6),
        "exit": (lambda: os._exit(3), 6),
        "hangs": (lambda: time.sleep(1000), 6),
        "no shared memory": (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16)), 6),
        "data": (_no_data, 3),
    }
    cases = [(name, image) for image in (3, 8) for name in acts]
    for number, (name, image) in enumerate(cases[:count]):
        here = folder / str(number)
        here.mkdir()
        act, code = acts[name]

        def work(arguments, here=here, act=act, image=image):
            _on_call(Shapes, "load", image + 2, lambda *_: _in_worker(act))
            loader = {"num_workers": 1, "timeout": 2}
            return begin(write(here, train_loader=loader))(arguments)

        ended = run(work, here / "words")
        fault = ended.fault or ("" if ended.code == code else f"{name}: exit {ended.code}")
        yield fault or brought_to_its_end(here)


def _in_worker(act) -> None:
    if torch.utils.data.get_worker_info() is not None:
        act()


def _no_data():
    raise DataError("image: broken")


def two_processes(folder: Path, count: int) -> Trials:
    """Two processes: each killed at each iteration and both resumed; 2 to 1 and 1 to 2."""
    whole = folder / "whole"
    whole.mkdir()
    fault = _pair(begin(write(whole)), whole)
    expected = contents(run_of(whole))
    cases = [(rank, call) for call in range(1, 5) for rank in (0, 1)] * 3
    for number, (rank, call) in enumerate(cases[: max(0, count - 2)]):
        here = folder / str(number)
        here.mkdir()
        plant = (trainer_module.Trainer, "train_iteration", call, _die)
        _pair(begin(write(here)), here, killed=(rank, plant))
        place = run_of(here)
        saved = place is not None and any(place.glob("*.pth"))
        if place is not None and not saved:
            shutil.rmtree(place)
        second = _pair(resume(place) if saved else begin(here / "config.json"), here)
        yield (
            fault
            or second
            or ", ".join(forks_differ for forks_differ in _different(run_of(here), expected))
        )
    for number, first in enumerate((2, 1)):
        here = folder / f"change{number}"
        here.mkdir()
        plant = (trainer_module.Trainer, "train_iteration", 3, _die)
        if first == 2:
            _pair(begin(write(here)), here, killed=(0, plant))
            ended = run(resume(run_of(here)), here / "words")
            yield ended.fault or ("" if ended.code == 0 else f"exit {ended.code}")
        else:
            run(_planted(begin(write(here)), plant), here / "words")
            yield _pair(resume(run_of(here)), here)


def _different(place: Path, expected: dict) -> list[str]:
    return differing(contents(place), expected)[:3]


def _pair(work, folder: Path, *, killed=None) -> str:
    """Run a command in two processes; "" when both ended well, or as they should beside a kill."""
    port = str(random.SystemRandom().randint(20000, 60000))
    words = [folder / f"words{rank}" for rank in (0, 1)]
    children = []
    for rank in (0, 1):
        words[rank].unlink(missing_ok=True)
        env = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        planted = _planted(work, killed[1]) if killed and killed[0] == rank else work
        children.append(forks.start(planted, words[rank], env))
    ended = [forks.wait(child, one) for child, one in zip(children, words, strict=True)]
    if fault := next((one.fault for one in ended if one.fault), ""):
        return fault
    codes = [one.code for one in ended]
    if killed is None:
        return "" if codes == [0, 0] else f"exits {codes}: {ended[0].words[-200:]}"
    return "" if codes[killed[0]] == -9 and codes[1 - killed[0]] == 6 else f"exits {codes}"


def reproductions(folder: Path, count: int) -> Trials:
    """The same run again, with other workers, from other places, resumed at every iteration."""
    cases = [("plain", {})] * 3
    cases += [("workers", {"train_loader": {"num_workers": number}}) for number in (1, 2, 3, 1, 2)]
    cases += [("cwd", {})] * 2 + [("seed", {"seed": 1})] * 2
    cases += [(f"iter{step}", {}) for step in (1, 2, 3, 4) for _ in (0, 1)]
    for number, (name, changes) in enumerate(cases[:count]):
        here = folder / str(number)
        here.mkdir()
        work = begin(write(here, **changes))
        if name == "cwd":
            work = _from(here, work)
        if name.startswith("iter"):
            call = int(name[4:])
            run(_planted(work, (trainer_module.Trainer, "train_iteration", call + 1, _die)),
                here / "words")  # fmt: skip
            yield brought_to_its_end(here)
            continue
        fault = fault_of(here, run(work, here / "words"))
        yield ("" if fault else "another seed, the same run") if name == "seed" else fault


def _from(place: Path, work):
    def moved(arguments):
        os.chdir(place)
        return work(arguments)

    return moved

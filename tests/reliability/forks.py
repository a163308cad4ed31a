"""A trial is a forked child: torch is imported once, whatever the child does ends with it."""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.errors import guard


class Ended(NamedTuple):
    """How a child ended.

    Attributes:
        code: Its exit code; minus the signal that killed it, as subprocess has it.
        words: What it printed.
        fault: What no child may do, or "".
    """

    code: int
    words: str
    fault: str


def start(work: Callable[[Sequence[str]], int], words: Path, env: dict[str, str]) -> int:
    """Fork a child that runs a command, in a process group of its own; its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        os.environ.update(env)
        handle = os.open(words, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = guard(work, [])
    except BaseException:  # noqa: BLE001  whatever it is, it is the trial's fault
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child: int, words: Path, *, limit: float = 120.0) -> Ended:
    """Wait for a child and for all that it started."""
    deadline = time.monotonic() + limit
    done, status = 0, 0
    while not done and time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.005)
    fault = "" if done else "hangs"
    if not done:
        os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    deadline = time.monotonic() + 10
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    if _alive(child):
        fault = fault or "left processes behind"
        os.killpg(child, signal.SIGKILL)
    text = words.read_text(errors="replace") if words.exists() else ""
    if "Traceback" in text:
        fault = fault or "traceback: " + text.strip().splitlines()[-1]
    return Ended(os.waitstatus_to_exitcode(status), text, fault)


def run(
    work: Callable[[Sequence[str]], int],
    words: Path,
    *,
    send: tuple[float, int] | None = None,
    limit: float = 120.0,
) -> Ended:
    """Run a child to its end, or send it a signal after so many seconds."""
    words.unlink(missing_ok=True)
    child = start(work, words, {})
    if send is not None:
        time.sleep(send[0])
        os.kill(child, send[1])  # not reaped yet, so it is still this child's number
    return wait(child, words, limit=limit)


def _alive(group: int) -> bool:
    """Whether a process of a group runs; what init has not reaped yet does not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            return True
    return False

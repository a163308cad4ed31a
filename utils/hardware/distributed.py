"""Processes: who starts them, who is first, what they agree on.

Everything works in one process, where each function is the identity. Several are started by
`torchrun`, by SLURM's `srun`, or by `launch` below; the environment says so.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import ResourceError, UserError

Value = TypeVar("Value")
TIMEOUT = timedelta(seconds=300)
_PATIENCE = timedelta(days=30)  # while one works for all; if it dies, the others notice at once


def rank() -> int:
    """This process's number, 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes, 1 in a single process."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """This process's number on its machine: which GPU it uses."""
    _adopt_slurm()
    return int(os.environ.get("LOCAL_RANK", "0"))


def environment_rank() -> int:
    """This process's number as its launcher gave it, known before the processes have met."""
    _adopt_slurm()
    return int(os.environ.get("RANK", "0"))


def started_by_launcher() -> bool:
    """Whether torchrun, `launch` or srun started this process, alone or as one of several."""
    _adopt_slurm()
    return "WORLD_SIZE" in os.environ


@contextmanager
def process_group(device_type: str) -> Iterator[None]:
    """Join the other processes that the environment names, if any, for the life of the block.

    Args:
        device_type: "cuda": tensors on a GPU travel over NCCL (Windows has none). Those on the CPU,
            such as the stop flags that the hosts agree on, travel over gloo, never wait for it.

    Raises:
        ResourceError: The others did not come, or one of them died.
    """
    if not started_by_launcher() or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" and dist.is_nccl_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
        yield
    except (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError) as error:
        raise _lost(error) from error
    except RuntimeError as error:
        if "gloo" not in str(error) and "closed by peer" not in str(error):
            raise
        raise _lost(error) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def sum_over_processes(values: Tensor) -> Tensor:
    """The element-wise sum over all processes, in place; exact for integers."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def sum_of_numbers(number: float) -> float:
    """The sum of the hosts' numbers, in float64."""
    if world_size() == 1:
        return number
    return float(sum_over_processes(torch.tensor(number, dtype=torch.float64)))


def agree(number: int) -> int:
    """The largest of the hosts' numbers."""
    if world_size() == 1:
        return number
    largest = torch.tensor(number)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def collect(value: Value) -> list[Value]:
    """What every process passed in, in the order of ranks, in every process.

    For small things that the hosts know; they travel pickled over the CPU.
    """
    if world_size() == 1:
        return [value]
    values: list[Value | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values  # pyrefly: ignore[bad-return]


def by_first(work: Callable[[], Value]) -> Value:
    """What `work` gives in the first process, or the UserError that it raises, in all of them.

    The others wait as long as it takes.
    """
    if world_size() == 1:
        return work()
    waiting = dist.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        outcome: list[Any] = [work() if rank() == 0 else None]
    except UserError as error:
        outcome = [error]
    dist.broadcast_object_list(outcome, src=0, group=waiting)  # pyrefly: ignore[bad-argument-type]
    dist.destroy_process_group(waiting)
    if isinstance(outcome[0], UserError):
        raise outcome[0]
    return outcome[0]


def from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite the tensors by those of the first process."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def launch(program: Sequence[str], *, processes: int) -> int:
    """Run a program of ours in several processes on this machine and wait for them.

    Args:
        program: Python's command line: a script, or -m and a module, and what either is given.
        processes: How many.

    Returns:
        0, or the exit code of the process that failed first. When one fails the others are ended.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The process that failed says why; torch's own lines would only bury it.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="local",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        with _handlers_given_back():
            elastic_launch(config, sys.executable)("-u", *program)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException as error:
        return 128 + error.sigval
    return 0


@contextmanager
def _handlers_given_back() -> Iterator[None]:
    """Undo what torch's launcher leaves: processes forked later would not end by SIGTERM."""
    names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _adopt_slurm() -> None:
    """Translate srun's variables; a batch script's own shell has no SLURM_STEP_NUM_TASKS."""
    env = os.environ
    if "WORLD_SIZE" in env or int(env.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return
    env["WORLD_SIZE"] = env["SLURM_STEP_NUM_TASKS"]
    env["RANK"] = env["SLURM_PROCID"]
    env["LOCAL_RANK"] = env["SLURM_LOCALID"]
    env.setdefault("MASTER_ADDR", _first_host(env["SLURM_STEP_NODELIST"]))
    # A port of the job's own: two jobs on a node must not meet.
    env.setdefault("MASTER_PORT", str(15000 + int(env["SLURM_JOB_ID"]) % 20000))


def _first_host(nodes: str) -> str:
    if "[" not in nodes:
        return nodes.split(",")[0]
    command = ["scontrol", "show", "hostnames", nodes]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]  # noqa: S603


def _lost(error: Exception) -> ResourceError:
    return ResourceError(
        f"lost contact with the other processes: {str(error).splitlines()[0]}\n"
        "  one of them died or never started; its own message is above\n"
        "  what was saved is sound: go on with --resume"
    )

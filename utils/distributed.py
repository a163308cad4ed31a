"""Ranks and sums. Everything works in one process, where each function is the identity."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(seconds=300)


def rank() -> int:
    """This process's number, 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes, 1 in a single process."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_processes(values: Tensor) -> Tensor:
    """The element-wise sum over all processes, in place; exact for integers."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def agree(number: int) -> int:
    """The largest of the processes' numbers; travels over the CPU, never through the device."""
    if world_size() == 1:
        return number
    largest = torch.tensor(number)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=_cpu_group())
    return int(largest)

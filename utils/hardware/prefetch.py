"""Batches on their way to the device: asynchronous, and on CUDA one ahead of the computation."""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

B = TypeVar("B", bound=NamedTuple)


def on_device(batches: Iterable[B], device: torch.device) -> Iterator[B]:
    """Move the tensors of each batch, in the dtype that they have.

    Args:
        batches: Named tuples of tensors (and other values, which stay as they are).
        device: The target.

    Yields:
        The same batches on `device`.
    """
    if device.type != "cuda":
        for batch in batches:
            yield _moved(batch, device)
        return
    # A stream of its own: the copy of the next batch runs beside the kernels of this one.
    stream = torch.cuda.Stream(device)
    ahead = None
    for batch in batches:
        with torch.cuda.stream(stream):
            arriving = _moved(batch, device)
        if ahead is not None:
            yield ahead
        torch.cuda.current_stream(device).wait_stream(stream)
        for value in arriving:
            if isinstance(value, Tensor):
                value.record_stream(torch.cuda.current_stream(device))
        ahead = arriving
    if ahead is not None:
        yield ahead


def grouped(batches: Iterable[B], size: int) -> Iterator[list[B]]:
    """Yield lists of `size` batches; the last one may be shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group


def _moved(batch: B, device: torch.device) -> B:
    return type(batch)(
        *(
            value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for value in batch
        )
    )

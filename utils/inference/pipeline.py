"""Reading, computing and writing at the same time, with bounded memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import TypeVar

from utils.errors import UserError

Item = TypeVar("Item")
Read = TypeVar("Read")
Result = TypeVar("Result")

_AHEAD = 4  # images decoded beyond the present one, and results waiting to be written


def overlapped(
    items: Iterable[Item],
    *,
    read: Callable[[Item], Read],
    compute: Callable[[Item, Read], Result],
    write: Callable[[Item, Result], object],
) -> Iterator[tuple[Item, UserError | None]]:
    """Read ahead in one thread, compute in the caller's, write behind in another.

    Args:
        items: What to work on, in order.
        read: Runs in a thread of its own, up to four items ahead.
        compute: Runs in the caller's thread.
        write: Runs in a thread of its own, up to four results behind.

    Yields:
        Every item in order once it is written, with the user's mistake that kept it from being
        read or computed, if any. Other exceptions, and all from `write`, end the whole.
    """
    with ThreadPoolExecutor(1) as writer, closing(ahead(read, items, count=_AHEAD)) as reads:
        writes: deque[tuple[Item, Future[object] | UserError]] = deque()
        for item, future in reads:
            try:
                result = compute(item, future.result())
                writes.append((item, writer.submit(write, item, result)))
            except UserError as error:
                writes.append((item, error))
            while len(writes) > _AHEAD:
                yield _finished(*writes.popleft())
        while writes:
            yield _finished(*writes.popleft())


def ahead(
    read: Callable[[Item], Read], items: Iterable[Item], *, count: int
) -> Generator[tuple[Item, Future[Read]], None, None]:
    """Read in a thread, up to `count` items before they are asked for; close it to end early."""
    waiting = iter(items)
    with ThreadPoolExecutor(1) as reader:
        reads = deque((item, reader.submit(read, item)) for item in islice(waiting, count))
        try:
            while reads:
                ready = reads.popleft()
                reads.extend((item, reader.submit(read, item)) for item in islice(waiting, 1))
                yield ready
        finally:
            for _, future in reads:
                future.cancel()


def _finished(item: Item, outcome: Future[object] | UserError) -> tuple[Item, UserError | None]:
    if isinstance(outcome, UserError):
        return item, outcome
    outcome.result()
    return item, None

"""Where the time goes: images a second, and the share spent waiting for data."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Counts images and waiting since the last reading."""

    def __init__(self) -> None:
        self._restart()

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Hand the batches on and count the time until each arrives."""
        iterator = iter(batches)
        self._restart()
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - asked
            yield batch

    def count(self, images: int) -> None:
        """So many images were worked on."""
        self._images += images

    def read(self) -> tuple[float, float]:
        """Images a second and the waiting share in [0, 1] since the last call."""
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        speed, share = self._images / elapsed, min(1.0, self._waited / elapsed)
        self._restart()
        return speed, share

    def _restart(self) -> None:
        self._started = time.perf_counter()
        self._waited = 0.0
        self._images = 0

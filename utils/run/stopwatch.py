"""Where the time goes: images a second, waiting for data, and the phases of an iteration."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch

from utils.drawing.text import duration
from utils.hardware.workers import usable_cores

T = TypeVar("T")

log = logging.getLogger("segmentation")

Instant = float | torch.cuda.Event
PHASES = ("data", "forward", "backward", "optimizer", "rest")
_MUCH = 0.2  # of the time; below it faster loading gains little


class Stopwatch:
    """Counts images and waiting, since the last reading and since the epoch began."""

    def __init__(self) -> None:
        self._restart()

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Hand the batches of an epoch on and count the time until each arrives."""
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
        """Add to the images that the epoch's speed is computed from."""
        self._images += images

    def read(self, *, epoch: bool = False) -> tuple[float, float]:
        """Images a second and the waiting share in [0, 1]: of the epoch, or since the last call."""
        now = (time.perf_counter(), self._waited, self._images)
        before, self._last = self._first if epoch else self._last, now
        seconds, waited, images = (new - old for old, new in zip(before, now, strict=True))
        seconds = max(seconds, 1e-9)
        return images / seconds, min(1.0, waited / seconds)

    def _restart(self) -> None:
        self._waited, self._images = 0.0, 0
        self._first = self._last = (time.perf_counter(), 0.0, 0)


class LoaderWarning:
    """Says once that training waits for its data, with the config line to change.

    Args:
        num_workers: `train_loader.args.num_workers`.
        shown: False in all processes but the first.
    """

    def __init__(self, num_workers: int, *, shown: bool) -> None:
        self.num_workers = num_workers
        self._silent = not shown
        self._readings = 0

    def look(self, share: float) -> None:
        """Take the waiting share since the last log line."""
        self._readings += 1
        # The first reading holds the start of the workers.
        if self._silent or self._readings == 1 or share < _MUCH:
            return
        self._silent = True
        cores = usable_cores()
        more = min(2 * self.num_workers or 2, cores)
        fix = (
            f"--set train_loader.args.num_workers={more} (now {self.num_workers})"
            if more > self.num_workers
            else f"all {cores} cores load already (train_loader.args.num_workers="
            f"{self.num_workers}): store smaller images, near the size that the crop needs"
        )
        log.warning(
            "the loader is the bottleneck: %.0f %% of the time is waiting for data; %s",
            100 * share,
            fix,
        )


class Forecast:
    """How much longer a run goes on, by its pace since the first look.

    Args:
        steps: Iterations of the whole run.
        shown: False in all processes but the first, which says the expected time once.
    """

    def __init__(self, steps: int, *, shown: bool) -> None:
        self._steps = steps
        self._silent = not shown
        self._first: tuple[float, int] | None = None

    def left(self, step: int) -> str:
        """The time left after `step` iterations, such as "1h05m"; "" while nothing is known."""
        now = time.perf_counter()
        if self._first is None:  # what came before was starting workers and choosing kernels
            self._first = now, step
        if step in (self._first[1], self._steps):
            return ""
        seconds = (now - self._first[0]) / (step - self._first[1]) * (self._steps - step)
        if not self._silent:
            self._silent = True
            log.info("expected    about %s to go", duration(seconds))
        return duration(seconds)


class Phases:
    """Adds up the time of an iteration's parts.

    On CUDA a time is an event in the stream of kernels, so that measuring waits for nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._spans: list[tuple[str, Instant, Instant]] = []

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """What is done inside is the phase `name`, or the whole "iteration" around its phases."""
        before = self._now()
        yield
        self._spans.append((name, before, self._now()))

    def reset(self) -> None:
        """Forget everything so far."""
        self._spans = []

    def seconds(self) -> Mapping[str, float]:
        """The time of each of PHASES so far; waits for the device."""
        if self._on_cuda:
            torch.cuda.synchronize()
        sums = dict.fromkeys(("iteration", *PHASES), 0.0)
        for name, before, after in self._spans:
            sums[name] += _between(before, after)
        whole = sums.pop("iteration")
        return sums | {"rest": whole - sum(sums.values())}

    def _now(self) -> Instant:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(before: Instant, after: Instant) -> float:
    if isinstance(before, float) and isinstance(after, float):
        return after - before
    assert isinstance(before, torch.cuda.Event)
    assert isinstance(after, torch.cuda.Event)
    return before.elapsed_time(after) / 1000


def report(seconds: Mapping[str, float], *, iterations: int, images: int, peak: int) -> list[str]:
    """The lines of `train.py --benchmark`.

    Args:
        seconds: Time of each phase over all iterations.
        iterations: How many.
        images: Images in them, all processes together.
        peak: Bytes of memory; 0: unknown, there is no line.
    """
    whole = sum(seconds.values())
    lines = [
        f"{'images/s':<12}{images / whole:10.1f}",
        f"{'ms':<12}{1000 * whole / iterations:10.1f}   an iteration",
    ]
    for name in PHASES:
        share = seconds[name] / whole
        lines.append(f"  {name:<10}{1000 * seconds[name] / iterations:10.1f}   {share:.0%}")
    lines.append(f"{'waiting':<12}{seconds['data'] / whole:10.0%}   of the time, for data")
    return [*lines, f"{'peak memory':<12}{peak / 2**20:10.0f}   MiB"] if peak else lines

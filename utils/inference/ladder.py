"""What is done when memory runs out: the same work in smaller pieces, which keeps the result.

Fewer images a call, then windows, then smaller windows, then the same with the sums kept on the
host. Each step is said once and stays for the images that follow.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from utils.errors import ResourceError
from utils.hardware.memory import ran_out
from utils.inference.prediction import ToLogits

T = TypeVar("T")
_SMALLEST_WINDOW = 128


class Rung(NamedTuple):
    """One step of the ladder: the window (None: whole images) and where sums are kept."""

    window: int | None
    on_host: bool


class Ladder:
    """Steps down from `window` when memory runs out.

    Args:
        window: Side of the windows that were asked for; None: whole images.
        tile: Side of the first windows where none is asked for.
        say: Told once about every step down.

    Attributes:
        rung: Where it stands.
    """

    def __init__(self, window: int | None, tile: int, *, say: Callable[[str], None]) -> None:
        self._say = say
        self._rungs = _rungs(window, tile)
        self.rung = next(self._rungs)

    def within_memory(self, work: Callable[[], T], size: tuple[int, int]) -> T:
        """Do `work`, which looks at `rung`, again on every lower rung while memory runs out.

        Args:
            work: What to do.
            size: (height, width) of the image, for the message.

        Raises:
            ResourceError: Out of memory on the lowest rung.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
            # Outside the except block: the traceback would keep the tensors of the failed try.
            self._step_down(size)

    def _step_down(self, size: tuple[int, int]) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        rung = next(self._rungs, None)
        if rung is None:
            raise ResourceError(
                f"out of memory on an image of {size[1]} x {size[0]} pixels, even with windows of "
                f"{self.rung.window} pixels, one at a time, and sums on the host\n"
                "  fix: --device cpu, fewer --scales, or cut the image into smaller ones"
            )
        self.rung = rung
        where = ", sums kept on the host" if rung.on_host else ""
        self._say(f"out of memory: from here on windows of {rung.window} pixels{where}")


def _rungs(window: int | None, tile: int) -> Iterator[Rung]:
    """From what was asked down to the smallest pieces; sums move to the host last."""
    if window is None:
        yield Rung(None, on_host=False)
    for on_host in (False, True):
        # What did not fit may be the sums: on the host the full window, which sees most, again.
        side = window or tile
        yield Rung(side, on_host)
        while side // 2 >= _SMALLEST_WINDOW:
            side //= 2
            yield Rung(side, on_host)


class SmallerBatches:
    """A model that halves its batch when memory runs out, and remembers how much fits.

    Args:
        model: Maps images (N, C, H, W) to logits (N, K, H, W).
        say: Told once about every halving.
    """

    def __init__(self, model: ToLogits, *, say: Callable[[str], None]) -> None:
        self._model = model
        self._say = say
        self._limit: int | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of all images, in as many calls as it takes."""
        while True:
            size = min(self._limit or len(images), len(images))
            try:
                if size == len(images):
                    return self._model(images)
                return torch.cat([self._model(part) for part in images.split(size)])
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not ran_out(error):
                    raise
            self._limit = size // 2
            self._say(f"out of memory: from here on {self._limit} image(s) a call of the model")

"""One image in, one mask out, within whatever memory the device has.

When memory runs out the work is done in smaller pieces, in an order that keeps the result: fewer
images a call, then windows, then smaller windows, then the same with the sums kept on the host.
Each step is said once and stays for the images that follow.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from utils.errors import ResourceError
from utils.hardware.memory import ran_out
from utils.inference.prediction import (
    OVERLAP,
    SCALES,
    WINDOW,
    Model,
    mirrored,
    multiscale,
    sliding,
    whole,
)
from utils.inference.tiles import Blend, Grid, grid

T = TypeVar("T")
Mode = Literal["multiscale", "sliding", "whole"]
_SMALLEST_WINDOW = 128


@dataclass(frozen=True)
class Settings:
    """How images are predicted.

    Attributes:
        mode: "whole", "multiscale", or "sliding".
        scales: Factors on the size; None: the default scales, in sliding mode 1 alone.
        flip: Average with the prediction of the mirror image.
        window: Side of the windows; None: whole images (`tile` in sliding mode).
        tile: Side of the windows where none is asked for and images do not fit whole.
        overlap: Share of a window that its neighbor covers too, in [0, 1).
        blend: Shape of a window's weights.
        batch_size: Windows a call of the model.
    """

    mode: Mode = "multiscale"
    scales: tuple[float, ...] | None = None
    flip: bool = False
    window: int | None = None
    tile: int = WINDOW
    overlap: float = OVERLAP
    blend: Blend = "hann"
    batch_size: int = 4

    @property
    def used_scales(self) -> tuple[float, ...]:
        """The scales after defaults."""
        if self.mode == "whole":
            return (1.0,)
        return self.scales or (SCALES if self.mode == "multiscale" else (1.0,))

    @property
    def used_window(self) -> int | None:
        """The window after defaults."""
        return self.window or (self.tile if self.mode == "sliding" else None)


class Rung(NamedTuple):
    """One step of the memory ladder: the window (None: whole images) and where sums are kept."""

    window: int | None
    on_host: bool


class Segmented(NamedTuple):
    """What is known about one image."""

    mask: Tensor  # (H, W) int64 class ids on the host
    probabilities: Tensor | None  # (K, H, W) float32 on the host


class Predictor:
    """Predicts images under `settings` and steps down the ladder when memory runs out.

    Args:
        model: Maps normalized images (N, C, H, W) to logits (N, K, H, W).
        settings: How to predict.
        say: Told once about every step down.
    """

    def __init__(self, model: Model, settings: Settings, *, say: Callable[[str], None]) -> None:
        self.settings = settings
        self._say = say
        self._batches = SmallerBatches(model, say=say)
        self.model: Model = mirrored(self._batches) if settings.flip else self._batches
        self._ladder = _rungs(settings)
        self.rung = next(self._ladder)

    def segment(self, images: Tensor, *, probabilities: bool = False) -> Segmented:
        """Class ids, and on request probabilities, of one image (1, C, H, W).

        Raises:
            ResourceError: Even the smallest pieces do not fit.
        """

        def work() -> Segmented:
            logits = self.logits(images)
            mask = class_ids(logits)[0].cpu()
            return Segmented(mask, logits.softmax(1)[0].cpu() if probabilities else None)

        return self.within_memory(work, tuple(images.shape[-2:]))

    def logits(self, images: Tensor) -> Tensor:
        """float32 logits (N, K, H, W) by the present rung; memory may run out."""
        window = self.rung.window
        predict: Callable[[Model, Tensor], Tensor] = whole
        if window is not None:
            predict = partial(
                sliding,
                window=window,
                overlap=self.settings.overlap,
                blend=self.settings.blend,
                batch_size=self.settings.batch_size,
                store=self.store,
            )
        scales = self.settings.used_scales
        if scales == (1.0,):
            return predict(self.model, images)
        return multiscale(self.model, images, scales=scales, predict=predict, store=self.store)

    def windows(self, images: Tensor) -> Tensor:
        """float32 logits of windows cut from an image that is not at hand whole."""
        if self.settings.used_scales == (1.0,):
            return whole(self.model, images)
        return multiscale(self.model, images, scales=self.settings.used_scales)

    def grid(self, size: tuple[int, int]) -> Grid:
        """The windows of an image (height, width) that is not at hand whole."""
        settings = self.settings
        window = self.rung.window or settings.tile
        return grid(size, window=window, overlap=settings.overlap, blend=settings.blend)

    @property
    def store(self) -> torch.device | None:
        """Where sums are kept by the present rung; None: where the logits are."""
        return torch.device("cpu") if self.rung.on_host else None

    def within_memory(self, work: Callable[[], T], size: tuple[int, ...]) -> T:
        """Do `work`, again on every lower rung while memory runs out.

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

    def _step_down(self, size: tuple[int, ...]) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        rung = next(self._ladder, None)
        if rung is None:
            raise ResourceError(
                f"out of memory on an image of {size[1]} x {size[0]} pixels, even with windows of "
                f"{self.rung.window} pixels, one at a time, and sums on the host\n"
                "  fix: --device cpu, fewer --scales, or cut the image into smaller ones"
            )
        self.rung = rung
        where = ", sums kept on the host" if rung.on_host else ""
        self._say(f"out of memory: from here on windows of {rung.window} pixels{where}")


def class_ids(logits: Tensor) -> Tensor:
    """The likeliest class of each pixel: int64 (N, H, W) of (N, K, H, W), the first of equals.

    On a CPU `argmax` over the channels takes four to nine times as long as `max`.
    """
    return logits.max(1).indices


def _rungs(settings: Settings) -> Iterator[Rung]:
    """From what was asked down to the smallest pieces; sums move to the host last."""
    if settings.used_window is None:
        yield Rung(None, on_host=False)
    first = settings.used_window or settings.tile
    for on_host in (False, True):
        # What did not fit may be the sums: on the host the full window, which sees most, again.
        yield Rung(first, on_host)
        yield from (Rung(window, on_host) for window in _smaller(first))


def _smaller(window: int) -> Iterator[int]:
    while window // 2 >= _SMALLEST_WINDOW:
        window //= 2
        yield window


class SmallerBatches:
    """A model that halves its batch when memory runs out, and remembers how much fits.

    Args:
        model: Maps images (N, C, H, W) to logits (N, K, H, W).
        say: Told once about every halving.
    """

    def __init__(self, model: Model, *, say: Callable[[str], None]) -> None:
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

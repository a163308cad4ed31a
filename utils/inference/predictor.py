"""What is computed of images at hand: scales, windows and the mirror image, as settings say."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from utils.inference.ladder import Ladder, SmallerBatches
from utils.inference.prediction import (
    OVERLAP,
    SCALES,
    WINDOW,
    ToLogits,
    mirrored,
    multiscale,
    sliding,
    whole,
)
from utils.inference.tiles import Blend, Grid, grid

Mode = Literal["multiscale", "sliding", "whole"]


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


class Predictor:
    """A model under `settings`, in pieces as small as the rung of its ladder says.

    Args:
        model: Maps images (N, C, H, W) to logits (N, K, H, W).
        settings: How to predict.
        say: Told once about every step down the ladder.
    """

    def __init__(self, model: ToLogits, settings: Settings, *, say: Callable[[str], None]) -> None:
        self.settings = settings
        self.ladder = Ladder(settings.used_window, settings.tile, say=say)
        self.model: ToLogits = SmallerBatches(model, say=say)
        if settings.flip:
            self.model = mirrored(self.model)

    def logits(self, images: Tensor) -> Tensor:
        """float32 logits (N, K, H, W) of images; memory may run out."""
        settings, window = self.settings, self.ladder.rung.window
        predict: Callable[[ToLogits, Tensor], Tensor] = whole
        if window is not None:
            predict = partial(
                sliding,
                window=window,
                overlap=settings.overlap,
                blend=settings.blend,
                batch_size=settings.batch_size,
                store=self.store,
            )
        return self._scaled(images, predict, self.store)

    def windows(self, images: Tensor) -> Tensor:
        """float32 logits of windows cut from an image whose logits do not fit."""
        return self._scaled(images, whole, None)

    def _scaled(
        self,
        images: Tensor,
        predict: Callable[[ToLogits, Tensor], Tensor],
        store: torch.device | None,
    ) -> Tensor:
        scales = self.settings.used_scales
        if scales == (1.0,):
            return predict(self.model, images)
        return multiscale(self.model, images, scales=scales, predict=predict, store=store)

    def grid(self, size: tuple[int, int]) -> Grid:
        """The windows of an image (height, width) whose logits do not fit."""
        settings = self.settings
        window = self.ladder.rung.window or settings.tile
        return grid(size, window=window, overlap=settings.overlap, blend=settings.blend)

    @property
    def store(self) -> torch.device | None:
        """Where sums are kept by the present rung; None: where the logits are."""
        return torch.device("cpu") if self.ladder.rung.on_host else None

"""A trained network that is called with arrays."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.errors import DataError, ResourceError
from utils.inference.inputs import fit
from utils.inference.predictor import Settings
from utils.inference.results import Extras, Results
from utils.inference.segmenter import Segmenter


class Model:
    """Images in, class ids out.

    Args:
        network: Maps normalized images (N, C, H, W) to logits (N, K, H, W).
        checkpoint: Gives classes, palette, mean, std and dtype of the input.
        settings: How to predict.
        device: Where the network runs.
        precision: "auto", "fp32", "bf16" or "fp16".
        say: Told what the user should know, once each.

    Attributes:
        classes: The names; the position of a name is its id.
        palette: A color (red, green, blue) in 0..255 for each class.
    """

    def __init__(
        self,
        network: nn.Module,
        checkpoint: Mapping[str, Any],
        *,
        settings: Settings,
        device: torch.device,
        precision: str,
        say: Callable[[str], None],
    ) -> None:
        self.classes: tuple[str, ...] = tuple(checkpoint["classes"])
        self.palette = tuple((red, green, blue) for red, green, blue in checkpoint["palette"])
        self.segmenter = partial(
            Segmenter,
            network,
            checkpoint,
            settings=settings,
            device=device,
            precision=precision,
            say=say,
        )
        self._of_ids = self.segmenter()
        self._of_shares = self.segmenter(extras=Extras(array=True))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Segment an image.

        Args:
            image: (H, W, C) with the channels and the dtype of the training, not normalized; a
                pixel that is NaN or infinite has no value.

        Returns:
            Class ids (H, W), uint8, over 255 classes uint16; the highest value is void.

        Raises:
            DataError: Another shape, dtype or number of channels.
        """
        return self._segment(self._of_ids, image).mask

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Return the probabilities of the classes, float16 (K, H, W), NaN where void.

        Args:
            image: As in a call.

        Raises:
            DataError: Another shape, dtype or number of channels.
            ResourceError: They do not fit into the memory that is free.
        """
        found = self._segment(self._of_shares, image).probabilities
        if found is None:
            raise ResourceError(
                "image: its probabilities do not fit into the memory that is free\n"
                "  fix: cut it into smaller images, or ask for the mask alone"
            )
        return found

    def _segment(self, segmenter: Segmenter, image: np.ndarray) -> Results:
        pixels, (channels, dtype, _) = np.asarray(image), segmenter.expected
        found = (pixels.dtype.name, pixels.shape[2:])
        if found != (dtype, (channels,)) or not pixels.size:
            raise DataError(
                f"image: found {pixels.dtype} of shape {pixels.shape}, expected {dtype} of shape "
                f"(height, width, {channels}), as the model was trained on\n"
                "  fix: give the pixels as they were read, channels last; they are normalized here"
            )
        pixels, void = fit(pixels, segmenter.expected, Path("image"))
        return segmenter.segment(pixels, void=void)

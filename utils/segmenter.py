"""From picture files to result files: read, predict, write, each while the others work."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from utils.errors import ResourceError, UserError
from utils.images import read_image
from utils.normalize import Normalize
from utils.outputs import Job, write_whole
from utils.overlay import overlay
from utils.palette import Colour, to_palette_image
from utils.pipeline import overlapped
from utils.precision import autocast, resolve_precision
from utils.predictor import Predictor, Settings

_PALETTE_CLASSES = 256
_PNG_EFFORT = 3  # of 9: masks compress well at any; 9 costs more than a small network


class Results(NamedTuple):
    """What is written for one picture."""

    picture: np.ndarray  # (H, W, C)
    mask: np.ndarray  # (H, W) uint8, uint16 over 256 classes
    probabilities: np.ndarray | None  # (K, H, W) float16


class Segmenter:
    """Segments pictures with one model.

    Args:
        model: Maps normalised images (N, C, H, W) to logits (N, K, H, W).
        checkpoint: Gives classes, palette, mean, std and dtype of the input.
        settings: How to predict.
        device: Where the model runs.
        precision: "auto", "fp32", "bf16" or "fp16".
        overlay: Also write the picture with its classes drawn in.
        save_probs: Also write the probabilities.
        say: Told what the user should know, once each.
    """

    def __init__(
        self,
        model: nn.Module,
        checkpoint: Mapping[str, Any],
        *,
        settings: Settings,
        device: torch.device,
        precision: str,
        overlay: bool = False,
        save_probs: bool = False,
        say: Callable[[str], None],
    ) -> None:
        self.classes: Sequence[str] = checkpoint["classes"]
        self.palette: Sequence[Colour] = [tuple(colour) for colour in checkpoint["palette"]]
        self.channels = len(checkpoint["mean"])
        self.input_dtype: str = checkpoint.get("input_dtype", "uint8")
        self._device = device
        self._overlay = overlay
        self._save_probs = save_probs
        normalize = Normalize(checkpoint["mean"], checkpoint["std"], input_dtype=self.input_dtype)
        self.predictor = Predictor(
            _ready(model, normalize, device=device, precision=precision), settings, say=say
        )

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, UserError | None]]:
        """Segment all; yields each picture when it is written, with what went wrong, if anything.

        Raises:
            ResourceError: A result cannot be written.
        """
        return overlapped(jobs, read=self._read, compute=self._compute, write=self._write)

    def _read(self, job: Job) -> np.ndarray:
        return read_image(job.picture)

    def _compute(self, _job: Job, picture: np.ndarray) -> Results:
        return self.segment(picture)

    @torch.inference_mode()
    def segment(self, picture: np.ndarray) -> Results:
        """Segment one decoded picture (H, W, C) in the dtype that the model was trained on."""
        pixels = torch.from_numpy(np.require(picture, requirements=["C", "W"]))
        images = pixels.permute(2, 0, 1)[None].to(self._device)
        found = self.predictor.segment(images, probabilities=self._save_probs)
        wide = len(self.classes) > _PALETTE_CLASSES
        mask = found.mask.numpy().astype(np.uint16 if wide else np.uint8)
        probabilities = None
        if found.probabilities is not None:
            probabilities = to_half(found.probabilities.numpy(), mask)
        return Results(picture, mask, probabilities)

    def _write(self, job: Job, results: Results) -> None:
        try:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(job.result(".png"), partial(write_mask, results.mask, self.palette))
            if self._overlay:
                drawn = overlay(results.picture, results.mask, self.palette, self.classes)
                write_whole(
                    job.result(".overlay.jpg"), partial(drawn.save, format="JPEG", quality=90)
                )
            if results.probabilities is not None:
                write_whole(job.result(".npy"), partial(_save_array, results.probabilities))
        except OSError as error:
            raise ResourceError(
                f"{job.target}: cannot be written ({error.strerror or error})"
            ) from error


def _ready(
    model: nn.Module, normalize: nn.Module, *, device: torch.device, precision: str
) -> Callable[[Tensor], Tensor]:
    """The model as prediction wants it: on its device, from plain pixels to logits."""
    model = model.eval().to(device)
    model = model.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
    normalize = normalize.to(device)
    chosen = resolve_precision(precision, device)

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(device, chosen):
            return model(normalize(images).contiguous(memory_format=torch.channels_last))

    return run


def to_half(probabilities: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Round (K, H, W) to float16 such that its argmax is still the mask.

    Rounding can make the two likeliest classes equal; the mask's then gets the next number up.
    """
    half = probabilities.astype(np.float16)
    winner = mask[None].astype(np.int64)
    tied = half.argmax(0) != mask
    if tied.any():
        highest = half.max(0)
        raised = np.where(tied, np.nextafter(highest, np.float16(2)), highest)
        np.put_along_axis(half, winner, raised[None], axis=0)
    return half


def write_mask(mask: np.ndarray, palette: Sequence[Colour], path: Path) -> None:
    """Write a mask as PNG: uint8 with its palette, uint16 as 16-bit grey."""
    wide = mask.dtype == np.uint16
    picture = Image.fromarray(mask) if wide else to_palette_image(mask, palette)
    picture.save(path, format="PNG", compress_level=_PNG_EFFORT)


def _save_array(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)

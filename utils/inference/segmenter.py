"""From image files to result files: read, predict, write, each while the others work."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from utils.data.normalize import Normalize, mean_color
from utils.errors import ResourceError, UserError
from utils.files.outputs import Job, Save, write_whole
from utils.files.rasters import SUFFIXES, NotPlainError, Raster
from utils.files.raw_pixels import Decoded
from utils.hardware.memory import free_memory
from utils.hardware.precision import autocast, resolve_precision
from utils.inference.inputs import Expected, fit, read_input
from utils.inference.pipeline import overlapped
from utils.inference.prediction import MINIMUM_SIZE, Model
from utils.inference.predictor import Predictor, Settings
from utils.inference.results import Extras, Results, Streamed, Writer, mask_dtype, to_half, writing
from utils.inference.streaming import MaskRows, MemoryRows, Rows, fill

STREAMED_PIXELS = 1 << 25  # TIFF files of more pixels are never in memory whole
_PADDING = 1 << 22  # pixels that padding may add to an image; a strip of one row grows 32 times


class Read(NamedTuple):
    """An image as read, and of some TIFF files what else is known, closed."""

    image: Decoded | None  # (H, W, C); None: too large to be read whole
    raster: Raster | None = None


class Segmenter:
    """Segments images with one model.

    Args:
        model: Maps normalized images (N, C, H, W) to logits (N, K, H, W).
        checkpoint: Gives classes, palette, mean, std and dtype of the input.
        settings: How to predict.
        device: Where the model runs.
        precision: "auto", "fp32", "bf16" or "fp16".
        extras: What to write beside the masks.
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
        extras: Extras = Extras(),  # noqa: B008  frozen
        say: Callable[[str], None],
    ) -> None:
        classes: Sequence[str] = checkpoint["classes"]
        self._classes = len(classes)
        self._mask_dtype = mask_dtype(len(classes))
        self._write = Writer(classes, checkpoint["palette"], extras=extras)
        mean, dtype = checkpoint["mean"], checkpoint.get("input_dtype", "uint8")
        self.expected = Expected(len(mean), dtype, mean_color(mean, dtype))
        self.streamed_pixels = STREAMED_PIXELS
        self._model = model.eval().to(device)
        self._device = device
        self._precision = resolve_precision(precision, device)
        self._extras = extras
        self._say = say
        self._input = [list(mean), list(checkpoint["std"]), dtype]
        normalize = Normalize(mean, checkpoint["std"], input_dtype=dtype)
        self.predictor = Predictor(
            as_model(self._model, normalize.to(device), self._precision), settings, say=say
        )

    def run(
        self, jobs: Sequence[Job], save: Save = write_whole
    ) -> Iterator[tuple[Job, UserError | None]]:
        """Segment all; yields each image when it is written, with what went wrong, if anything.

        Args:
            jobs: What to segment.
            save: Puts a file in its place.

        Raises:
            ResourceError: A result cannot be written.
        """
        return overlapped(
            jobs, read=self._read, compute=self._compute, write=partial(self._write, save=save)
        )

    def _read(self, job: Job) -> Read:
        raster = None
        if job.image.suffix.lower() in SUFFIXES:
            with contextlib.suppress(NotPlainError), Raster(job.image) as raster:
                if raster.size[0] * raster.size[1] > self.streamed_pixels:
                    return Read(None, raster)
        in_place = raster if raster is not None and raster.georeferenced else None
        try:
            return Read(read_input(job.image, self.expected), in_place)
        except MemoryError as error:
            raise ResourceError(f"{job.image}: too little memory to read it") from error

    def _compute(self, job: Job, read: Read) -> Results | Streamed:
        if read.image is not None:
            pixels, void = read.image
            return self.segment(pixels, job.image.name, void)._replace(raster=read.raster)
        with Raster(job.image) as raster:
            return self.predictor.within_memory(lambda: self._stream(job, raster), raster.size)

    @torch.inference_mode()
    def segment(
        self, pixels: np.ndarray, name: str = "image", void: np.ndarray | None = None
    ) -> Results:
        """Segment an image (H, W, C) as it is expected; `void`, (H, W) bool, is so in the mask."""
        probabilities = None
        if self._fits(*pixels.shape[:2]):
            images = as_images(pixels).to(self._device)
            found = self.predictor.segment(images, probabilities=self._extras.probabilities)
            mask = found.mask.numpy().astype(self._mask_dtype)
            if found.probabilities is not None:
                probabilities = to_half(found.probabilities.numpy(), mask)
        else:
            mask = self._banded(pixels, name)
        if void is not None:
            mask[void] = np.iinfo(mask.dtype).max
            if probabilities is not None:
                probabilities[:, void] = np.nan
        return Results(pixels, mask, probabilities)

    def _fits(self, height: int, width: int) -> bool:
        """Whether the logits of an image fit into what is free; on a GPU trying tells."""
        padded = max(height, MINIMUM_SIZE) * max(width, MINIMUM_SIZE)
        scales = self.predictor.settings.used_scales
        factor = 1 + 2 * max(scales) ** 2  # the sum, and the largest before and after resizing
        needed = 4 * self._classes * padded * factor
        fits = self._device.type != "cpu" or needed < free_memory()
        return fits and padded - height * width < _PADDING

    def _banded(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """The mask of an image whose logits do not fit, by bands of windows."""
        size = (pixels.shape[0], pixels.shape[1])
        images = as_images(pixels)
        self._announce(name, size)
        rows = MemoryRows(size, self._mask_dtype)
        self._fill(rows, size, lambda top, bottom: images[:, :, top:bottom], name)
        return rows.mask

    @torch.inference_mode()
    def _stream(self, job: Job, raster: Raster) -> Streamed:
        voids: dict[int, np.ndarray | None] = {}

        def read(top: int, bottom: int) -> Tensor:
            rows = raster.rows(top, bottom)
            pixels, voids[top] = fit(rows, self.expected, raster.path, raster.nodata)
            return as_images(pixels)

        read(0, 1)  # another kind of image is refused before anything is written
        self._announce(job.image.name, raster.size)
        with writing(job.target):
            job.target.parent.mkdir(parents=True, exist_ok=True)
            rows = MaskRows(
                job.result(".tif"),
                width=raster.size[1],
                dtype=self._mask_dtype,
                meaning=self._meaning(raster),
            )
        try:
            self._fill(rows, raster.size, read, job.image.name, voids.pop)
        except BaseException:
            rows.close()
            raise
        if self._extras.overlay:
            self._say(f"{job.image.name}: too large for an overlay: mask only")
        return Streamed(rows, raster)

    def _fill(
        self,
        rows: Rows,
        size: tuple[int, int],
        read: Callable[[int, int], Tensor],
        name: str,
        void: Callable[[int], np.ndarray | None] = lambda _top: None,
    ) -> None:
        predictor = self.predictor
        fill(
            rows,
            lambda images: predictor.windows(images.to(self._device)),
            read,
            predictor.grid(size),
            batch_size=predictor.settings.batch_size,
            store=predictor.store,
            say=lambda line: self._say(f"{name}: {line}"),
            void=void,
        )

    def _announce(self, name: str, size: tuple[int, int]) -> None:
        scales = len(self.predictor.settings.used_scales)
        at = f" at {scales} scales (--mode sliding: at one)" if scales > 1 else ""
        windows = len(self.predictor.grid(size))
        self._say(f"{name}: {size[1]} x {size[0]} pixels do not fit whole, {windows} windows{at}")
        if self._extras.probabilities:
            self._say(f"{name}: too large for probabilities: mask only")

    def _meaning(self, raster: Raster) -> dict[str, Any]:
        """What makes two masks of one name the same mask."""
        status = raster.path.stat()
        return {
            "image": [str(raster.path.resolve()), status.st_size, status.st_mtime_ns],
            "weights": self._weights_digest,
            "input": self._input,
            "settings": {**asdict(self.predictor.settings), **self.predictor.rung._asdict()},
            "arithmetic": [self._device.type, self._precision, torch.__version__],
        }

    @cached_property
    def _weights_digest(self) -> str:
        digest = hashlib.sha256()
        for name, value in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def as_model(model: nn.Module, normalize: nn.Module, precision: str) -> Model:
    """The model as prediction wants it: from plain pixels (N, C, H, W) to logits."""
    model = model.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]

    def run(images: Tensor) -> Tensor:
        with autocast(images.device, precision):
            return model(normalize(images).contiguous(memory_format=torch.channels_last))

    return run


def as_images(pixels: np.ndarray) -> Tensor:
    """(H, W, C) as (1, C, H, W), channels last, without a copy where the array is our own."""
    own = np.require(pixels, requirements=["C", "W"])
    return torch.from_numpy(own).permute(2, 0, 1)[None]

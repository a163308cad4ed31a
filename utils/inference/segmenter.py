"""The way of an image: read, normalize, windows, model, sum, argmax, write.

`run` reads, computes and writes several images at a time. What is computed is in `_whole` for an
image whose logits fit into memory and in `_bands` for a larger one; the ladder around them repeats
that in smaller pieces when memory runs out nevertheless.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
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
from utils.files.written import writing
from utils.hardware.memory import free_memory
from utils.hardware.precision import autocast, resolve_precision
from utils.inference.inputs import Expected, is_cut, read_input, read_rows
from utils.inference.pipeline import ahead, overlapped
from utils.inference.prediction import MINIMUM_SIZE, ToLogits
from utils.inference.predictor import Predictor, Settings
from utils.inference.results import Extras, Results, Streamed, Writer, mask_dtype, to_half
from utils.inference.streaming import MaskRows
from utils.inference.tiles import BandSums, Grid

STREAMED_PIXELS = 1 << 25  # TIFF files of more pixels are never in memory whole
_SAID_EVERY = 10.0  # seconds between two lines of progress
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
        self._say, self._said_cut = say, False
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
            image = read_input(job.image, self.expected)
        except MemoryError as error:
            raise ResourceError(f"{job.image}: too little memory to read it") from error
        if not self._said_cut and is_cut(job.image, self.expected):
            self._said_cut = True
            self._say(
                f"{job.image.name} has 16 bits, of which the upper 8 are used (others may, too): "
                "where values stay far below 65535, as those of 12 bits do, convert to 8 bits"
            )
        return Read(image, in_place)

    def _compute(self, job: Job, read: Read) -> Results | Streamed:
        if read.image is not None:
            pixels, void = read.image
            return self.segment(pixels, job.image.name, void)._replace(raster=read.raster)
        with Raster(job.image) as raster:
            work = partial(self._stream, job, raster)
            return self.predictor.ladder.within_memory(work, raster.size)

    def segment(
        self, pixels: np.ndarray, name: str = "image", void: np.ndarray | None = None
    ) -> Results:
        """Segment an image (H, W, C) as it is expected; `void`, (H, W) bool, is so in the mask.

        Raises:
            ResourceError: Even the smallest pieces do not fit into memory.
        """
        size = (pixels.shape[0], pixels.shape[1])
        whole = self._whole if self._fits(*size) else self._in_bands
        work = partial(whole, Decoded(pixels, void), name)
        return self.predictor.ladder.within_memory(work, size)

    @torch.inference_mode()
    def _whole(self, image: Decoded, _name: str) -> Results:
        """Segment an image whose logits fit."""
        images = as_images(image.pixels).to(self._device)
        logits = self.predictor.logits(images)  # scales, windows, normalize, model, sum
        mask, probabilities = self._ids(logits), None
        if self._extras.probabilities:
            probabilities = to_half(logits.softmax(1)[0].cpu().numpy(), mask)
        if image.void is not None:
            mask[image.void] = np.iinfo(mask.dtype).max
            if probabilities is not None:
                probabilities[:, image.void] = np.nan
        return Results(image.pixels, mask, probabilities)

    def _fits(self, height: int, width: int) -> bool:
        """Whether the logits of an image fit into what is free; on a GPU trying tells."""
        padded = max(height, MINIMUM_SIZE) * max(width, MINIMUM_SIZE)
        scales = self.predictor.settings.used_scales
        factor = 1 + 2 * max(scales) ** 2  # the sum, and the largest before and after resizing
        needed = 4 * self._classes * padded * factor
        fits = self._device.type != "cpu" or needed < free_memory()
        return fits and padded - height * width < _PADDING

    @torch.inference_mode()
    def _in_bands(self, image: Decoded, name: str) -> Results:
        """Segment an image whose logits do not fit."""
        rows: list[np.ndarray] = []
        height, width = image.pixels.shape[:2]
        windows = self._announced(name, (height, width))
        self._bands(name, windows, image.rows, rows)
        return Results(image.pixels, np.concatenate(rows), None)

    @torch.inference_mode()
    def _stream(self, job: Job, raster: Raster) -> Streamed:
        """Segment an image that is larger than memory; the rows of its mask go to disk."""
        name, read = job.image.name, partial(read_rows, raster, self.expected)
        read(0, 1)  # another kind of image is refused before anything is written
        windows = self._announced(name, raster.size)
        with writing(job.target):
            job.target.parent.mkdir(parents=True, exist_ok=True)
            rows = MaskRows(
                job.result(".tif"),
                width=raster.size[1],
                dtype=self._mask_dtype,
                meaning=self._meaning(raster),
            )
        try:
            begin = rows.take_up(windows.rows.starts, raster.size[0])
            if begin:
                self._say(f"{name}: taken up again at row {begin} of {raster.size[0]}")
            self._bands(name, windows, read, rows, begin)
        except BaseException:
            rows.close()
            raise
        if self._extras.overlay:
            self._say(f"{name}: too large for an overlay: mask only")
        return Streamed(rows, raster)

    def _bands(
        self,
        name: str,
        windows: Grid,
        read: Callable[[int, int], Decoded],
        mask: MaskRows | list[np.ndarray],
        begin: int = 0,
    ) -> None:
        """Append the rows of a mask from `begin` on, each when no more window touches it."""
        height, tops, high = windows.rows.size, windows.rows.starts, windows.rows.window
        batch_size = self.predictor.settings.batch_size
        sums = BandSums(windows, self.predictor.store)
        started = said = time.monotonic()

        def decode(row: int) -> tuple[Tensor, np.ndarray | None]:
            pixels, void = read(tops[row], tops[row] + high)
            return as_images(pixels), void

        wanted = [row for row, top in enumerate(tops) if top + high > begin]
        with closing(ahead(decode, wanted, count=1)) as strips:
            for row, strip in strips:
                images, void = strip.result()
                for columns, batch in windows.cut(images, batch_size):
                    logits = self.predictor.windows(batch.to(self._device))  # normalize, model
                    sums.add(row, columns, logits)
                logits = sums.finished(row)
                if tops[row] < begin:
                    continue
                ids = self._ids(logits)
                if void is not None:
                    ids[void[: len(ids)]] = np.iinfo(ids.dtype).max
                mask.append(ids)
                done, now = tops[row] + logits.shape[2], time.monotonic()
                if now - said > _SAID_EVERY:
                    said = now
                    left = (now - started) * (height - done) / (done - begin)
                    self._say(f"{name}: row {done} of {height}, {left:.0f} s left")

    def _ids(self, logits: Tensor) -> np.ndarray:
        """The likeliest class of each pixel, (H, W), of logits (1, K, H, W): the first of equals.

        On a CPU `argmax` over the channels takes four to nine times as long as `max`.
        """
        return logits.max(1).indices[0].cpu().numpy().astype(self._mask_dtype)

    def _announced(self, name: str, size: tuple[int, int]) -> Grid:
        """The windows of an image whose logits do not fit, after saying what that means for it."""
        scales = len(self.predictor.settings.used_scales)
        at = f" at {scales} scales (--mode sliding: at one)" if scales > 1 else ""
        windows = self.predictor.grid(size)
        self._say(
            f"{name}: {size[1]} x {size[0]} pixels do not fit whole, {len(windows)} windows{at}"
        )
        if self._extras.probabilities:
            self._say(f"{name}: too large for probabilities: mask only")
        return windows

    def _meaning(self, raster: Raster) -> dict[str, Any]:
        """What makes two masks of one name the same mask."""
        status = raster.path.stat()
        return {
            "image": [str(raster.path.resolve()), status.st_size, status.st_mtime_ns],
            "weights": self._weights_digest,
            "input": self._input,
            "settings": {**asdict(self.predictor.settings), **self.predictor.ladder.rung._asdict()},
            "arithmetic": [self._device.type, self._precision, torch.__version__],
        }

    @cached_property
    def _weights_digest(self) -> str:
        digest = hashlib.sha256()
        for name, value in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def as_model(model: nn.Module, normalize: nn.Module, precision: str) -> ToLogits:
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

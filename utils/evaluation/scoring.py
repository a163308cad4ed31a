"""Score a model on whole images: one integer confusion matrix, summed over images and processes.

Masks are never resized. Each image is predicted by itself, so a sum does not depend on how images
are dealt to processes. What is kept of an image is a few numbers, and small images of the best
and the worst.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from utils.errors import CheckpointError
from utils.hardware import distributed
from utils.inference.pipeline import overlapped
from utils.metrics.boundary import boundary_counts, error_places
from utils.metrics.confusion import ConfusionMatrix
from utils.metrics.scores import mean_scores, ratio

SHOWN = 20  # images of each gallery


class LabelledImages(Protocol):
    """What an evaluation needs of a data set."""

    @property
    def num_classes(self) -> int:
        """The number of classes C."""

    @property
    def ignore_index(self) -> int:
        """The label of void pixels."""

    def __len__(self) -> int:
        """The number of images."""

    def name(self, index: int) -> str:
        """What image `index` is called."""

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, channels) and mask (H, W) at native size."""


class ImageScore(NamedTuple):
    """One image; scores are None when it has no labelled pixel."""

    index: int
    name: str
    mean_iou: float | None
    pixel_accuracy: float | None
    labelled_pixels: int
    wrong_pixels: int
    void_pixels: int


class GalleryImage(NamedTuple):
    """An image worth showing, as the callback drew it."""

    score: ImageScore
    images: tuple[bytes, ...]


class Evaluation(NamedTuple):
    """The sums over all images and processes.

    Attributes:
        counts: (C, C) int64, row = label, column = prediction; void, if predicted, is column C.
        void: Void pixels that were predicted void; not counted.
        boundaries: (2, C) int64 intersections and unions of Boundary IoU; None without it.
        places: (2, 2) int64 [[errors, pixels] near label boundaries, [errors, pixels] inside].
        images: In ascending order of Mean_IoU; images without labelled pixels last.
        worst: Those with the most wrongly labelled pixels, with images, the worst first.
        best: The last of `images` that have a score, with images, the best first.
    """

    counts: np.ndarray
    void: int
    boundaries: np.ndarray | None
    places: np.ndarray
    images: list[ImageScore]
    worst: list[GalleryImage]
    best: list[GalleryImage]


Predict = Callable[[np.ndarray], np.ndarray]
"""(H, W, channels) image in its file's dtype -> (H, W) class numbers, or `ignore_index`."""
Draw = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[bytes, ...]]
"""Image, mask and prediction -> encoded small images."""


class Evaluator:
    """Accumulates images into an `Evaluation`.

    Args:
        data: Images and masks at native size.
        predict: The model with everything around it.
        draw: Makes the images of an image that is shown.
        boundary_ratio: Width of Boundary IoU's regions as a share of the diagonal; None: not
            computed.
        scored: The classes that enter an image's Mean_IoU; None: all.
    """

    def __init__(
        self,
        data: LabelledImages,
        predict: Predict,
        *,
        draw: Draw,
        boundary_ratio: float | None = None,
        scored: Sequence[int] | None = None,
    ) -> None:
        self._data = data
        self._predict = predict
        self._draw = draw
        self._boundary_ratio = boundary_ratio
        self._scored = scored
        classes = data.num_classes
        self._counts = np.zeros((classes + 1, classes + 1), np.int64)
        self._boundaries = np.zeros((2, classes), np.int64)
        self._places = np.zeros((2, 2), np.int64)
        self._images: list[ImageScore] = []
        self._worst: list[tuple[tuple[float, int], GalleryImage]] = []
        self._best: list[tuple[tuple[float, int], GalleryImage]] = []

    def run(self, *, advance: Callable[[], None] = lambda: None) -> Evaluation:
        """Evaluate this process's share and add up those of all.

        Args:
            advance: Called after every image of this process.

        Raises:
            DataError: An image cannot be read; nothing is scored then.
            CheckpointError: A prediction is no class and not void; nothing is scored then.
        """
        mine = range(distributed.rank(), len(self._data), distributed.world_size())
        # Reading, predicting and counting overlap: three threads, a few images in memory.
        for _, error in overlapped(
            mine,
            read=self._data.load,
            compute=lambda _, pair: (*pair, self._predict(pair[0])),
            write=lambda index, parts: self.add(index, *parts),
        ):
            if error is not None:
                raise error
            advance()
        return self._sum_up()

    def add(self, index: int, image: np.ndarray, mask: np.ndarray, prediction: np.ndarray) -> None:
        """Count one image; arguments as `LabelledImages.load` and `Predict` give them."""
        classes, void = self._data.num_classes, self._data.ignore_index
        try:
            counts = confusion(prediction, mask, num_classes=classes, ignore_index=void)
        except ValueError as error:
            raise CheckpointError(f"{self._data.name(index)}: {error}") from error
        self._counts += counts
        self._places += error_places(prediction, mask, ignore_index=void)
        if (width := self._boundary_ratio) is not None:
            self._boundaries += boundary_counts(
                prediction, mask, num_classes=classes, ignore_index=void, ratio=width
            )
        score = self._score(index, counts[:-1], mask.size)
        self._images.append(score)
        self._show(score, image, mask, prediction)

    def _score(self, index: int, counts: np.ndarray, pixels: int) -> ImageScore:
        labelled, right = int(counts.sum()), int(counts.diagonal().sum())
        return ImageScore(
            index,
            self._data.name(index),
            mean_scores(counts, self._scored)["Mean_IoU"],
            ratio(right, labelled),
            labelled,
            labelled - right,
            pixels - labelled,
        )

    def _show(
        self, score: ImageScore, image: np.ndarray, mask: np.ndarray, prediction: np.ndarray
    ) -> None:
        """Draw the image if it is among the best or the worst so far."""
        if score.mean_iou is None:
            return
        # The least of each heap is what leaves it; equal scores stand in the data set's order.
        ranks = (
            (self._worst, (score.wrong_pixels, -score.index)),
            (self._best, (score.mean_iou, score.index)),
        )
        entering = [(heap, key) for heap, key in ranks if len(heap) < SHOWN or key > heap[0][0]]
        if not entering:
            return
        shown = GalleryImage(score, self._draw(image, mask, prediction))
        for heap, key in entering:
            (heapq.heappush if len(heap) < SHOWN else heapq.heappushpop)(heap, (key, shown))

    def _sum_up(self) -> Evaluation:
        sums = (self._counts, self._boundaries, self._places)
        flat = torch.from_numpy(np.concatenate([part.ravel() for part in sums]))
        flat = distributed.sum_over_processes(flat).numpy()
        counts, boundaries, places = np.split(flat, np.cumsum([part.size for part in sums])[:-1])
        shares = distributed.collect((self._images, self._worst, self._best))
        images = sorted((one for share in shares for one in share[0]), key=_ascending)
        counts = counts.reshape(self._counts.shape)
        return Evaluation(
            counts[:-1] if counts[:-1, -1].any() else counts[:-1, :-1],
            int(counts[-1, -1]),
            None if self._boundary_ratio is None else boundaries.reshape(self._boundaries.shape),
            places.reshape(self._places.shape),
            images,
            _merged(share[1] for share in shares),
            _merged(share[2] for share in shares),
        )


def confusion(
    prediction: np.ndarray, mask: np.ndarray, *, num_classes: int, ignore_index: int
) -> np.ndarray:
    """(C + 1, C + 1) int64 counts of one image, void last; arrays (H, W) of any integer type."""
    matrix = ConfusionMatrix(num_classes, ignore_index)
    matrix.update(torch.tensor(prediction)[None], torch.tensor(mask)[None])
    return matrix.table().numpy()


def _ascending(score: ImageScore) -> tuple[bool, float, int]:
    return score.mean_iou is None, score.mean_iou or 0.0, score.index


def _merged(
    heaps: Iterable[Sequence[tuple[tuple[float, int], GalleryImage]]],
) -> list[GalleryImage]:
    """The first of all processes' galleries together, in order."""
    entries = sorted((entry for heap in heaps for entry in heap), key=lambda e: e[0], reverse=True)
    return [shown for _, shown in entries[:SHOWN]]

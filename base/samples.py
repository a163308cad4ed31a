"""What travels from files to the network: pairs of files, samples, batches."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Pair(NamedTuple):
    """An image file and its mask file; `mask` is None in a split without published labels."""

    image: Path
    mask: Path | None


class Sample(NamedTuple):
    """What the network will see of one image.

    Attributes:
        image: (H, W, C) in the file's dtype.
        mask: (H, W) train ids and ignore_index, uint8 or int16.
        index: The position in the data set.
    """

    image: np.ndarray
    mask: np.ndarray
    index: int


class Batch(NamedTuple):
    """One batch, on the host.

    Attributes:
        images: (N, C, H, W) in channels-last memory, the files' dtype.
        masks: (N, H, W) uint8 or int16; train ids and ignore_index.
        label_counts: Labelled pixels of each class in this batch; they stay on the host.
        indices: Positions of the samples in the data set.
    """

    images: Tensor
    masks: Tensor
    label_counts: tuple[int, ...]
    indices: tuple[int, ...]

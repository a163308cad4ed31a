"""Mean and standard deviation of the channels of a data set's images."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from base.base_data_loader import BaseDataLoader
from base.base_dataset import BaseDataset
from dataloaders import DATASETS
from dataloaders.building import build_dataset
from dataloaders.folder import Folder
from dataloaders.folder_files import find_pairs
from utils.config.registry import choose_loader
from utils.data.normalize import FULL_SCALE
from utils.errors import DataError
from utils.files.rasters import SUFFIXES, Raster
from utils.files.raw_pixels import PixelKind, header
from utils.run.progress import progress
from utils.seeding import check_order

_SMALLEST_STD = 1e-6  # below it lies what rounding makes of a channel that never changes


def unnormalized(
    name: str, args: Mapping[str, object], *, ignore_index: int, seed: int
) -> BaseDataset:
    """Build a training data set whose `mean` and `std` may still be missing.

    A `Folder` of other than RGB images cannot be built without them, so it gets placeholders.

    Raises:
        ConfigError: Unknown name or arguments.
        DataError: The data are not where `args` say.
    """
    choice, _ = choose_loader("train_loader", DATASETS, name, args, loader=BaseDataLoader)
    for_data = choice.args
    if DATASETS[name] is Folder and "mean" not in for_data:
        given = {key: for_data[key] for key in ("images", "masks", "split") if key in for_data}
        chosen = {"images": "images", "masks": "masks", "split": None} | given
        pairs, _ = find_pairs(_root(for_data), **chosen)  # pyrefly: ignore[bad-argument-type]
        channels = pixel_kind(pairs[0].image).channels if pairs else 3
        args = {**args, "mean": (0.5,) * channels, "std": (0.5,) * channels}
    return build_dataset("train_loader", (name, args), ignore_index=ignore_index, seed=seed)


def pixel_kind(path: Path) -> PixelKind:
    """Return the channels and dtype that a data set has whose first image this is.

    A fourth channel of 8 bit is alpha, which is left out; but of a TIFF, where it has more than two
    values, it is a band.
    """
    (height, _), kind = header(path)
    if path.suffix.lower() == ".npy":
        return kind._replace(channels=min(kind.channels, height))  # of (C, H, W) as of (H, W, C)
    if kind != (4, "uint8"):
        return kind
    if path.suffix.lower() in SUFFIXES:
        with Raster(path) as raster:
            if len(np.unique(raster.rows(0, height)[..., 3])) > 2:
                return kind
    return kind._replace(channels=3)


def channel_statistics(dataset: BaseDataset, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel over all pixels with a value.

    Args:
        dataset: Its images are read whole, without augmentation.
        count: How many images, chosen by the data set's seed.

    Returns:
        Two float64 arrays (channels,), fractions of the dtype's full scale.

    Raises:
        DataError: An image cannot be read, or a channel is the same everywhere.
    """
    channels = len(dataset.mean)
    total, squares, pixels = np.zeros(channels), np.zeros(channels), 0
    order = check_order(len(dataset), seed=dataset.seed)[:count].tolist()
    for index in progress(order, "statistics", len(order)):
        pair = dataset.pairs[index] if dataset.pairs else None
        image, void = dataset.read_image(pair.image) if pair else (dataset.load(index)[0], None)
        known = image.reshape(-1, channels) if void is None else image[~void]
        values = known.astype(np.float64) / FULL_SCALE[dataset.input_dtype]
        total += values.sum(axis=0)
        squares += np.square(values).sum(axis=0)
        pixels += len(values)
    mean = total / max(pixels, 1)
    std = np.sqrt(np.maximum(squares / max(pixels, 1) - mean**2, 0))
    still = std < _SMALLEST_STD
    if still.any():
        flat = ", ".join(str(channel) for channel in np.flatnonzero(still))
        raise DataError(
            f"{dataset.name(0)}: channel {flat} has the same value everywhere\n"
            "  fix: leave that channel out of the images"
        )
    return mean, std


def _root(args: Mapping[str, object]) -> Path:
    return Path(str(args.get("data_dir", ".")))

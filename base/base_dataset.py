"""BaseDataset: read a pair, augment it, hand out a sample.

A data set is a keyword-only dataclass: its fields are what `train_loader.args` and
`val_loader.args` may say, its class attributes are the facts of the data. A new layout is one
file that fills `pairs` in `__post_init__`, and one line in `dataloaders/__init__.py`.
"""

import copy
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt

from base.augmentation import Augmentation
from base.samples import Pair, Sample
from utils.data import transforms
from utils.data.color_labels import ColorTable
from utils.data.labels import LabelTable, count_values, mask_dtype, refuse_void_class
from utils.data.normalize import FULL_SCALE, mean_color
from utils.data.pixel_cache import DiskCache, PixelCache, RamCache, default_folder
from utils.data.splits import fold_of, groups_of, share_of
from utils.errors import ConfigError, DataError
from utils.files.images import REDUCED, opened, read_image, read_mask, sizes_differ, upright_size
from utils.files.raw_pixels import Decoded
from utils.seeding import sample_generator

SPLITTING = ("val_split", "val_fold", "group")  # the arguments that say what is held out


@dataclass(kw_only=True, eq=False, repr=False)
class BaseDataset(Augmentation):
    """Pairs of image and mask with the documented augmentation; see `Augmentation`.

    Args:
        cache: Keep decoded pixels: in memory, or on disk where they outlast the run.
        cache_dir: The folder of the disk cache; default: segmentation/pixels in the user's cache.
        val_split: The share of the samples that is held out and validated; in `train_loader` only.
        val_fold: Instead of a share: hold out this fold of so many, [index from 0, count].
        group: A regular expression that finds in an image's path which group it belongs to, by its
            first ( ) or all that it matches; what is held out is whole groups.
    """

    cache: Literal["ram", "disk"] | None = None
    cache_dir: str | None = None
    val_split: Annotated[float, Gt(0), Lt(1)] | None = None
    val_fold: tuple[Annotated[int, Ge(0)], Annotated[int, Ge(2)]] | None = None
    group: str | None = None

    classes: ClassVar[tuple[str, ...]]
    palette: ClassVar[tuple[tuple[int, int, int], ...]]
    mean: ClassVar[tuple[float, ...]]  # fractions of the dtype's full scale
    std: ClassVar[tuple[float, ...]]
    input_dtype: ClassVar[str] = "uint8"
    reducible: ClassVar[bool] = True  # whether a JPEG may be decoded at a lower resolution

    def __post_init__(self) -> None:
        """Prepare what every sample needs; a subclass calls this before it sets `pairs`."""
        super().__post_init__()
        self._check_split()
        self.pairs: tuple[Pair, ...] = ()
        self.image_sizes: list[tuple[int, int]] | None = None
        self.notes: tuple[str, ...] = ()  # what of the files is left over
        self._cache: PixelCache | None = None
        self.table = self.label_table()
        refuse_void_class(self.classes, self.ignore_index, self.table.mapping)
        self.border = mean_color(self.mean, self.input_dtype)
        self.spread = tuple(one * FULL_SCALE[self.input_dtype] for one in self.std)
        if len(self.mean) != 3 and (self.saturation or self.hue):
            raise ConfigError(
                f"saturation, hue: are of RGB images, and these have {len(self.mean)} channels\n"
                "  fix: delete them"
            )

    def normalize_by(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Set `mean` and `std`, one value a channel, and what depends on them."""
        self.mean, self.std = mean, std  # pyrefly: ignore[read-only]
        self.border = mean_color(mean, self.input_dtype)
        self.spread = tuple(one * FULL_SCALE[self.input_dtype] for one in std)
        if self._cache is not None:  # on disk it is named after the mean, which void pixels become
            self._cache = None
            self.open_cache()

    def label_table(self) -> LabelTable:
        """Return how raw mask values become train ids; by default they are equal, 255 is void."""
        return LabelTable.identity(len(self.classes), ignore_index=self.ignore_index, void=255)

    @property
    def num_classes(self) -> int:
        """The number of classes, void not counted."""
        return len(self.classes)

    @property
    def color_table(self) -> ColorTable | None:
        """How colors become train ids, where masks are coded by color."""
        return None

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def name(self, index: int) -> str:
        """Return what messages call image `index`: its path."""
        return str(self.pairs[index].image)

    def size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of image `index` as displayed, from its header alone."""
        with opened(self.pairs[index].image) as image:
            return upright_size(image)

    def known_size(self, index: int) -> tuple[int, int]:
        """Return the same as `size`, without the header where `image_sizes` has been set."""
        return self.size(index) if self.image_sizes is None else self.image_sizes[index]

    def sample_size(self, epoch: int, index: int) -> tuple[int, int]:
        """Return (height, width) of sample (epoch, index), read from no more than a header."""
        if self.crop_size is not None and (self.augments or self.val):
            return self.crop_size, self.crop_size
        size = self.known_size(index)
        if not self.augments:
            return size
        return self.draw_view(size, (epoch, index), sample_generator(self.seed, epoch, index)).size

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Read pair `index` whole.

        Returns:
            The image (H, W, C), void in the mean color, and its mask (H, W) of train ids.

        Raises:
            DataError: A file is missing or damaged, the sizes differ, or a label is unknown.
        """
        pair = self.pairs[index]
        image, void = self.read_image(pair.image)
        height, width = image.shape[:2]
        if pair.mask is None:
            dtype = mask_dtype(self.num_classes, self.ignore_index)
            return image, np.full((height, width), self.ignore_index, dtype)
        mask = self.read_labels(pair.mask)
        self.check_size(pair, (height, width), mask.shape)
        return image, self.with_void(mask, void)

    def with_void(self, mask: np.ndarray, void: np.ndarray | None) -> np.ndarray:
        """Return a mask of train ids that is void where its image is, too."""
        return mask if void is None else np.where(void, mask.dtype.type(self.ignore_index), mask)

    def check_size(self, pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
        """Raise DataError unless image and mask have one size (height, width)."""
        if image != mask:
            assert pair.mask is not None
            raise sizes_differ(pair.image, pair.mask, image, mask)

    def read_image(self, path: Path, *, scale: float = 1.0) -> Decoded:
        """Read an image file: (H, W, C), upright, and where it is void; utils/files/images.py."""
        return Decoded(read_image(path, scale=scale), None)

    def read_labels(self, path: Path) -> np.ndarray:
        """Read a mask file as train ids (H, W), every value checked."""
        return self.table.apply(read_mask(path), str(path))

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return sample (epoch, index): a pure function of these two and the seed."""
        epoch, index = key
        if self.augments:
            rng = sample_generator(self.seed, epoch, index)
            image, mask = self._warped(index, lambda mask: self._plan(mask, key, rng))
            image = self.recolored(image, key, rng)
        elif self.val and self.crop_size is not None:
            crop_size = self.crop_size
            image, mask = self._warped(
                index,
                lambda mask: transforms.validation_geometry(*mask.shape, crop_size=crop_size),
            )
        else:
            image, mask = self._pixels(index)
        return Sample(image, mask, index)

    def open_cache(self) -> None:
        """Make room for decoded pixels; once, before workers start.

        Raises:
            ResourceError: They do not fit, or the folder cannot be used.
        """
        if self.cache is None or self._cache is not None:
            return
        if self.cache == "ram" or not self.pairs:
            self._cache = RamCache(
                [self.known_size(index) for index in range(len(self))],
                channels=len(self.mean),
                dtype=np.dtype(self.input_dtype),
                mask_dtype=np.dtype(self.table.dtype),
            )
            return
        labels = self.color_table or self.table
        self._cache = DiskCache(
            Path(self.cache_dir) if self.cache_dir else default_folder(),
            [tuple(path.absolute() for path in pair if path is not None) for pair in self.pairs],
            recipe=f"{type(self).__name__} {type(labels).__name__} {labels.mapping} {labels.rest} "
            f"{labels.tolerance} {labels.dtype} {self.ignore_index} {self.mean} {self.input_dtype}",
            total_bytes=self.decoded_bytes(),
        )

    def decoded_bytes(self) -> int:
        """Return the bytes of all images and masks once they are decoded."""
        a_pixel = len(self.mean) * np.dtype(self.input_dtype).itemsize
        a_pixel += np.dtype(self.table.dtype).itemsize
        return a_pixel * sum(math.prod(self.known_size(index)) for index in range(len(self)))

    @property
    def holds_out(self) -> bool:
        """Whether a part of the samples is held out for validation."""
        return self.val_split is not None or self.val_fold is not None

    def _check_split(self) -> None:
        if self.val_split is not None and self.val_fold is not None:
            raise ConfigError("val_fold: found beside val_split\n  fix: delete one of them")
        if self.val_fold is not None and self.val_fold[0] >= self.val_fold[1]:
            index, count = self.val_fold
            raise ConfigError(
                f"val_fold: found index {index} of {count}, expected 0 to {count - 1}"
            )
        if self.group is not None and not self.holds_out:
            raise ConfigError(
                "group: has no effect without val_split or val_fold\n  fix: set one, or delete it"
            )

    def select(self, indices: Sequence[int]) -> None:
        """Keep only these samples."""
        self.pairs = tuple(self.pairs[index] for index in indices)
        self.image_sizes = None

    def split_off(self) -> "BaseDataset":
        """Take what `val_split` or `val_fold` say out of this data set.

        Returns:
            It as a data set of whole images without augmentation. Which samples it holds depends on
            the seed, these two, `group` and the names of the samples.

        Raises:
            ConfigError: `group` is no regular expression.
            DataError: One of the two would be empty, or a name shows no group.
        """
        groups: Sequence[Hashable] = range(len(self))
        if self.group is not None:
            names = [Path(self.name(index)).as_posix() for index in range(len(self))]
            groups = groups_of(names, self.group)
        if self.val_fold is not None:
            chosen, what = fold_of(groups, *self.val_fold, seed=self.seed), "val_fold: a fold"
        else:
            assert self.val_split is not None
            chosen = share_of(groups, self.val_split, seed=self.seed)
            what = f"val_split: a share of {self.val_split}"
        if not 0 < len(chosen) < len(self):
            raise DataError(
                f"{what} of {len(self)} images leaves nothing to "
                f"{'train on' if chosen else 'validate'}\n  fix: another share, or more images"
            )
        held_out = copy.copy(self)
        held_out.select(chosen)
        held_out.augment, held_out.val, held_out.crop_size, held_out.notes = False, True, None, ()
        self.select(sorted(set(range(len(self))) - set(chosen)))
        return held_out

    def label_counts(self, mask: np.ndarray) -> np.ndarray:
        """Count the labelled pixels of each class in a mask of train ids; int64 (classes,)."""
        return count_values(mask, self.num_classes)

    def _pixels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.load(index) if self._cache is None else self._cache.get(index, self.load)

    def _plan(
        self, mask: np.ndarray, key: tuple[int, int], rng: np.random.Generator
    ) -> transforms.Geometry:
        view = self.draw_view(mask.shape, key, rng)
        return self.choose_view(view, mask, key, num_classes=self.num_classes).geometry()

    def _warped(
        self, index: int, plan: Callable[[np.ndarray], transforms.Geometry]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a pair no larger than needed and warp it as `plan(mask)` says."""
        pair = self.pairs[index] if self.pairs and self.reducible and not self._cache else None
        if pair is None or pair.mask is None or pair.image.suffix.lower() not in (".jpg", ".jpeg"):
            image, mask = self._pixels(index)
            geometry = plan(mask)
        else:
            mask = self.read_labels(pair.mask)
            geometry = plan(mask)
            image = self.read_image(pair.image, scale=geometry.scale).pixels
            # The header is asked only where the pixels do not show the size.
            if geometry.scale <= REDUCED or image.shape[:2] != mask.shape:
                self.check_size(pair, self.size(index), mask.shape)
        return (
            transforms.warp_image(image, geometry.reduced(*image.shape[:2]), self.border),
            transforms.warp_mask(mask, geometry, self.ignore_index),
        )

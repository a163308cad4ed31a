"""BaseDataLoader: the order of an epoch, batches, worker processes, and where to go on.

The order is a pure function of (seed, epoch): nothing about it is saved, and a run goes on in the
middle of an epoch without reading what it has seen. Workers receive (epoch, index) pairs, so they
persist over epochs.
"""

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, NamedTuple

import cv2
import numpy as np
import torch
from annotated_types import Ge, Le
from torch.utils.data import DataLoader, Dataset, Sampler

from base import workers
from base.base_dataset import BaseDataset
from base.samples import Batch, Sample
from base.signals import StopSignals
from utils.errors import ConfigError, ResourceError, UserError
from utils.hardware.workers import START_METHOD
from utils.seeding import epoch_order


class _Failure(NamedTuple):
    """A user's error on its way from a worker: pickling keeps no traceback to print."""

    kind: type[UserError]
    message: str


Key = tuple[int, int]


class _Batches(Dataset["Batch | _Failure"]):
    """Turns a list of (epoch, index) into a batch; runs in the workers."""

    def __init__(self, dataset: BaseDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: list[Key]) -> "Batch | _Failure":
        try:
            batch = collate([self.dataset[key] for key in index], self.dataset)
            workers.shared(batch.images, batch.masks)
        except UserError as error:
            return _Failure(type(error), str(error))
        return batch


def collate(samples: list[Sample], dataset: BaseDataset) -> Batch:
    """Stack samples of one size.

    Raises:
        ConfigError: The images differ in size, with the setting that mends it.
    """
    first = samples[0].image.shape
    for sample in samples:
        if sample.image.shape != first:
            raise mixed_sizes(dataset, {s.index: s.mask.shape for s in (samples[0], sample)})
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    masks = torch.from_numpy(np.stack([sample.mask for sample in samples]))
    counts = np.sum([dataset.label_counts(sample.mask) for sample in samples], axis=0)
    return Batch(
        images.permute(0, 3, 1, 2),
        masks,
        tuple(counts.tolist()),
        tuple(sample.index for sample in samples),
    )


def mixed_sizes(dataset: BaseDataset, sizes: Mapping[int, tuple[int, ...]]) -> ConfigError:
    """Return what to raise for samples that one batch cannot hold; (height, width) by index."""
    shown = ", ".join(f"{dataset.name(i)} {size[1]}x{size[0]}" for i, size in sizes.items())
    return ConfigError(
        f"train_loader.args: images of one batch differ in size: {shown}\n"
        '  fix: set "crop_size" (with "augment": true or "val": true), or "batch_size": 1'
    )


class _Loader(DataLoader["Batch | _Failure"]):
    def check_worker_number_rationality(self) -> None:
        """Warn of nothing: the program says it in a line of its own."""


class _Order(Sampler[list[Key]]):
    """Hands the loader's remaining batches to torch's DataLoader."""

    def __init__(self, remaining: Callable[[], Iterator[list[Key]]], length: int) -> None:
        self._remaining = remaining
        self._length = length

    def __iter__(self) -> Iterator[list[Key]]:
        return self._remaining()

    def __len__(self) -> int:
        return self._length


@dataclass(eq=False, repr=False)
class BaseDataLoader:
    """Batches of a data set, epoch after epoch.

    A training loader deals each global batch to the processes in contiguous parts. Another one
    (`train` false) deals whole batches of images of one size; which images share a batch depends
    on the data set and `batch_size` alone, so a score does not depend on the processes.

    Args:
        dataset: What to load.
        batch_size: Samples of a batch: in training of all processes together, in validation of
            each.
        shuffle: A new random order every epoch; a validation loader needs none and takes none.
        num_workers: Worker processes; 0 loads in this process.
        timeout: Seconds to wait for a batch before the run is given up. It needs workers: without
            them a file that hangs cannot be told from a slow one.
        drop_last: Whether a training epoch leaves out a last batch that is short (None: it does).
            One with fewer samples than processes is always left out; else the only batch never is.
        seed: Seed of the order (set by the program).
        rank: This process (set by the program).
        world_size: Number of processes (set by the program).
        pin_memory: Page-locked batches, for copies to a CUDA device (set by the program).
        train: Whether this is the training loader (set by the program); None: when it shuffles or
            augments.

    Attributes:
        evaluation: The indices of each batch of all processes; None of a training loader.

    Raises:
        ConfigError: A cache in memory that the workers could not share.
        ResourceError: A cache that does not fit.
    """

    dataset: BaseDataset
    _: KW_ONLY
    batch_size: Annotated[int, Ge(1), Le(65536)]
    shuffle: bool = False
    num_workers: Annotated[int, Ge(0)] = 1
    timeout: Annotated[int, Ge(1), Le(86400)] = 300
    drop_last: bool | None = None
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    pin_memory: bool = False
    train: bool | None = None

    def __post_init__(self) -> None:
        if self.train is None:
            self.train = self.shuffle or self.dataset.augments
        files, cache = bool(self.dataset.pairs), self.dataset.cache  # without files: in memory
        in_memory = cache == "ram" or (cache == "disk" and not files)
        if self.num_workers and in_memory and START_METHOD != "fork":
            other = '"cache": "disk", or ' if files else ""
            raise ConfigError(
                "cache: memory is shared with forked workers only, which this system does not have"
                f'\n  fix: {other}"num_workers": 0'
            )
        self.dataset.open_cache()
        if self.num_workers:
            # OpenCV's threads would not live on in forked workers, which would then wait for them.
            cv2.setNumThreads(0)
        self._epoch, self._batch = 0, 0
        self._asked_for: deque[list[Key]] = deque()
        self.signals = StopSignals()  # the trainer puts its own here
        self.evaluation = None if self.train else self._evaluation_batches()
        self._loader = self._torch_loader()
        # Python would send SIGTERM to the workers at exit and wait; they ignore it.
        self._finalizer = weakref.finalize(self, workers.stop, self._loader)

    def close(self) -> None:
        """End the worker processes; at exit that happens by itself."""
        self._finalizer()

    @property
    def processes(self) -> tuple[int, ...]:
        """The process ids of the workers that run."""
        workers = getattr(self._loader._iterator, "_workers", ())
        return tuple(worker.pid for worker in workers)

    @property
    def dropped(self) -> int:
        """How many samples an epoch leaves out because the last batch would be short."""
        if not self.train:
            return 0
        return len(self.dataset) - min(len(self.dataset), self._global_batches() * self.batch_size)

    @property
    def smallest_batch(self) -> int:
        """The fewest samples that one process gets in any training batch of an epoch."""
        rest = len(self.dataset) % self.batch_size
        full = min(self.batch_size, len(self.dataset))
        kept_short = rest and self._global_batches() * self.batch_size > len(self.dataset)
        return (rest if kept_short else full) // self.world_size

    def __len__(self) -> int:
        """Return the number of batches that this process gets in an epoch."""
        if self.evaluation is not None:
            return len(self.evaluation[self.rank :: self.world_size])
        return self._global_batches()

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Say where the next `iter()` begins: batch `batch` of `epoch`."""
        self._epoch, self._batch = epoch, batch

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the epoch from the position on.

        Raises:
            UserError: What a worker found wrong, as it would have been raised here.
            ResourceError: A worker process died or hangs.
            StopAskedError: A worker hangs, and a signal came.
        """
        self._asked_for.clear()
        try:
            batches = workers.started(self._loader, timeout=self.timeout)
            timeout = self.timeout if self.num_workers else None
            while batch := workers.next_of(batches, timeout=timeout, signals=self.signals):
                if isinstance(batch, _Failure):
                    raise batch.kind(batch.message)
                self._asked_for.popleft()
                yield batch
        except RuntimeError as error:
            workers.raise_death(error)
        except TimeoutError:
            names = ", ".join(self.dataset.name(index) for _, index in self._asked_for[0])
            raise ResourceError(
                f"a data-loading worker hangs: no batch for {self.timeout} s; one of {names}\n"
                '  fix: see that they can be read (a network disk that is gone?); "timeout" says '
                "how many seconds to wait"
            ) from None

    def endless(self) -> Iterator[Batch]:
        """Yield the batches of one epoch after the other."""
        for epoch in itertools.count(1):
            self.set_position(epoch)
            yield from self

    def _global_batches(self) -> int:
        full, rest = divmod(len(self.dataset), self.batch_size)
        # Every process needs a sample of every batch, or the others would wait for it for ever.
        if rest < self.world_size:
            return full
        return full if full and self.drop_last is not False else full + 1

    def _noted(self) -> Iterator[list[Key]]:
        for keys in self._remaining():
            self._asked_for.append(keys)
            yield keys

    def _remaining(self) -> Iterator[list[Key]]:
        if self.evaluation is not None:
            mine = self.evaluation[self.rank :: self.world_size]
            yield from ([(self._epoch, index) for index in batch] for batch in mine[self._batch :])
            return
        length = len(self.dataset)
        order = np.arange(length)
        if self.shuffle:
            order = epoch_order(length, seed=self.seed, epoch=self._epoch)
        for number in range(self._batch, self._global_batches()):
            whole = order[number * self.batch_size : (number + 1) * self.batch_size]
            begin, end = (
                len(whole) * part // self.world_size for part in (self.rank, self.rank + 1)
            )
            yield [(self._epoch, int(index)) for index in whole[begin:end]]

    def _evaluation_batches(self) -> list[list[int]]:
        """Group images of one size, in order; a group that fills up becomes a batch."""
        alike = self.batch_size == 1 or (self.dataset.val and self.dataset.crop_size is not None)
        batches: list[list[int]] = []
        open_groups: dict[tuple[int, int], list[int]] = {}
        for index in range(len(self.dataset)):
            size = (0, 0) if alike else self.dataset.known_size(index)
            group = open_groups.setdefault(size, [])
            group.append(index)
            if len(group) == self.batch_size:
                batches.append(open_groups.pop(size))
        return batches + list(open_groups.values())

    def _torch_loader(self) -> DataLoader[Batch | _Failure]:
        return _Loader(
            _Batches(self.dataset),
            batch_size=None,  # a key is a whole batch, so a worker collates it
            sampler=_Order(self._noted, len(self)),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=_unchanged,  # pyrefly: ignore[bad-argument-type] (no list: see batch_size)
            worker_init_fn=workers.start,
            timeout=workers.LOOK_AROUND if self.num_workers else 0,
            multiprocessing_context=START_METHOD if self.num_workers else None,
            pin_memory=self.pin_memory,
            generator=torch.Generator().manual_seed(self.seed),  # never the global one
        )


def _unchanged(batch: "Batch | _Failure") -> "Batch | _Failure":
    return batch

import os
import re
import signal
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from base.base_data_loader import BaseDataLoader
from base.base_dataset import BaseDataset
from base.workers import raise_death
from dataloaders.shapes import Shapes
from utils.errors import ConfigError, DataError, ResourceError
from utils.hardware.workers import usable_cores


@dataclass(kw_only=True, eq=False, repr=False)
class Sizes(BaseDataset):
    """Images whose sizes and failures the test decides."""

    sizes: tuple = ((8, 8),)
    fault: str = ""
    classes = ("a", "b")
    palette = ((0, 0, 0), (1, 1, 1))
    mean = (0.5,)
    std = (0.2,)

    def __len__(self):
        return len(self.sizes)

    def size(self, index):
        return self.sizes[index]

    def name(self, index):
        return f"image{index}"

    def load(self, index):
        if self.fault == "data":
            raise DataError(f"image{index}: broken")
        if self.fault == "gone":
            raise FileNotFoundError("gone")
        if self.fault == "slow":
            time.sleep(0.4)
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        height, width = self.sizes[index]
        return np.full((height, width, 1), index, np.uint8), np.ones((height, width), np.uint8)


def augmented(length=20):
    return Shapes(length=length, height=48, width=64, base_size=64, crop_size=32, augment=True,
                  flip=True, rotate=True, blur=True, seed=5)  # fmt: skip


def epoch(loader, number, start=0):
    loader.set_position(number, start)
    return [(b.images.clone(), b.masks.clone(), b.label_counts, b.indices) for b in loader]


def same(one, other):
    return len(one) == len(other) and all(
        a[2:] == b[2:] and all(torch.equal(x, y) for x, y in zip(a[:2], b[:2], strict=True))
        for a, b in zip(one, other, strict=True)
    )


def loader(data, **options):
    return BaseDataLoader(data, **({"batch_size": 6, "shuffle": True, "num_workers": 0, "seed": 9}
                                   | options))  # fmt: skip


def test_samples_do_not_depend_on_workers_or_start():
    with_0 = loader(augmented())
    reference = [epoch(with_0, 1), epoch(with_0, 2)]
    assert not same(reference[0], reference[1])
    for workers in (1, 2):
        other = loader(augmented(), num_workers=workers)
        assert same(epoch(other, 2, 1), reference[1][1:])
        assert same(epoch(other, 1), reference[0])
        other.close()


def test_a_seed_changes_order_and_augmentation():
    assert epoch(loader(augmented()), 0)[0][3] != epoch(loader(augmented(), seed=10), 0)[0][3]


def legacy_state():
    return np.random.get_state()[1].copy()  # noqa: NPY002 (the very generator that is not used)


def test_no_global_generator_is_drawn_from():
    data = loader(augmented())
    state, numpy_state = torch.random.get_rng_state(), legacy_state()
    epoch(data, 0)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (numpy_state == legacy_state()).all()


def test_a_batch_is_channels_last_in_the_files_dtype_with_its_label_counts():
    data = augmented()
    batch = next(iter(loader(data)))
    assert batch.images.shape == (6, 3, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.masks.shape == (6, 32, 32)
    assert batch.masks.dtype == torch.uint8
    assert batch.label_counts == tuple(int((batch.masks == label).sum()) for label in range(7))


def test_more_workers_than_cores_start_without_a_warning_of_torch():
    parts = BaseDataLoader(augmented(4), batch_size=2, num_workers=usable_cores() + 1)
    assert len(list(parts)) == 2  # a warning would be an error here
    parts.close()


def test_processes_share_each_global_batch():
    whole = epoch(loader(augmented(), batch_size=7, drop_last=False), 3)
    parts = [epoch(loader(augmented(), batch_size=7, drop_last=False, rank=rank, world_size=2), 3)
             for rank in (0, 1)]  # fmt: skip
    assert [a[3] + b[3] for a, b in zip(*parts, strict=True)] == [batch[3] for batch in whole]


@pytest.mark.parametrize(
    ("length", "options", "batches", "dropped", "smallest"),
    [
        (20, {}, 3, 2, 6),
        (20, {"drop_last": False}, 4, 0, 2),
        (18, {}, 3, 0, 6),
        (4, {}, 1, 0, 4),
        (4, {"drop_last": True}, 1, 0, 4),
        (19, {"drop_last": False, "world_size": 2}, 3, 1, 3),
        (20, {"drop_last": False, "world_size": 2}, 4, 0, 1),
        (20, {"train": False, "shuffle": False}, 4, 0, 6),
    ],
)
def test_the_short_last_batch(length, options, batches, dropped, smallest):
    data = loader(augmented(length), **options)
    assert (len(data), data.dropped, data.smallest_batch) == (batches, dropped, smallest)
    assert len(epoch(data, 0)) == batches


def test_an_epoch_sees_every_sample_once():
    seen = [index for batch in epoch(loader(augmented(), drop_last=False), 4) for index in batch[3]]
    assert sorted(seen) == list(range(20))
    assert seen != list(range(20))


def test_validation_batches_hold_one_size_and_are_dealt_whole():
    sizes = ((8, 8), (8, 9), (8, 8), (8, 9), (8, 8), (9, 9))
    data = Sizes(sizes=sizes, val=True)
    whole = [batch[3] for batch in epoch(loader(data, batch_size=2, train=False), 0)]
    assert whole == [(0, 2), (1, 3), (4,), (5,)]
    dealt = [
        [b[3] for b in epoch(loader(data, batch_size=2, train=False, rank=rank, world_size=3), 0)]
        for rank in range(3)
    ]
    assert dealt == [[(0, 2), (5,)], [(1, 3)], [(4,)]]


def test_center_crops_make_batches_of_any_images():
    data = Sizes(sizes=((8, 8), (8, 9), (9, 8)), val=True, crop_size=8)
    batches = epoch(loader(data, batch_size=3, train=False), 0)
    assert [batch[0].shape for batch in batches] == [(3, 1, 8, 8)]


def test_images_of_several_sizes_in_a_training_batch_are_explained():
    data = Sizes(sizes=((8, 8), (8, 9)))
    message = re.escape("images of one batch differ in size: image") + ".*\n.*crop_size"
    with pytest.raises(ConfigError, match=message):
        epoch(loader(data, batch_size=2, num_workers=1), 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_error_leaves_a_worker_as_it_is(workers):
    data = loader(Sizes(fault="data"), batch_size=1, num_workers=workers)
    with pytest.raises(DataError) as caught:
        epoch(data, 0)
    assert str(caught.value) == "image0: broken"
    data.close()


def test_a_dead_worker_is_a_resource_error():
    data = loader(Sizes(fault="kill"), batch_size=1, num_workers=1)
    with pytest.raises(ResourceError, match=r"worker process died(.|\n)*shm-size(.|\n)*num_work"):
        epoch(data, 0)
    data.close()


def test_other_runtime_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes do not match"):
        raise_death(RuntimeError("shapes do not match"))


def test_workers_outlive_the_signals_of_their_terminal():
    data = loader(augmented(), num_workers=1)
    epoch(data, 0)
    (worker,) = data._loader._iterator._workers
    os.kill(worker.pid, signal.SIGTERM)
    os.kill(worker.pid, signal.SIGINT)
    assert len(epoch(data, 1)) == 3
    assert worker.is_alive()
    data.close()
    worker.join(10)
    assert not worker.is_alive()


def test_a_process_with_workers_ends(tmp_path):
    """Python ends its children with SIGTERM, which ours ignore: the loader must be faster."""
    import subprocess
    import sys
    from pathlib import Path

    script = (
        "from base.base_data_loader import BaseDataLoader\n"
        "from dataloaders.shapes import Shapes\n"
        "loader = BaseDataLoader(Shapes(length=4), batch_size=2, num_workers=1)\n"
        "half_read = iter(loader)\n"
        "next(half_read)\n"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True, timeout=60)


def test_without_workers_an_error_in_loading_stays_what_it_is():
    with pytest.raises(FileNotFoundError, match="gone"):
        epoch(loader(Sizes(fault="gone"), batch_size=1), 0)


def test_an_epoch_left_half_read_may_be_begun_again_however_slow_a_batch_is(monkeypatch):
    monkeypatch.setattr("base.workers.LOOK_AROUND", 0.1)
    data = loader(Sizes(sizes=((8, 8),) * 6, fault="slow"), batch_size=1, num_workers=1)
    assert next(iter(data)).indices == next(iter(data)).indices
    data.close()

"""Randomness as pure functions of (seed, epoch, index): nothing to save, nothing global.

A run that resumes, or uses another number of workers, therefore sees the same samples.
"""

import numpy as np

# One number for each use of the seed, so that no two uses share a stream.
_ORDER = 1
_SAMPLE = 2
_SPLIT = 3
_SHAPES = 4
_CHECK = 5
_ITERATION = 6
_CROP = 7
_EFFECT = 8


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator that augments sample `index` in `epoch`; all numbers >= 0."""
    return _generator(_SAMPLE, seed, epoch, index)


def crop_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator that chooses which part of sample `index` is cut out in `epoch`."""
    return _generator(_CROP, seed, epoch, index)


def effect_generator(name: str, seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator of one named effect on sample `index` in `epoch`."""
    return _generator(_EFFECT, int.from_bytes(name.encode()), seed, epoch, index)


def epoch_order(length: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the order of an epoch: a permutation of range(length), int64 (length,)."""
    return _generator(_ORDER, seed, epoch).permutation(length)


def split_order(length: int, *, seed: int) -> np.ndarray:
    """Return the permutation that decides which samples are held out, int64 (length,)."""
    return _generator(_SPLIT, seed).permutation(length)


def check_order(length: int, *, seed: int) -> np.ndarray:
    """Return the permutation whose head is looked at before a training, int64 (length,)."""
    return _generator(_CHECK, seed).permutation(length)


def image_generator(*key: int) -> np.random.Generator:
    """Return the generator that draws an image of the embedded data set."""
    return _generator(_SHAPES, *key)


def iteration_seed(seed: int, step: int, rank: int) -> int:
    """Return torch's seed for iteration `step` in process `rank`: what dropout draws from."""
    return int(_generator(_ITERATION, seed, step, rank).integers(2**63))

"""Memory: whether it ran out, what to do then, how much is free, and was used at most."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath

import torch

from utils.errors import ResourceError

# What the allocators and libraries of CPU and GPU say; torch has a class for CUDA's own only.
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
_CROP = 512  # a usual size of validation crops
_ROOT = Path("/")


def memory_advice(
    batch_size: int, accumulate: int, *, shares: int, smallest: int
) -> AbstractContextManager[None]:
    """Turn running out of memory into the settings that compute the same in less.

    Args:
        batch_size: `train_loader.args.batch_size`: images of a batch, all processes together.
        accumulate: `trainer.accumulate`: batches of an update.
        shares: Devices among which a batch is divided.
        smallest: The fewest images that one of them can train on.

    Raises:
        ResourceError: The device's or the host's memory did not suffice.
    """
    pairs = _pairs(batch_size, accumulate, multiple=shares, least=smallest * shares)
    times = f" x accumulate {accumulate}" if accumulate > 1 else ""
    return _explained(
        f"training with batch_size {batch_size}{times}",
        _advice(pairs, effective=batch_size * accumulate),
    )


def validation_memory_advice(
    batch_size: int, *, crop_size: int | None, accumulate: int | None = None
) -> AbstractContextManager[None]:
    """Turn running out of memory in validation into the settings that need less.

    Args:
        batch_size: Images of a validation batch.
        crop_size: What validation images are cut to; None: they are whole.
        accumulate: `trainer.accumulate` where `val_split` makes the two loaders share a batch
            size; None where `val_loader` has its own.

    Raises:
        ResourceError: The device's or the host's memory did not suffice.
    """
    size = f"{crop_size} x {crop_size}" if crop_size else "whole images"
    return _explained(
        f"validation with batch_size {batch_size} of {size}",
        _validation_advice(batch_size, crop_size, accumulate),
    )


def building_memory(name: str) -> AbstractContextManager[None]:
    """Turn a network that no memory holds into a message; raises ResourceError."""
    return _explained(f"building {name}", "  fix: smaller numbers in arch.args\n")


@contextmanager
def _explained(doing: str, advice: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise ResourceError(
            f"out of memory in {doing}: {first_line}\n{advice}"
            "  what was saved is sound: go on with --resume and --set as above"
        ) from error


def ran_out(error: BaseException) -> bool:
    """Whether an error of torch means that memory ran out, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def peak_memory(device: torch.device) -> int:
    """The most bytes in use so far, 0 if unknown: on CUDA by tensors, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory() -> int:
    """Return the bytes of memory that this process may still take.

    The machine's and those of the limits that a container, SLURM or systemd set, on whatever level.
    Page cache counts as free: it gives way. Where the system does not tell, a number that forbids
    nothing.
    """
    meminfo = _lines(_ROOT / "proc/meminfo")
    free = [int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:")]
    for line in _lines(_ROOT / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        own = PurePosixPath(path.lstrip("/"))
        for group in (own, *own.parents):  # a container may see no more of a path than its top
            if not controllers:
                free += _left(Path("sys/fs/cgroup") / group, "max", "current", "")
            elif "memory" in controllers.split(","):
                place = Path("sys/fs/cgroup/memory") / group
                free += _left(place, "limit_in_bytes", "usage_in_bytes", "total_")
    return max(0, min(free, default=2**62))


def _left(group: Path, limit: str, used: str, prefix: str) -> list[int]:
    """What a control group's limit leaves, where it has one; `prefix` is that of its page cache."""
    limits, uses, stat = (_lines(_ROOT / group / f"memory.{x}") for x in (limit, used, "stat"))
    if not limits or not uses or not limits[0].isdigit():
        return []
    sizes = dict(line.split() for line in stat)
    cache = (int(sizes.get(f"{prefix}{part}_file", 0)) for part in ("active", "inactive"))
    return [int(limits[0]) - int(uses[0]) + sum(cache)]


def _pairs(batch_size: int, accumulate: int, *, multiple: int, least: int) -> list[tuple[int, int]]:
    """Smaller batches with the same number of images an update, the largest first."""
    effective = batch_size * accumulate
    return [
        (size, effective // size)
        for size in range(batch_size - 1, 0, -1)
        if effective % size == 0 and size % multiple == 0 and size >= least
    ]


def _advice(pairs: list[tuple[int, int]], *, effective: int) -> str:
    others = (
        "  less memory otherwise: --set trainer.recompute=true, a smaller train_loader.args."
        'crop_size, trainer.precision "bf16"\n'
    )
    if not pairs:
        return others
    lines = "".join(
        f"    --set train_loader.args.batch_size={size} trainer.accumulate={times}\n"
        for size, times in pairs
    )
    return f"  the same {effective} images an update in less memory:\n{lines}{others}"


def _validation_advice(batch_size: int, crop_size: int | None, accumulate: int | None) -> str:
    lines = []
    if batch_size > 1 and accumulate is None:
        lines.append(f"val_loader.args.batch_size={batch_size // 2}")
    elif batch_size > 1:
        lines += [
            f"train_loader.args.batch_size={size} trainer.accumulate={times}"
            for size, times in _pairs(batch_size, accumulate or 1, multiple=1, least=1)[:1]
        ]
    if accumulate is None:
        smaller = crop_size // 2 if crop_size else _CROP
        lines.append(
            f"val_loader.args.val=true val_loader.args.crop_size={smaller}  (scores crops)"
        )
    lines.append("trainer.val=false  (and score later with evaluate.py --mode sliding)")
    return "  validate in less memory:\n" + "".join(f"    --set {line}\n" for line in lines)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []

"""Which device a command uses: -d as GPU indices, or cpu, cuda, mps."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from utils.errors import ConfigError

if TYPE_CHECKING:
    import torch

_NAMES = ("cpu", "cuda", "mps")


def restrict_gpus(device: str | None) -> None:
    """Show only the GPUs that `--device 0,2` lists; must run before torch starts CUDA.

    Raises:
        ConfigError: Neither indices nor a known name.
    """
    if device is None or device in _NAMES:
        return
    if not re.fullmatch(r"\d+(,\d+)*", device):
        raise ConfigError(
            f"--device: found {device!r}, expected GPU indices such as 0 or 0,1, "
            f"or one of {', '.join(_NAMES)}"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = device


def asked_device(device: str | None, *, n_gpu: int) -> str | None:
    """What `--device` and the config's `n_gpu` say together; None leaves it to `pick_device`.

    Raises:
        ConfigError: A GPU on the command line, none in the config.
    """
    if n_gpu > 0:
        return device
    if device not in (None, "cpu"):
        raise ConfigError(
            f"--device: found {device}, and n_gpu is 0, which is the CPU\n"
            "  fix: --set n_gpu=1, or --device cpu"
        )
    return "cpu"


def pick_device(device: str | None, *, local_rank: int = 0) -> "torch.device":
    """The device of this process.

    Args:
        device: The command line's `--device`; None takes a GPU where there is one.
        local_rank: This process's number on its machine: one GPU each.

    Raises:
        ConfigError: The device asked for is not there.
    """
    import torch

    if device == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("--device mps: this machine has none; use --device cpu")
        return torch.device("mps")
    if device == "cpu" or (device is None and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(f"--device {device}: torch sees no GPU here; use --device cpu")
    # srun may show each process its own GPU only, which then is number 0 in every one of them.
    index = local_rank if torch.cuda.device_count() > 1 else 0
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def device_name(device: "torch.device") -> str:
    """What a device is called: a GPU's own name, or its type and the CPU's threads."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()} ({torch.get_num_threads()} threads)"


def set_determinism(*, deterministic: bool) -> None:
    """Same bits each time, where asked for; must run before torch starts CUDA."""
    import torch

    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(mode=True)


@contextmanager
def kernel_search(*, one_size: bool) -> Iterator[None]:
    """Let cuDNN time its kernels where all images have one size: a search takes seconds a size.

    Never under deterministic algorithms: the next search may end otherwise.
    """
    import torch

    torch.backends.cudnn.benchmark = one_size and not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


@contextmanager
def determinism_advice() -> Iterator[None]:
    """Turn torch's refusal of an operation under deterministic algorithms into a message.

    Raises:
        ConfigError: An operation has no deterministic version on this device.
    """
    try:
        yield
    except RuntimeError as error:
        operation, refused, _ = str(error).partition(" does not have a deterministic impl")
        if not refused:
            raise
        raise ConfigError(
            f"deterministic: torch has no deterministic {operation} on this device\n"
            '  fix: "deterministic": false; for a vision transformer, "img_size": <crop_size> in '
            '"backbone" spares it resizing its position embedding in each step'
        ) from error

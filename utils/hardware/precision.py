"""Number formats: one choice of precision, one autocast, for every device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> str:
    """Turn "auto" into what the device has in hardware.

    Args:
        precision: "auto", "fp32", "bf16" or "fp16".
        device: Where the model runs.

    Returns:
        "bf16" where a CPU or GPU multiplies it in hardware, else "fp32"; others unchanged.
    """
    if precision != "auto":
        return precision
    return "bf16" if _has_bf16(device) else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a forward pass runs; without effect for "fp32"."""
    return torch.autocast(device.type, _DTYPES[precision], enabled=precision != "fp32")


@contextmanager
def full_fp32() -> Iterator[None]:
    """Compute fp32 in full; by default cuDNN's convolutions would multiply in TF32."""
    kinds: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # pyrefly: ignore[missing-attribute]
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Older releases of torch cannot tell, and emulated bf16 is slower than fp32.
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False

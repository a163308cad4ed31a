"""An optimizer's saved state, taken where it is what this optimizer keeps.

torch's fused kernels believe the shapes: state of another one lets them write past its end.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.errors import CheckpointError, ConfigError
from utils.files.matching import match


def restore_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Go on with a saved state; the options of the groups stay those of `optimizer`.

    Raises:
        ConfigError: It is another optimizer's, or that of other groups.
        CheckpointError: A tensor has another shape or kind of number.
    """
    groups = optimizer.state_dict()["param_groups"]
    other = [group["params"] for group in state["param_groups"]]
    fault = "other groups" if other != [group["params"] for group in groups] else ""
    restored: dict[int, dict[str, Tensor]] = {}
    for index, kept in enumerate(_kept(optimizer)):
        if fault or not (found := state["state"].get(index)):
            continue  # a parameter without an update has no state
        taken, misfits, missing, _ = match(found, kept)
        # A number of its own counts or shrinks; below zero it makes torch divide by zero.
        misfits += [
            f"{name}: below 0" for name, value in taken.items() if not value.dim() and value < 0
        ]
        if misfits:
            raise CheckpointError(f"the checkpoint's optimizer.state[{index}].{misfits[0]}")
        fault = f"no {missing[0]}" if missing else ""
        # In the parameter's own memory layout, which the fused kernels take for granted.
        restored[index] = {name: kept[name].copy_(value) for name, value in taken.items()}
    if fault:
        raise ConfigError(
            f"the checkpoint's optimizer does not fit this config's ({fault} in the file)\n"
            "  keep optimizer.type, its args and differential_lr, or start anew with init_from"
        )
    optimizer.load_state_dict({"state": restored, "param_groups": groups})


def state_bytes(optimizer: Optimizer) -> int:
    """What the optimizer will keep once it has updated."""
    return sum(slot.nbytes for kept in _kept(optimizer) for slot in kept.values())


def _kept(optimizer: Optimizer) -> Iterator[dict[str, Tensor]]:
    """What is kept for each parameter: as a small twin does for one number a group."""
    numbers = [nn.Parameter(torch.zeros(1)) for _ in optimizer.param_groups]
    groups = zip(optimizer.param_groups, numbers, strict=True)
    kind: Any = type(optimizer)
    twin = kind([{**group, "params": [number]} for group, number in groups])
    for number in numbers:
        number.grad = torch.zeros(1)
    twin.step()
    for group, number in zip(optimizer.param_groups, numbers, strict=True):
        for parameter in group["params"]:
            yield {
                name: torch.empty_like(
                    parameter if slot.dim() else slot, dtype=slot.dtype, device="cpu"
                )
                for name, slot in twin.state[number].items()
            }

"""Torch's optimizers, and what a config may give them: names, ranges, and what each means.

Torch's own signatures take more (`foreach`, `capturable`, tensors) and give no ranges, so the
arguments that a config may set stand here. Their defaults are torch's.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from torch.optim import Optimizer

from utils.errors import ConfigError

_Share = Annotated[float, Ge(0), Lt(1)]
_NonNegative = Annotated[float, Ge(0)]

_ARGUMENTS: Mapping[str, tuple[Any, str]] = {
    "lr": (
        Annotated[float, Gt(0)],
        "Learning rate of the decoder, and of the backbone without `differential_lr`.",
    ),
    "momentum": (_Share, "Share of the last step that is repeated."),
    "weight_decay": (_NonNegative, "Factor of the L2 penalty."),
    "dampening": (_NonNegative, "Share by which a new gradient is damped in the momentum."),
    "nesterov": (bool, "Look ahead along the momentum."),
    "betas": (
        tuple[_Share, _Share],
        "Decay of the running means of the gradient and of its square.",
    ),
    "eps": (_NonNegative, "Added to the denominator."),
    "amsgrad": (bool, "Divide by the largest mean square so far."),
    "alpha": (_Share, "Decay of the running mean of the squared gradient."),
    "centered": (bool, "Divide by the variance instead of the mean square."),
    "lr_decay": (_NonNegative, "Decay of the rate with the updates."),
}
_DECOUPLED = {"weight_decay": "Share of the rate by which weights shrink at every update."}


def _entry(
    optimizer: type[Optimizer],
    arguments: str,
    *,
    fuses: bool = False,
    meanings: Mapping[str, str] | None = None,
) -> Callable[..., Optimizer]:
    """A function whose signature and docstring say what a config may give an optimizer.

    Args:
        optimizer: A class of torch's.
        arguments: Names of `_ARGUMENTS`.
        fuses: Whether torch has one kernel that updates all weights, on CPU and CUDA.
        meanings: What an argument means here, where that differs from `_ARGUMENTS`.
    """
    names = arguments.split()
    theirs = inspect.signature(optimizer).parameters

    def build(params: Sequence[dict[str, Any]], **chosen: Any) -> Optimizer:
        _check_nesterov(chosen)
        # Dampened SGD does not dampen its first update; on the device nothing tells which that is.
        if fuses:
            chosen["fused"] = _can_fuse(params) and not chosen.get("dampening")
        return optimizer(params, **chosen)

    keyword = inspect.Parameter.KEYWORD_ONLY
    defaults = {name: _as_float(theirs[name].default) for name in names}
    defaults["lr"] = inspect.Parameter.empty
    parameters = [inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [inspect.Parameter(name, keyword, default=defaults[name]) for name in names]
    texts = {name: _ARGUMENTS[name][1] for name in names} | dict(meanings or {})
    described = "\n".join(f"    {name}: {text}" for name, text in texts.items())
    build.__annotations__ = {name: _ARGUMENTS[name][0] for name in names}
    build.__doc__ = f"`torch.optim.{optimizer.__name__}`.\n\nArgs:\n{described}\n"
    build.__signature__ = inspect.Signature(parameters)  # pyrefly: ignore[missing-attribute]
    return build


def _as_float(default: Any) -> Any:
    """0 as 0.0: torch writes both."""
    return float(default) if type(default) is int else default


def _check_nesterov(chosen: Mapping[str, Any]) -> None:
    momentum, dampening = chosen.get("momentum", 0.0), chosen.get("dampening", 0.0)
    if chosen.get("nesterov") and (momentum == 0 or dampening > 0):
        raise ConfigError(
            f"optimizer.args.nesterov: found true with momentum {momentum} and dampening "
            f"{dampening}, expected a momentum above 0 and no dampening; set momentum, or delete "
            "nesterov"
        )


def _can_fuse(params: Sequence[dict[str, Any]]) -> bool:
    """Whether every weight is where torch has all fused kernels.

    Fused, one kernel updates all weights, and an update is withheld on the device.
    """
    return all(p.device.type in ("cpu", "cuda") for group in params for p in group["params"])


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": _entry(torch.optim.SGD, "lr momentum weight_decay dampening nesterov", fuses=True),
    "Adam": _entry(
        torch.optim.Adam,
        "lr betas eps weight_decay amsgrad",
        fuses=True,
        meanings={"weight_decay": "Factor of the L2 penalty; AdamW has the other weight decay."},
    ),
    "AdamW": _entry(
        torch.optim.AdamW,
        "lr betas eps weight_decay amsgrad",
        fuses=True,
        meanings=_DECOUPLED,
    ),
    "NAdam": _entry(torch.optim.NAdam, "lr betas eps weight_decay"),
    "RAdam": _entry(torch.optim.RAdam, "lr betas eps weight_decay"),
    "RMSprop": _entry(torch.optim.RMSprop, "lr alpha eps weight_decay momentum centered"),
    # Not fused: torch 2.10 refuses that on CUDA.
    "Adagrad": _entry(torch.optim.Adagrad, "lr lr_decay weight_decay eps"),
}
"""What `optimizer.type` may say."""

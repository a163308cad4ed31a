"""Torch's optimisers behind signatures that say what a config may give them."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from torch.optim import Optimizer

from utils.errors import ConfigError

Rate = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Lt(1)]
Parameters = Sequence[dict[str, Any]]


def sgd(
    params: Parameters,
    *,
    lr: Rate,
    momentum: Share = 0.0,
    weight_decay: NonNegative = 0.0,
    dampening: NonNegative = 0.0,
    nesterov: bool = False,
) -> Optimizer:
    """`torch.optim.SGD`.

    Args:
        params: Parameter groups (set by the program).
        lr: Learning rate of the decoder, and of the backbone without `differential_lr`.
        momentum: Share of the last step that is repeated.
        weight_decay: Factor of the L2 penalty.
        dampening: Share by which a new gradient is damped when it enters the momentum.
        nesterov: Look ahead along the momentum.

    Raises:
        ConfigError: Nesterov without momentum, or with dampening.
    """
    if nesterov and (momentum == 0 or dampening > 0):
        raise ConfigError(
            f"optimizer.args.nesterov: found true with momentum {momentum} and dampening "
            f"{dampening}, expected a momentum above 0 and no dampening; set momentum, or delete "
            "nesterov"
        )
    return torch.optim.SGD(
        params,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        dampening=dampening,
        nesterov=nesterov,
        # The first update is not dampened, and on the device nothing tells which one that is.
        fused=_can_fuse(params) and dampening == 0,
    )


def adam(
    params: Parameters,
    *,
    lr: Rate,
    betas: tuple[Share, Share] = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    amsgrad: bool = False,
) -> Optimizer:
    """`torch.optim.Adam`; its weight decay is L2 regularisation, see AdamW for the other.

    Args:
        params: Parameter groups (set by the program).
        lr: Learning rate of the decoder, and of the backbone without `differential_lr`.
        betas: Decay of the running means of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: Factor of the L2 penalty.
        amsgrad: Divide by the largest mean square so far.
    """
    return torch.optim.Adam(
        params,
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        fused=_can_fuse(params),
    )


def adamw(
    params: Parameters,
    *,
    lr: Rate,
    betas: tuple[Share, Share] = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.01,
    amsgrad: bool = False,
) -> Optimizer:
    """`torch.optim.AdamW`.

    Args:
        params: Parameter groups (set by the program).
        lr: Learning rate of the decoder, and of the backbone without `differential_lr`.
        betas: Decay of the running means of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: Share of the rate by which weights shrink at every update.
        amsgrad: Divide by the largest mean square so far.
    """
    return torch.optim.AdamW(
        params,
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        fused=_can_fuse(params),
    )


def nadam(
    params: Parameters,
    *,
    lr: Rate,
    betas: tuple[Share, Share] = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Optimizer:
    """`torch.optim.NAdam`.

    Args:
        params: Parameter groups (set by the program).
        lr: Learning rate of the decoder, and of the backbone without `differential_lr`.
        betas: Decay of the running means of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: Factor of the L2 penalty.
    """
    return torch.optim.NAdam(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


def radam(
    params: Parameters,
    *,
    lr: Rate,
    betas: tuple[Share, Share] = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Optimizer:
    """`torch.optim.RAdam`.

    Args:
        params: Parameter groups (set by the program).
        lr: Learning rate of the decoder, and of the backbone without `differential_lr`.
        betas: Decay of the running means of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: Factor of the L2 penalty.
    """
    return torch.optim.RAdam(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


def rmsprop(
    params: Parameters,
    *,
    lr: Rate,
    alpha: Share = 0.99,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    momentum: Share = 0.0,
    centered: bool = False,
) -> Optimizer:
    """`torch.optim.RMSprop`.

    Args:
        params: Parameter groups (set by the program).
        lr: Learning rate of the decoder, and of the backbone without `differential_lr`.
        alpha: Decay of the running mean of the squared gradient.
        eps: Added to the denominator.
        weight_decay: Factor of the L2 penalty.
        momentum: Share of the last step that is repeated.
        centered: Divide by the variance instead of the mean square.
    """
    return torch.optim.RMSprop(
        params,
        lr=lr,
        alpha=alpha,
        eps=eps,
        weight_decay=weight_decay,
        momentum=momentum,
        centered=centered,
    )


def adagrad(
    params: Parameters,
    *,
    lr: Rate,
    lr_decay: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    eps: NonNegative = 1e-10,
) -> Optimizer:
    """`torch.optim.Adagrad`.

    Args:
        params: Parameter groups (set by the program).
        lr: Learning rate of the decoder, and of the backbone without `differential_lr`.
        lr_decay: Decay of the rate with the updates.
        weight_decay: Factor of the L2 penalty.
        eps: Added to the denominator.
    """
    # Not fused: torch 2.10 refuses that on CUDA.
    return torch.optim.Adagrad(
        params,
        lr=lr,
        lr_decay=lr_decay,
        weight_decay=weight_decay,
        eps=eps,
    )


def _can_fuse(params: Parameters) -> bool:
    """Whether every weight is where torch has all fused kernels.

    Fused, one kernel updates all weights, and an update is withheld on the device.
    """
    return all(p.device.type in ("cpu", "cuda") for group in params for p in group["params"])

"""Torch's optimisers by name, with checked arguments, and the parameter groups of a model."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Protocol

import torch
from annotated_types import Ge, Gt, Lt
from torch import nn
from torch.optim import Optimizer

from utils.registry import build

Rate = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Lt(1)]
Parameters = Iterable[dict[str, Any]]


class TwoPartModel(Protocol):
    """A model that tells its backbone from its decoder."""

    def backbone_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters that came with pretrained weights, or none."""
        ...

    def decoder_parameters(self) -> Iterable[nn.Parameter]:
        """All others."""
        ...

    def modules(self) -> Iterable[nn.Module]:
        """Every module of the model."""
        ...


def sgd(
    params: Parameters,
    *,
    lr: Rate,
    momentum: Share = 0.0,
    weight_decay: NonNegative = 0.0,
    dampening: NonNegative = 0.0,
    nesterov: bool = False,
) -> Optimizer:
    """`torch.optim.SGD`."""
    return torch.optim.SGD(
        params,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        dampening=dampening,
        nesterov=nesterov,
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
    """`torch.optim.Adam`; its weight decay is L2 regularisation, see AdamW for the other."""
    return torch.optim.Adam(
        params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad
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
    """`torch.optim.AdamW`."""
    return torch.optim.AdamW(
        params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad
    )


def nadam(
    params: Parameters,
    *,
    lr: Rate,
    betas: tuple[Share, Share] = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Optimizer:
    """`torch.optim.NAdam`."""
    return torch.optim.NAdam(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


def radam(
    params: Parameters,
    *,
    lr: Rate,
    betas: tuple[Share, Share] = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Optimizer:
    """`torch.optim.RAdam`."""
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
    """`torch.optim.RMSprop`."""
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
    """`torch.optim.Adagrad`."""
    return torch.optim.Adagrad(params, lr=lr, lr_decay=lr_decay, weight_decay=weight_decay, eps=eps)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": sgd,
    "Adam": adam,
    "AdamW": adamw,
    "NAdam": nadam,
    "RAdam": radam,
    "RMSprop": rmsprop,
    "Adagrad": adagrad,
}


def build_optimizer(
    model: TwoPartModel,
    *,
    name: str,
    args: Mapping[str, object],
    differential_lr: bool = False,
    backbone_lr_factor: float = 0.1,
    no_decay_norm_bias: bool = False,
) -> Optimizer:
    """The optimiser of a model, with its parameter groups.

    Frozen parameters are left out.

    Args:
        model: Says which parameters are its backbone.
        name: A key of `OPTIMIZERS`.
        args: The optimiser's arguments, `lr` among them.
        differential_lr: Two groups: 0 the decoder, 1 the backbone.
        backbone_lr_factor: The rate of group 1 as a share of `lr`.
        no_decay_norm_bias: Weight decay off for norms and biases, which then form groups of
            their own behind the others, in the same order.

    Raises:
        ConfigError: Unknown name, or arguments that the optimiser does not take.
    """
    decoder, backbone = list(model.decoder_parameters()), list(model.backbone_parameters())
    parts = [(decoder, 1.0), (backbone, backbone_lr_factor)]
    if not differential_lr:
        parts = [(decoder + backbone, 1.0)]
    plain = _norms_and_biases(model) if no_decay_norm_bias else set()
    groups: list[tuple[list[nn.Parameter], float, bool]] = []
    for decays in (True, False) if no_decay_norm_bias else (True,):
        for parameters, factor in parts:
            chosen = [p for p in parameters if p.requires_grad and (id(p) in plain) != decays]
            groups.append((chosen, factor, decays))
    params = [{"params": parameters} for parameters, _, _ in groups]
    optimizer = build("optimizer", OPTIMIZERS, name, args, params=params)
    for group, (_, factor, decays) in zip(optimizer.param_groups, groups, strict=True):
        group["lr"] *= factor
        if not decays and "weight_decay" in group:
            group["weight_decay"] = 0.0
    return optimizer


def _norms_and_biases(model: TwoPartModel) -> set[int]:
    """Identities of all parameters of normalisation layers, and of every bias.

    Norm layers and biases are told by shape: they, and a PReLU's slopes, are the parameters of
    at most one dimension, whatever a layer's class is called.
    """
    return {id(p) for module in model.modules() for p in module.parameters(False) if p.dim() <= 1}

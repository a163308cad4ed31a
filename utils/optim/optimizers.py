"""Optimizers by name, and the parameter groups of a model."""

from collections.abc import Iterable
from typing import Protocol

from torch import nn
from torch.optim import Optimizer

from utils.config.registry import Choice
from utils.optim.torch_optimizers import OPTIMIZERS

__all__ = ["OPTIMIZERS", "build_optimizer"]


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


def build_optimizer(
    model: TwoPartModel,
    choice: Choice[Optimizer],
    *,
    differential_lr: bool = False,
    backbone_lr_factor: float = 0.1,
    no_decay_norm_bias: bool = False,
) -> Optimizer:
    """The optimizer of a model, with its parameter groups.

    Frozen parameters are left out.

    Args:
        model: Says which parameters are its backbone.
        choice: From `OPTIMIZERS`.
        differential_lr: Two groups: 0 the decoder, 1 the backbone.
        backbone_lr_factor: The rate of group 1 as a share of `lr`.
        no_decay_norm_bias: Weight decay off for norms and biases, which then form groups of
            their own behind the others, in the same order.

    Raises:
        ConfigError: A value that torch's optimizer refuses.
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
    optimizer = choice.build(params=params)
    for group, (_, factor, decays) in zip(optimizer.param_groups, groups, strict=True):
        group["lr"] *= factor
        if not decays and "weight_decay" in group:
            group["weight_decay"] = 0.0
    return optimizer


def _norms_and_biases(model: TwoPartModel) -> set[int]:
    """Identities of all parameters of normalization layers, and of every bias.

    Norm layers and biases are told by shape: they, and a PReLU's slopes, are the parameters of
    at most one dimension, whatever a layer's class is called.
    """
    return {id(p) for module in model.modules() for p in module.parameters(False) if p.dim() <= 1}

"""Optimizers by name, and the parameter groups of a model."""

from collections.abc import Iterable, Sequence
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
    layers: Sequence[tuple[list[nn.Parameter], float]] | None = None,
    no_decay_norm_bias: bool = False,
) -> Optimizer:
    """The optimizer of a model, with its parameter groups.

    Frozen parameters are left out.

    Args:
        model: Says which parameters are its backbone.
        choice: From `OPTIMIZERS`.
        differential_lr: Two groups: 0 the decoder, 1 the backbone.
        backbone_lr_factor: The rate of group 1 as a share of `lr`.
        layers: The backbone's layers, each with its rate as a share of the backbone's: a group for
            each. They imply `no_decay_norm_bias`.
        no_decay_norm_bias: Weight decay off for norms, biases, position tables and tokens, which
            then form groups of their own behind the others, in the same order.
    """
    decoder, backbone = list(model.decoder_parameters()), list(model.backbone_parameters())
    factor = backbone_lr_factor if differential_lr else 1.0
    parts = [(decoder, 1.0), *((own, factor * rate) for own, rate in layers or [(backbone, 1.0)])]
    if not differential_lr and layers is None:
        parts = [(decoder + backbone, 1.0)]
    undecayed = no_decay_norm_bias or layers is not None
    plain = _no_weights(model) if undecayed else set()
    groups: list[tuple[list[nn.Parameter], float, bool]] = []
    for decays in (True, False) if undecayed else (True,):
        for parameters, rate in parts:
            chosen = [p for p in parameters if p.requires_grad and (id(p) in plain) != decays]
            groups.append((chosen, rate, decays))
    params = [{"params": parameters} for parameters, _, _ in groups]
    optimizer = choice.build(params=params)
    for group, (_, rate, decays) in zip(optimizer.param_groups, groups, strict=True):
        group["lr"] *= rate
        if not decays and "weight_decay" in group:
            group["weight_decay"] = 0.0
    return optimizer


def _no_weights(model: TwoPartModel) -> set[int]:
    """Identities of all parameters that are no weights of linear layers or convolutions.

    Norm layers and biases are told by shape: they, and a PReLU's slopes, are the parameters of
    at most one dimension, whatever a layer's class is called. Position tables and tokens, which
    may have more, are told by name: they are not called a weight.
    """
    own = (named for module in model.modules() for named in module.named_parameters(recurse=False))
    return {id(p) for name, p in own if p.dim() <= 1 or not name.endswith("weight")}

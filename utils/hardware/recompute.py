"""Gradient checkpointing: an encoder's blocks are computed again in backward, not remembered.

Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016), section 4: only the inputs of
the blocks stay in memory; a second forward of each block, about a third more time, replaces its
inner features.
"""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

_INNER_LAYERS = 2  # a block with fewer would keep as much as it forgets


def recompute_blocks(network: nn.Module | None) -> int:
    """Let the repeated blocks of an encoder forget what is inside them, in training.

    Args:
        network: The encoder; changed in place. Names of weights and results stay as they were.

    Returns:
        How many blocks were found: members of an `nn.Sequential` with two or more convolutions
        or linear layers, such as the residual blocks of a ResNet.
    """
    blocks = [] if network is None else list(_blocks(network))
    for block in blocks:
        # The class is replaced, not the module: names, copies and attributes stay as they are.
        block.__class__ = _forgetful(type(block))
    return len(blocks)


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    for child in network.children():
        inner = list(_blocks(child))
        if inner:
            yield from inner
        elif isinstance(network, nn.Sequential) and _layers(child) >= _INNER_LAYERS:
            yield child


def _layers(module: nn.Module) -> int:
    return sum(isinstance(part, nn.Conv2d | nn.Linear) for part in module.modules())


@functools.cache
def _forgetful(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(self: nn.Module, *inputs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return kind.forward(self, *inputs)
        if torch.compiler.is_compiling():  # a compiled graph updates its statistics once as it is
            return checkpoint(functools.partial(kind.forward, self), *inputs, use_reentrant=False)
        return checkpoint(
            functools.partial(kind.forward, self),
            *inputs,
            use_reentrant=False,
            context_fn=functools.partial(_contexts, self),
        )

    return type(kind.__name__, (kind,), {"forward": forward, "__doc__": kind.__doc__})


def _contexts(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Normalize by the batch again without counting it a second time."""
    kept = [
        (norm, norm.momentum, norm.num_batches_tracked)
        for norm in block.modules()
        if isinstance(norm, _NormBase) and norm.training and norm.num_batches_tracked is not None
    ]
    for norm, _, count in kept:
        norm.momentum = 0.0  # running <- 1 * running + 0 * batch
        norm.num_batches_tracked = count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count

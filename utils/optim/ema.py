"""The exponential moving average of a model's weights."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """average <- decay * average + (1 - decay) * weights, after every update.

    Floating-point buffers (batch norm's running statistics) are averaged like weights; counters
    are copied. The first updates are averaged with a smaller decay, (1 + n) / (10 + n), so that
    the random start does not linger.

    Args:
        model: Its present weights are the first average.
        decay: In (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one more set of weights; reads nothing back from the device.

        After a withheld update, which only the device knows of, they are the same as before.
        """
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, weights = self._pairs(model)
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for name, buffer in model.named_buffers():
            if not buffer.is_floating_point():
                self.model.get_buffer(name).copy_(buffer)

    def state_dict(self) -> dict:
        """The averaged weights and their age."""
        return {"updates": self.updates, "state_dict": self.model.state_dict()}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from a saved average."""
        self.updates = state["updates"]
        self.model.load_state_dict(state["state_dict"])

    def _pairs(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        averages, weights = self.model.state_dict(), model.state_dict()
        names = [name for name, value in weights.items() if value.is_floating_point()]
        return [averages[name] for name in names], [weights[name] for name in names]

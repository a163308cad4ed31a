"""The parts of an update: unscale, clip, and step, withheld on the device if not finite."""

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer

from utils.errors import NumericError

_FP16_SKIPS = 10  # in a row, while the scaler looks for its factor
_NEVER = 2**31 - 1  # updates until a scale of 1 grows


class Update:
    """Applies gradients without reading anything back.

    Args:
        optimizer: Its parameters' gradients are used up by `step_or_withhold`.
        scaler: The gradient scaler; enabled for fp16 only.
        clip_grad_norm: The longest gradient, in the 2-norm over all parameters; None: any.
        device: Where the parameters are.
    """

    norm: Tensor
    """Length of the last gradient before clipping; a scalar on the device."""

    def __init__(
        self,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        *,
        clip_grad_norm: float | None,
        device: torch.device,
    ) -> None:
        self.optimizer = optimizer
        # Without fp16 too a scaler, of scale 1: it is torch's own way to withhold an update.
        plain = torch.amp.GradScaler(device.type, init_scale=1.0, growth_interval=_NEVER)
        self.scaler = scaler if scaler.is_enabled() else plain
        self._tolerated = _FP16_SKIPS if scaler.is_enabled() else 0
        self.clip_grad_norm = clip_grad_norm
        self.norm = torch.zeros((), device=device)
        self._weights = [p for group in optimizer.param_groups for p in group["params"]]
        self._withheld = torch.zeros((), dtype=torch.int64, device=device)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss; NaN throughout for a loss that is not finite."""
        # The seed of backward is 1, or NaN whatever the loss's own derivative is.
        self.scaler.scale(loss).backward(gradient=1 + 0 * loss.detach())

    def unscale(self) -> None:
        """Take fp16's factor out of the gradients, and measure them."""
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self._weights if p.grad is not None]
        self.norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    def clip(self) -> None:
        """Shorten the gradient to `clip_grad_norm`, if it is longer."""
        if self.clip_grad_norm is not None:
            clip_grads_with_norm_(self._weights, self.clip_grad_norm, self.norm)

    def step_or_withhold(self) -> None:
        """Change the weights, unless a gradient is not finite; then forget the gradients."""
        broken = ~torch.isfinite(self.norm)
        if self._tolerated:
            self._withheld = self._withheld * broken  # only those in a row count
        self._withheld = self._withheld + broken
        _start_momentum(self.optimizer)
        # Fused optimizers look at the scaler's flag on the device; the others cost one read.
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def failed(self) -> bool:
        """Whether updates were withheld that should not have been; one read."""
        return int(self._withheld) > self._tolerated

    def facts(self) -> dict[str, object]:
        """The rates of the groups and the length of the last gradient."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return {"learning_rates": rates, "gradient_norm": float(self.norm)}

    def diverged(self, what: str, *, step: int, epoch: int) -> NumericError:
        """What to raise in iteration `step` when `what`, such as "the loss", is not finite."""
        rates = ", ".join(f"{group['lr']:.3g}" for group in self.optimizer.param_groups)
        return NumericError(
            f"{what} stopped being finite before iteration {step} (epoch {epoch}, learning rate "
            f"{rates}, last gradient norm {float(self.norm):.3g})\n"
            "  nothing of it was saved: the checkpoints hold the state before\n"
            "  lower optimizer.args.lr, set trainer.clip_grad_norm (1.0 is usual), or set "
            'trainer.precision to "fp32"'
        )


def _start_momentum(optimizer: Optimizer) -> None:
    """Give fused SGD zeros to start from.

    Its own first buffers are uninitialized memory, and stay so when the first update is withheld.
    """
    for group in optimizer.param_groups:
        if group.get("fused") and group.get("momentum"):
            for parameter in group["params"]:
                state = optimizer.state[parameter]
                if parameter.grad is not None and "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)


def not_finite(model: nn.Module) -> str | None:
    """The name of a weight or buffer that holds NaN or infinity; one read."""
    values = model.state_dict()
    sums = torch.stack([value.sum(dtype=torch.float32) for value in values.values()])
    finite = torch.isfinite(sums).tolist()
    return next((name for name, fine in zip(values, finite, strict=True) if not fine), None)

"""What a trainer is given: the parts, how an update is computed, how long the run goes on."""

from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from base.base_data_loader import BaseDataLoader
from base.base_model import BaseModel
from utils.losses.table import WithAuxiliary
from utils.optim.lr_scheduler import Schedule


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The built objects that train together."""

    model: BaseModel
    network: nn.Module
    """The model, or what wraps it for several devices; the same weights."""
    loss: WithAuxiliary
    optimizer: Optimizer
    schedule: Schedule
    train_loader: BaseDataLoader
    val_loader: BaseDataLoader | None


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """How an update is computed, and scored."""

    precision: str
    accumulate: int
    clip_grad_norm: float | None
    ema: float | None
    seed: int
    scored_classes: tuple[str, ...] | None
    """The classes that enter the means; None: all."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How long a run goes on and what it writes; the config's `trainer` section as plain values."""

    epochs: int
    save_period: int
    save_per_iters: int | None
    keep: int | None
    monitor: str
    early_stop: int
    log_per_iter: int
    val: bool
    val_per_epochs: int


@dataclass
class Position:
    """Where a run stands: finished epochs, iterations of the next one, iterations in all."""

    epoch: int = 0
    iteration: int = 0
    step: int = 0

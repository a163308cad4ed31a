"""What a run is to do, and how far it has come."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
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

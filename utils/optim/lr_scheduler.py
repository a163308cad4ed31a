"""Learning-rate schedules: pure functions of the step, so that a resumed run needs no state."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from torch.optim import Optimizer

from utils.errors import ConfigError


@dataclass(kw_only=True, eq=False)
class Schedule:
    """Sets the rate of every parameter group for an update.

    Base rates are read from the groups at construction, so a schedule is built before an
    optimizer's saved state (whose rates are those of its last update) is loaded.

    Args:
        optimizer: Its groups are changed by `apply`.
        total_steps: Optimizer updates in the whole run, at least 1.
        warmup_steps: Updates of linear warm-up at the start.

    Raises:
        ConfigError: The warm-up fills the whole run.
    """

    optimizer: Optimizer = field(kw_only=False)
    total_steps: int
    warmup_steps: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        """Read the base rates."""
        if self.warmup_steps >= self.total_steps:
            raise ConfigError(
                f"lr_scheduler.args.warmup_steps: found {self.warmup_steps}, expected fewer than "
                f"the {self.total_steps} iterations of this run; shorten the warm-up or raise "
                "trainer.epochs"
            )
        self._base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]

    def apply(self, step: int) -> None:
        """Set the rates for update `step`, counted from 0."""
        factor = self.factor(step)
        for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor

    def factor(self, step: int) -> float:
        """What the base rates are multiplied by at update `step`.

        The warm-up rises by 1/(w+1) an update and meets the schedule, which then runs over the
        remaining steps, at its first value: there is no jump between them.
        """
        if step < self.warmup_steps:
            return self.shape(0, self.total_steps) * (step + 1) / (self.warmup_steps + 1)
        return self.shape(step - self.warmup_steps, self.total_steps - self.warmup_steps)

    def shape(self, step: int, total: int) -> float:
        """The factor at `step` of `total` steps, without warm-up."""
        raise NotImplementedError


@dataclass(kw_only=True, eq=False)
class Poly(Schedule):
    """(1 - t/T)^power: the first update at the full rate, the last above zero.

    Source: DeepLab (Chen et al. 2017, arXiv:1606.00915), section 4.1.2.

    Args:
        power: 1 falls in a straight line.
    """

    power: Annotated[float, Gt(0)] = 0.9

    def shape(self, step: int, total: int) -> float:
        """(1 - step/total)^power."""
        return max(0.0, 1 - step / total) ** self.power


@dataclass(kw_only=True, eq=False)
class Cosine(Schedule):
    """Half a cosine from the full rate down: f + (1 - f) (1 + cos(pi t/T)) / 2.

    Source: Loshchilov and Hutter 2017 (arXiv:1608.03983), equation 5, without restarts.

    Args:
        floor: f, the share of the base rate that the curve falls towards.
    """

    floor: Annotated[float, Ge(0), Lt(1)] = 0.0

    def shape(self, step: int, total: int) -> float:
        """The cosine from 1 towards `floor`, which step `total` would reach."""
        return _cosine(1.0, self.floor, step / total)


@dataclass(kw_only=True, eq=False)
class Step(Schedule):
    """The rate is multiplied by `gamma` at each milestone.

    Args:
        milestones: Where the rate drops, as shares of the run (behind the warm-up), so that
            a longer run keeps its shape; rounded to whole updates.
        gamma: Factor of each drop.
    """

    milestones: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.6, 0.85)
    gamma: Annotated[float, Gt(0), Lt(1)] = 0.1

    def shape(self, step: int, total: int) -> float:
        """gamma^(milestones passed)."""
        return self.gamma ** sum(step >= round(share * total) for share in self.milestones)


@dataclass(kw_only=True, eq=False)
class OneCycle(Schedule):
    """lr/10 -> lr over the first 30 %, then -> lr/25, both along a cosine.

    Momentum (the first beta of Adam-like optimizers) goes .95 -> .85 -> .95 at the same time.
    Source: Smith and Topin 2018 (arXiv:1708.07120), section 4; the numbers are the documented
    ones of this tool. Equals `torch.optim.lr_scheduler.OneCycleLR` with `div_factor` 10 and
    `final_div_factor` 2.5, except that runs too short to rise start on the way down.

    Args:
        rise: Share of the run in which the rate rises.
        start_divisor: The first rate is lr / start_divisor.
        end_divisor: The last rate is lr / end_divisor.
        momentums: The momentum at the peak and at both ends.
        warmup_steps: Updates of linear warm-up before the cycle.
    """

    rise: Annotated[float, Gt(0), Lt(1)] = 0.3
    start_divisor: Annotated[float, Gt(0)] = 10.0
    end_divisor: Annotated[float, Gt(0)] = 25.0
    momentums: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.85, 0.95)

    def apply(self, step: int) -> None:
        """Set the rates and momentums for update `step`, counted from 0."""
        super().apply(step)
        momentum = self.momentum(step)
        for group in self.optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif "momentum" in group:
                group["momentum"] = momentum

    def momentum(self, step: int) -> float:
        """The momentum of update `step`: at its lowest where the rate is at its highest."""
        at_peak, at_ends = self.momentums
        step = max(0, step - self.warmup_steps)
        return self._cycle(step, self.total_steps - self.warmup_steps, at_ends, at_peak, at_ends)

    def shape(self, step: int, total: int) -> float:
        """1/start_divisor -> 1 -> 1/end_divisor."""
        return self._cycle(step, total, 1 / self.start_divisor, 1.0, 1 / self.end_divisor)

    def _cycle(self, step: int, total: int, start: float, peak: float, end: float) -> float:
        peak_step, last = self.rise * total - 1, total - 1
        if peak_step <= 0:  # at most three updates: nothing to rise over
            return _cosine(peak if last else start, end, step / max(last, 1))
        if step <= peak_step:
            return _cosine(start, peak, step / peak_step)
        return _cosine(peak, end, (step - peak_step) / (last - peak_step))


@dataclass(kw_only=True, eq=False)
class Exponential(Schedule):
    """From one rate to another by equal factors; for range tests, not in the table.

    Args:
        start: The rate of group 0 at the first update; other groups keep their proportion.
        end: Its rate at the last.
    """

    start: float
    end: float

    def shape(self, step: int, total: int) -> float:
        """The rate start (end/start)^(step/(total-1)), as a factor of group 0's base rate."""
        growth = (self.end / self.start) ** (step / (total - 1))
        return self.start * growth / self._base_rates[0]


def _cosine(start: float, end: float, share: float) -> float:
    """From `start` at share 0 to `end` at share 1 along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


SCHEDULERS: dict[str, Callable[..., Schedule]] = {
    "Poly": Poly,
    "OneCycle": OneCycle,
    "Cosine": Cosine,
    "Step": Step,
}

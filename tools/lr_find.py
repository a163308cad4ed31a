"""Find a learning rate: train while the rate grows, and look where the loss falls fastest.

    python tools/lr_find.py --config config.json
    python tools/lr_find.py --config config.json --steps 200 --set n_gpu=0

Writes an image and prints a suggestion; the network that it trained is thrown away. The test is
that of Smith 2017 (arXiv:1506.01186), section 3.3, with the rate on a logarithmic scale. The rate
of a backbone keeps its proportion to that of the decoder.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `python tools/...` puts tools/ on the path, not its parent

from utils.drawing.chart import Curve, draw, new_figure  # noqa: E402
from utils.errors import ConfigError, NumericError, guard  # noqa: E402
from utils.files.written import Written  # noqa: E402
from utils.hardware.devices import asked_device, pick_device, restrict_gpus  # noqa: E402

if TYPE_CHECKING:
    from trainer import Trainer

_SMOOTHING = 0.9  # of the running mean of the loss: ten updates or so
_DIVERGED = 4.0  # times the best smoothed loss: the test has seen enough
_FEWEST = 10  # updates that a suggestion needs


class Sweep(NamedTuple):
    """The rates that were tried and the loss at each, in order."""

    rates: list[float]
    losses: list[float]


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = _parse(arguments)
    written = Written(options.output.parent)
    written.refuse_others([options.output], overwrite=options.overwrite)
    restrict_gpus(options.device)
    from assembly import assemble
    from utils.config.config import load_config

    config = load_config(options.config, options.set)
    figure = new_figure(860, 420)  # first: what it needs may be missing
    device = pick_device(asked_device(options.device, n_gpu=config.n_gpu))
    trainer = assemble(config, None, device=device)
    sweep = run(trainer, start=options.start, end=options.end, steps=options.steps)
    best = suggestion(sweep)
    axes = figure.add_subplot(xscale="log")
    draw(
        axes,
        [Curve("smoothed loss", sweep.rates, smoothed(sweep.losses))],
        title=f"Learning-rate range test: {config.arch.type}, {config.optimizer.type}",
        x_label="learning rate",
        y_label="loss",
    )
    axes.axvline(best, color="gray", linestyle="--")
    axes.annotate(f" suggested {best:.1e}", (best, 1), xycoords=("data", "axes fraction"), va="top")
    with written.opened([options.output]):
        written.write(options.output, lambda path: figure.savefig(path, format="png"))
    print(f"{len(sweep.rates)} updates, rates {sweep.rates[0]:.1e} to {sweep.rates[-1]:.1e}")
    print(f"image: {options.output}")
    print(f"suggestion: --set optimizer.args.lr={best:.2g}")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-c", "--config", type=Path, default=Path("config.json"), help="(default: config.json)")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change keys of the config",
    )
    add("--start", type=float, default=1e-6, help="first rate (default: 1e-6)")
    add("--end", type=float, default=10.0, help="last rate (default: 10)")
    add("--steps", type=int, default=100, help="updates (default: 100)")
    add("-d", "--device", help="a GPU's index, cpu, cuda or mps (default: what is there)")
    add("-o", "--output", type=Path, default=Path("lr_find.png"), help="(default: lr_find.png)")
    add("--overwrite", action="store_true", help="replace files that this program did not write")
    options = parser.parse_args(arguments)
    if not 0 < options.start < options.end < math.inf:
        raise ConfigError(
            f"--start {options.start:g} --end {options.end:g}: expected 0 < start < end"
        )
    if options.steps < _FEWEST:
        raise ConfigError(f"--steps: found {options.steps}, expected at least {_FEWEST}")
    return options


def run(trainer: "Trainer", *, start: float, end: float, steps: int) -> Sweep:
    """Train for `steps` updates, or until the loss has diverged, at rates from start to end.

    Args:
        trainer: Newly built; its schedule is replaced and its weights are used up.
        start: The rate of the first update.
        end: The rate of the last.
        steps: How many.
    """
    from utils.hardware.prefetch import grouped, on_device
    from utils.optim.lr_scheduler import Exponential
    from utils.run.progress import progress

    schedule = Exponential(trainer.optimizer, total_steps=steps, start=start, end=end)
    trainer.parts = replace(trainer.parts, schedule=schedule)
    batches = on_device(trainer.parts.train_loader.endless(), trainer.device)
    groups = grouped(batches, trainer.options.accumulate)
    rates, losses = [], []
    with trainer.stepping():
        for _ in progress(range(steps), "learning rates", steps):
            trainer.train_iteration(next(groups))
            rates.append(float(trainer.optimizer.param_groups[0]["lr"]))
            losses.append(trainer.totals.recent_loss())
            if diverged(losses):
                break
    return Sweep(rates, losses)


def smoothed(losses: Sequence[float]) -> list[float]:
    """The running mean of the losses, without its start's pull towards 0."""
    mean, means = 0.0, []
    for number, loss in enumerate(losses, start=1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        means.append(mean / (1 - _SMOOTHING**number))
    return means


def diverged(losses: Sequence[float]) -> bool:
    """Whether the last loss is not finite, or the smoothed one far above its best."""
    if not math.isfinite(losses[-1]):
        return True
    means = smoothed(losses)
    return len(losses) > _FEWEST and means[-1] > _DIVERGED * min(means)


def suggestion(sweep: Sweep) -> float:
    """The rate at which the smoothed loss falls fastest, before its lowest point.

    Raises:
        NumericError: The loss never fell.
    """
    means = [mean for mean in smoothed(sweep.losses) if math.isfinite(mean)]
    lowest = means.index(min(means)) if means else 0
    if lowest < 2:
        raise NumericError(
            f"the loss did not fall at any rate from {sweep.rates[0]:.1e} to "
            f"{sweep.rates[-1]:.1e}\n  fix: a smaller --start, or more --steps; if it never falls, "
            "look at the data with --check-data"
        )
    falls = [means[place - 1] - means[place + 1] for place in range(1, lowest)]
    return sweep.rates[1 + falls.index(max(falls))]


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

"""BaseTrainer: the life of a run: epochs, validation, the best model, early stop, saving, resuming.

What happens to one batch stands in trainer.py. Everything random in an iteration is a function of
(seed, iteration), and everything that accumulates is in the checkpoint, so a run that was killed
and resumed ends with the weights of one that was not.
"""

import logging
import signal
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from base import workers
from base.parts import Position, RunOptions
from base.signals import StopAskedError, StopSignals
from utils.errors import NumericError, RunInterruptedError
from utils.files.matching import require
from utils.hardware import distributed
from utils.optim.ema import ExponentialMovingAverage
from utils.optim.restoring import restore_optimizer, state_bytes
from utils.run import checkpoint
from utils.run import folder as run_folder
from utils.run.log import RunLog
from utils.run.monitor import Monitor
from utils.run.next_steps import command_line
from utils.run.numbers import metric_scalars

log = logging.getLogger("segmentation")

_UNFIT = (
    "the checkpoint's {} do not fit the network and the data that its config gives here; "
    "keep arch and the channels of the data, or start anew with init_from:"
)


class BaseTrainer:
    """Runs epochs and keeps what they give; a subclass says what an epoch does.

    Args:
        model: The bare model, whose weights are saved.
        optimizer: Its optimizer.
        scaler: The gradient scaler, disabled but for fp16.
        ema: The averaged weights, or None.
        run_options: Epochs, intervals, monitor.
        description: The part of a checkpoint that never changes: arch, config, plugins, classes,
            palette, mean, std, ignore_index, input_dtype.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        scaler: torch.amp.GradScaler,
        ema: ExponentialMovingAverage | None,
        run_options: RunOptions,
        description: Mapping[str, object],
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.scaler = scaler
        self.ema = ema
        self.run_options = run_options
        self.run = RunLog(None)
        self.description: dict[str, Any] = dict(description)
        self.monitor = Monitor.parse(run_options.monitor, run_options.early_stop)
        self.position = Position()
        self.signals = StopSignals()

    # What a subclass says.

    def train_epoch(self, epoch: int) -> dict:
        """Train from `self.position.iteration` to the end of the epoch; return its metrics."""
        raise NotImplementedError

    def validate(self, epoch: int) -> dict:
        """Score the model on the validation data; return the metrics by their names."""
        raise NotImplementedError

    def running_state(self) -> dict:
        """The sums of the unfinished epoch."""
        raise NotImplementedError

    def restore_running(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the sums of an unfinished epoch."""
        raise NotImplementedError

    # The run.

    def fit(self, run: RunLog) -> None:
        """Train until the last epoch or until nothing improves.

        Args:
            run: Where rows, scalars and checkpoints go.

        Raises:
            RunInterruptedError: SIGINT, SIGTERM or SIGHUP came; the state was saved.
            NumericError: A loss, gradient, weight or batch statistic stopped being finite; nothing
                of it was saved.
            ResourceError: A worker process died or hangs, or the disk is full.
        """
        self.run = run
        self._require_room()
        started = time.monotonic()
        with self.signals.caught():
            try:
                self._run_epochs()
            except RuntimeError as error:  # of a dead worker, in whatever line that interrupted
                workers.raise_death(error)
            except StopAskedError as error:  # a worker hangs; the last iteration is finished
                if distributed.world_size() == 1:
                    self.stop_if_asked()
                # The others wait for this process's gradients: a state has sums of all.
                raise self._stopped(self.signals.number or 0, "not saved, no data came") from error
            finally:
                log.info("trained for %.0f s", time.monotonic() - started)
        if self.monitor.exhausted():
            log.info(
                "stopped early: %s did not improve for %d epochs",
                self.monitor.metric,
                self.monitor.last_epoch - self.monitor.best_epoch,
            )

    def _run_epochs(self) -> None:
        for epoch in range(self.position.epoch + 1, self.run_options.epochs + 1):
            if self.monitor.exhausted():
                break
            self._run_epoch(epoch)

    def _run_epoch(self, epoch: int) -> None:
        train_metrics = self.train_epoch(epoch)
        val_metrics = self._validated(epoch) if self._validation_due(epoch) else None
        improved = val_metrics is not None and self.monitor.improved(val_metrics, epoch)
        self.run.row("train", epoch, self.position.step, train_metrics)
        scores = {name: train_metrics[name] for name in ("Pixel_Accuracy", "Mean_IoU")}
        self.run.scalars(self.position.step, metric_scalars("train", scores))
        if val_metrics is not None:
            self.run.row("val", epoch, self.position.step, val_metrics)
            self.run.scalars(self.position.step, metric_scalars("val", val_metrics))
            metric = self.monitor.metric
            if metric is not None and self.monitor.best is None:
                log.warning("no best model yet: no validation pixel is labelled for %s", metric)
        self.position.epoch, self.position.iteration = epoch, 0
        self.restore_running({})
        self._save_epoch(improved=improved)

    def _validated(self, epoch: int) -> dict:
        """Validate; when that fails, the epoch's training is saved all the same."""
        trained = self.state()  # before: it sums over processes, of which one may fail alone
        try:
            return self.validate(epoch)
        except (RunInterruptedError, NumericError):  # the one has saved, the other must not be
            raise
        except Exception:
            self._save_last(trained)
            raise

    def _validation_due(self, epoch: int) -> bool:
        due = epoch % self.run_options.val_per_epochs == 0 or epoch == self.run_options.epochs
        return self.run_options.val and due

    # Saving.

    def _save_epoch(self, *, improved: bool) -> None:
        folder, state = self.run.folder, self.state()
        if folder is None:
            return
        if improved:
            # Before last.pth: killed between the two, the resumed run writes it again.
            checkpoint.save([folder / run_folder.BEST], self._best_state())
            log.info("best so far: %s, saved to %s", self.monitor.shown(), run_folder.BEST)
        paths = [folder / run_folder.LAST]
        if self.position.epoch % self.run_options.save_period == 0:
            # First: killed between the two, the resumed run makes it the last one.
            paths.insert(0, folder / f"checkpoint-epoch{self.position.epoch}.pth")
        checkpoint.save(paths, state)
        run_folder.trim(folder, keep=self.run_options.keep)
        self.run.flush()

    def save_iteration(self) -> None:
        """Save in the middle of an epoch, when the iteration's number says so."""
        every = self.run_options.save_per_iters
        if every is None or self.position.step % every:
            return
        state = self.state()
        if self.run.folder is not None:
            path = self.run.folder / f"checkpoint-iter{self.position.step}.pth"
            checkpoint.save([path], state)
            run_folder.trim(self.run.folder, keep=self.run_options.keep)

    def _require_room(self) -> None:
        """Refuse a disk that is too full for the first checkpoint, before an epoch is lost to it.

        Raises:
            ResourceError: It has no room for a checkpoint and the one that will replace it.
        """
        weights = sum(tensor.nbytes for tensor in self.model.state_dict().values())
        averaged = 0 if self.ema is None else weights
        needed = 2 * (weights + averaged + state_bytes(self.optimizer))
        if self.run.folder is not None:
            checkpoint.require_room(self.run.folder, needed)

    def _save_last(self, state: Mapping[str, object]) -> None:
        if self.run.folder is not None:
            checkpoint.save([self.run.folder / run_folder.LAST], state)

    def state(self) -> dict:
        """Everything that a resumed run needs; each process must call it."""
        running = self.running_state()  # sums over processes
        return {
            **self.description,
            "kind": "training",
            "epoch": self.position.epoch,
            "iteration": self.position.iteration,
            "step": self.position.step,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema and self.ema.state_dict(),
            "monitor_best": self.monitor.best,
            "monitor_epochs": [self.monitor.best_epoch, self.monitor.last_epoch],
            "running": running,
            "log_bytes": self.run.durable_length(),
        }

    def _best_state(self) -> dict:
        weights = self.model if self.ema is None else self.ema.model
        return {
            **self.description,
            "kind": "best",
            "epoch": self.position.epoch,
            "step": self.position.step,
            "state_dict": weights.state_dict(),
            "monitor_best": self.monitor.best,
        }

    def restore(self, state: Mapping) -> None:
        """Go on where a checkpoint left off; the optimizer's options are the config's.

        Raises:
            CheckpointError: What is in it has not the names, shapes and kinds of what is here.
            ConfigError: The optimizer is another one.
        """
        own = self.model.state_dict()
        self.model.load_state_dict(require(state["state_dict"], own, _UNFIT.format("weights")))
        restore_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"].keys() == self.scaler.state_dict().keys():  # else of another precision
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            # A run that had no average starts one from its weights.
            average = state["ema"] or {"updates": 0, "state_dict": state["state_dict"]}
            weights = require(average["state_dict"], own, _UNFIT.format("averaged weights"))
            self.ema.load_state_dict({"updates": average["updates"], "state_dict": weights})
        self.monitor.restore(state, self.description["config"])
        self.position = Position(state["epoch"], state["iteration"], state["step"])
        sums = {n: value for n, value in self.running_state().items() if isinstance(value, Tensor)}
        found = {name: state["running"].get(name) for name in sums}
        self.restore_running(state["running"] | require(found, sums, _UNFIT.format("sums")))

    # A signal is only noted when it comes; the run ends between two iterations, or batches of a
    # validation, which the resumed run begins again.

    def stop_if_asked(self) -> None:
        """Save and leave when any process got a signal; each process must call it.

        Raises:
            RunInterruptedError: It did.
        """
        number = distributed.agree(self.signals.number or 0)
        if not number:
            return
        self._save_last(self.state())
        raise self._stopped(number, "saved")

    def _stopped(self, number: int, outcome: str) -> RunInterruptedError:
        if self.run.folder is not None:
            folder, plugins = str(self.run.folder), self.description["plugins"]
            command = command_line("train", "--resume", folder, plugins=plugins)
            outcome += f"\n  go on with: {command}"
        name = signal.Signals(number).name
        return RunInterruptedError(
            f"{name} at iteration {self.position.step}: {outcome}", signal_number=number
        )

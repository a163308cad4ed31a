"""Trainer: what happens to one batch. The order of a training step is read here, top to bottom.

The life of a run (epochs, best model, saving, resuming) is in base/base_trainer.py. Between two
log lines nothing is read back from the device, but for a flag an update of optimizers that cannot
be fused: loss and confusion counts accumulate there, and what is not finite is withheld there.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from base.base_data_loader import BaseDataLoader, Batch
from base.base_trainer import BaseTrainer
from base.parts import Parts, RunOptions, StepOptions
from utils.data.normalize import Normalize
from utils.drawing.grid import comparison_sheet
from utils.errors import NumericError
from utils.hardware import distributed
from utils.hardware.devices import determinism_advice, kernel_search
from utils.hardware.memory import memory_advice
from utils.hardware.parallel import shares
from utils.hardware.precision import autocast
from utils.hardware.prefetch import grouped, on_device
from utils.metrics.confusion import ConfusionMatrix
from utils.metrics.totals import Totals
from utils.optim.ema import ExponentialMovingAverage
from utils.optim.update import Update, not_finite
from utils.run import numbers
from utils.run.progress import ProgressBar, one_line
from utils.run.stopwatch import Forecast, LoaderWarning, Stopwatch
from utils.seeding import iteration_seed
from validation import Validator

log = logging.getLogger("segmentation")


class Trainer(BaseTrainer):
    """Trains and validates a segmentation network.

    Args:
        parts: Model, loss, optimizer, schedule, loaders.
        device: Where the model is.
        options: Precision, accumulation, clipping, averaging, seed.
        run_options: Epochs, intervals, monitor.
        description: The part of a checkpoint that never changes.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        device: torch.device,
        options: StepOptions,
        run_options: RunOptions,
        description: Mapping[str, object],
    ) -> None:
        super().__init__(
            parts.model,
            parts.optimizer,
            scaler=torch.amp.GradScaler(device.type, enabled=options.precision == "fp16"),
            ema=None if options.ema is None else ExponentialMovingAverage(parts.model, options.ema),
            run_options=run_options,
            description=description,
        )
        self.parts = parts
        self.options = options
        self.device = device
        data = self.data = parts.train_loader.dataset
        self.one_size = data.augments and data.crop_size is not None
        self.normalize = Normalize(data.mean, data.std, input_dtype=data.input_dtype).to(device)
        named = {"classes": data.classes, "scored": options.scored_classes}
        counts = ConfusionMatrix(len(data.classes), data.ignore_index, device, **named)
        self.totals = Totals(counts)
        self.stopwatch = Stopwatch()
        self.unproven: list[int] = []  # what was trained on since all was finite
        self.first = distributed.rank() == 0
        self.forecast = Forecast(parts.schedule.total_steps, shown=self.first)
        self.loader_warning = LoaderWarning(parts.train_loader.num_workers, shown=self.first)
        self.validator = self._validator(parts.val_loader)
        parts.train_loader.signals = self.signals
        self.update = Update(
            parts.optimizer, self.scaler, clip_grad_norm=options.clip_grad_norm, device=device
        )

    def _validator(self, loader: BaseDataLoader | None) -> Validator | None:
        if loader is None:
            return None
        loader.signals = self.signals
        shared = self.data.holds_out  # both loaders have the training's batch size
        return Validator(
            loader,
            self.parts.loss,
            normalize=self.normalize,
            device=self.device,
            precision=self.options.precision,
            accumulate=self.options.accumulate if shared else None,
            scored=self.options.scored_classes,
        )

    # One epoch.

    def train_epoch(self, epoch: int) -> dict:
        """Train from `self.position.iteration` to the end of the epoch; return loss and scores."""
        loader, size = self.parts.train_loader, self.options.accumulate
        iterations = -(-len(loader) // size)
        loader.set_position(epoch, batch=self.position.iteration * size)
        title = f"TRAIN {epoch}/{self.run_options.epochs}"
        bar = ProgressBar(title, iterations, done=self.position.iteration, shown=self.first)
        batches = on_device(self.stopwatch.waiting(loader), self.device)
        with closing(bar), self.stepping():
            for micro_batches in grouped(batches, size):
                self.train_iteration(micro_batches)
                bar.advance()
                last = self.position.iteration == iterations
                if last or self.position.step % self.run_options.log_per_iter == 0:
                    values = self.log_iteration(epoch)
                    bar.say(values, left=self.forecast.left(self.position.step))
                self.save_iteration()
                self.stop_if_asked()
        metrics = self.totals.compute()
        if self.first:
            line = self._line(metrics, *self.stopwatch.read(epoch=True))
            left = self.forecast.left(self.position.step)
            log.info("%s  %s", title, one_line(line | ({"left": left} if left else {})))
        return metrics

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """What training steps run in: train mode, cuDNN's search, and advice should they fail."""
        self.parts.network.train()
        memory = memory_advice(
            self.parts.train_loader.batch_size,
            self.options.accumulate,
            shares=shares(self.parts.network),
            smallest=self.parts.model.min_train_batch,
        )
        with memory, determinism_advice(), kernel_search(one_size=self.one_size):
            yield

    # One iteration: an update from one or more micro-batches.

    def train_iteration(self, micro_batches: Sequence[Batch]) -> None:
        """One update of the weights from one or more micro-batches."""
        # Dropout is a function of the iteration, so there is no generator state to save.
        torch.manual_seed(iteration_seed(self.options.seed, self.position.step, distributed.rank()))
        self.parts.schedule.apply(self.position.step)
        denominator = self._shared_denominator(micro_batches)
        for index, batch in enumerate(micro_batches):
            masks = batch.masks.long()
            with self._gradient_sync(last=index == len(micro_batches) - 1):
                logits, loss = self.forward(batch.images, masks, denominator)
                loss = loss / len(micro_batches)
                self.backward(loss)
            self.totals.add(loss / distributed.world_size(), logits, masks)
            del logits, loss  # or they would live through the next forward
            self.stopwatch.count(len(batch.images))
            self.unproven += batch.indices
        self.update_weights()
        if self.ema is not None:
            self.ema.update(self.model)
        self.totals.count()
        self.position.iteration += 1
        self.position.step += 1

    def forward(
        self, images: Tensor, masks: Tensor, denominator: float | None
    ) -> tuple[Tensor, Tensor]:
        """Return the main logits and the loss of one micro-batch.

        Args:
            images: (N, C, H, W) in the file's dtype, on the device.
            masks: (N, H, W) int64.
            denominator: Of pixel losses, as `_shared_denominator` returns it.
        """
        with autocast(self.device, self.options.precision):
            output = self.parts.network(self.normalize(images))
        loss = self.parts.loss(output, masks, denominator=denominator)
        return output if isinstance(output, Tensor) else output[0], loss

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        self.update.backward(loss)

    def update_weights(self) -> None:
        """Change the weights by the gradients, unless those are not finite."""
        self.update.unscale()
        self.update.clip()
        self.update.step_or_withhold()

    def _shared_denominator(self, micro_batches: Sequence[Batch]) -> float | None:
        """The denominator of pixel losses: the effective batch's, a process and micro-batch.

        Gradients are averaged over processes and micro-batches; with the mean denominator for each,
        that average is the gradient of the undivided batch however unevenly void is spread.
        """
        known = [self.parts.loss.denominator(batch.label_counts) for batch in micro_batches]
        totals = [total for total in known if total is not None]
        if not totals:
            return None
        effective = distributed.sum_of_numbers(sum(totals))
        return effective / (len(micro_batches) * distributed.world_size())

    def _gradient_sync(self, *, last: bool) -> AbstractContextManager[None]:
        # Gradients of all micro-batches travel once, with the last one.
        if last or not isinstance(self.parts.network, DistributedDataParallel):
            return nullcontext()
        return self.parts.network.no_sync()

    # What is read back, at log lines and saves.

    def log_iteration(self, epoch: int) -> dict[str, object]:
        """Write a log row and scalars; return what the progress bar shows.

        Raises:
            NumericError: A loss or gradient since the last log line was not finite, or a weight
                or batch statistic is not.
        """
        self._require_finite()
        speed, waited = self.stopwatch.read()
        metrics = {**self.totals.compute(), "loss": (recent := self.totals.recent_loss())}
        groups = self.optimizer.param_groups
        self.loader_warning.look(waited)
        rates = {"learning_rates": [group["lr"] for group in groups]}
        self.run.row("log", epoch, self.position.step, numbers.headline(metrics) | rates)
        scalars = numbers.training_scalars(
            groups,
            loss=recent,
            gradient_norm=float(self.update.norm),
            images_per_second=speed * distributed.world_size(),
            waited=waited,
        )
        self.run.scalars(self.position.step, scalars)
        return self._line(metrics, speed, waited)

    def _line(self, metrics: Mapping[str, object], speed: float, waited: float) -> dict:
        speed *= distributed.world_size()
        return numbers.training_line(metrics, images_per_second=speed, waited=waited)

    def _require_finite(self) -> None:
        if not self.totals.are_finite():
            raise self._diverged("the loss")
        if distributed.agree(self.update.failed()):
            raise self._diverged("the gradient")
        networks = [self.model] if self.ema is None else [self.model, self.ema.model]
        name = next(filter(None, map(not_finite, networks)), None)
        if distributed.agree(name is not None):
            raise self._diverged(f"weights or batch statistics ({name or 'of another process'})")
        self.unproven.clear()

    def _diverged(self, what: str) -> NumericError:
        where = {"epoch": self.position.epoch + 1, "step": self.position.step}
        facts = {"what": what, **where, **self.update.facts(), "loss": self.totals.last_loss()}
        names = [self.data.name(index) for index in dict.fromkeys(self.unproven)]
        self.run.nonfinite({**facts, "images": names})
        return self.update.diverged(what, **where)

    def running_state(self) -> dict:
        """The sums of the unfinished epoch; NumericError where a state must not be saved."""
        self._require_finite()
        return {**self.totals.state(), "by_process": distributed.collect(self.totals.own_losses())}

    def restore(self, state: Mapping) -> None:
        """Go on where a checkpoint left off, at the rates of its last update."""
        self.parts.schedule.apply(state["step"] - 1)  # first: OneCycle's momentum has a state
        super().restore(state)

    def restore_running(self, state: Mapping[str, Tensor]) -> None:
        """Go on from saved sums, or from zero."""
        self.totals.restore(state)

    # Validation.

    def validate(self, epoch: int) -> dict:
        """Score the averaged weights where there are some, else the model."""
        assert self.validator is not None
        network = (self.model if self.ema is None else self.ema.model).eval()
        distributed.from_first(network.buffers())  # each process has batch statistics of its own
        title = f"EVAL {epoch}/{self.run_options.epochs}"
        totals, samples = self.validator.run(network, self.signals, title=title, shown=self.first)
        self.stop_if_asked()
        metrics = totals.compute()
        loss = metrics["val_loss"]
        if loss is not None and not math.isfinite(loss):
            raise self._diverged("the validation loss")
        if (crop_size := self.validator.loader.dataset.crop_size) is not None:
            metrics["crop"] = crop_size
        if self.first:
            log.info("%s  %s", title, one_line(numbers.in_words(numbers.headline(metrics))))
            log.info("%s", numbers.class_lines(metrics["Class_IoU"]))
            self.run.image(
                self.position.step,
                "val/inputs_targets_predictions",
                comparison_sheet(samples, self.data),  # pyrefly: ignore[bad-argument-type]
            )
        return metrics

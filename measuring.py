"""`train.py --benchmark`: a trainer that times the phases of its step."""

from collections.abc import Mapping

from torch import Tensor

from trainer import Trainer
from utils.hardware import distributed
from utils.hardware.prefetch import grouped, on_device
from utils.run.stopwatch import Phases

_WARM_UP = 5  # iterations before a measurement


class MeasuredTrainer(Trainer):
    """Trains without logging, validating or saving, at the first iteration's rates."""

    phases: Phases

    def measure(
        self, iterations: int, *, warm_up: int = _WARM_UP
    ) -> tuple[Mapping[str, float], int]:
        """Train for so many iterations, after a warm-up of others.

        Returns:
            The seconds of each phase over all iterations, and the number of images in them, all
            processes together.
        """
        self.phases = Phases(self.device)
        batches = on_device(self.parts.train_loader.endless(), self.device)
        groups = grouped(batches, self.options.accumulate)
        images = 0
        with self.stepping():
            for number in range(-warm_up, iterations):
                if number == 0:
                    self.phases.reset()
                with self.phases.timed("iteration"):
                    with self.phases.timed("data"):
                        micro_batches = next(groups)
                    self.train_iteration(micro_batches)
                images += sum(len(batch.images) for batch in micro_batches) if number >= 0 else 0
                self.position.iteration = self.position.step = 0
        return self.phases.seconds(), int(distributed.sum_of_numbers(images))

    def forward(
        self, images: Tensor, masks: Tensor, denominator: float | None
    ) -> tuple[Tensor, Tensor]:
        """As `Trainer.forward`."""
        with self.phases.timed("forward"):
            return super().forward(images, masks, denominator)

    def backward(self, loss: Tensor) -> None:
        """As `Trainer.backward`."""
        with self.phases.timed("backward"):
            super().backward(loss)

    def update_weights(self) -> None:
        """As `Trainer.update_weights`."""
        with self.phases.timed("optimizer"):
            super().update_weights()

"""The sums of an epoch, kept on the device and read at log lines only."""

from collections.abc import Mapping

import torch
from torch import Tensor

from utils.hardware.distributed import rank, sum_over_processes, world_size
from utils.metrics.confusion import ConfusionMatrix


class Totals:
    """Loss and confusion counts of the training epoch so far.

    Args:
        confusion: The counts, at zero; the losses are kept on its device.
    """

    def __init__(self, confusion: ConfusionMatrix) -> None:
        self.confusion = confusion
        # [epoch's sum, sum since the last log line]; a loss that is not finite stays visible.
        self._losses = torch.zeros(2, device=confusion.counts.device)
        self._iterations = [0, 0]

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, masks: Tensor) -> None:
        """Take one micro-batch; `loss` is its share of the iteration's."""
        self._losses += loss.detach()
        self.confusion.update(logits.detach(), masks)

    def count(self) -> None:
        """An iteration is complete."""
        self._iterations = [number + 1 for number in self._iterations]

    def are_finite(self) -> bool:
        """Whether every loss so far was, in every process; one read."""
        return bool(torch.isfinite(sum_over_processes(self._losses.clone())).all())

    def recent_loss(self) -> float:
        """The mean loss of the iterations since the last call, over all processes; one read."""
        recent = float(sum_over_processes(self._losses[1:].clone()))
        mean = recent / max(self._iterations[1], 1)
        self._losses[1].zero_()
        self._iterations[1] = 0
        return mean

    def own_losses(self) -> list[float]:
        """This process's share of the losses of `state`, to go on from bit for bit."""
        return self._losses.tolist()

    def last_loss(self) -> float:
        """This process's mean loss since the last log line."""
        return float(self._losses[1]) / max(self._iterations[1], 1)

    def compute(self) -> dict[str, object]:
        """The epoch's mean loss and scores so far, over all processes."""
        state = self.state()
        loss = float(state["losses"][0]) / max(self._iterations[0], 1)
        counts = state["counts"].numpy()
        return {"loss": loss, **self.confusion.scores(counts)}

    def state(self) -> dict:
        """The sums over all processes, on the CPU."""
        return {
            "losses": sum_over_processes(self._losses.clone()).cpu(),
            "iterations": list(self._iterations),
            "counts": sum_over_processes(self.confusion.counts.clone()).cpu(),
        }

    def restore(self, state: Mapping) -> None:
        """Go on from saved sums; an empty mapping starts at zero.

        The first process holds them, but of the losses, whose sum depends on its order, each its
        own where they are as many as before.
        """
        self._losses.zero_()
        self.confusion.reset()
        self._iterations = list(state.get("iterations", [0, 0]))
        if state and rank() == 0:
            self._losses.copy_(state["losses"])
            self.confusion.counts.copy_(state["counts"])
        if len(own := state.get("by_process", [])) == world_size():
            self._losses.copy_(torch.tensor(own[rank()]))


class ValidationTotals:
    """Loss and confusion counts of a validation.

    Args:
        confusion: The counts, at zero; the losses are kept on its device.
    """

    def __init__(self, confusion: ConfusionMatrix) -> None:
        self._confusion = confusion
        # Each batch's: a sum over a data set's pixels needs float64, which MPS does not have.
        self._losses = [torch.zeros((), device=confusion.counts.device)]
        self._weights = [0.0]

    def add(
        self, loss: Tensor, denominator: float | None, predictions: Tensor, masks: Tensor
    ) -> None:
        """Take one batch.

        Args:
            loss: Its own loss.
            denominator: Of pixel losses: the weight of this batch in the mean; None: 1, as for
                losses of a batch.
            predictions: (N, H, W) class numbers.
            masks: (N, H, W) labels.
        """
        self._losses.append(loss)
        self._weights.append(1.0 if denominator is None else denominator)
        self._confusion.update(predictions, masks)

    def compute(self) -> dict:
        """`val_loss` and scores, over all processes.

        Without a labelled pixel a loss that divides by their number is None.
        """
        self._confusion.synchronize()
        losses = torch.stack(self._losses).cpu().double()
        weights = torch.tensor(self._weights, dtype=torch.float64)
        weighted, weight = sum_over_processes(
            torch.stack([losses @ weights, weights.sum()])
        ).tolist()
        return {"val_loss": weighted / weight if weight else None, **self._confusion.compute()}

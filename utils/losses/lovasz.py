"""The Lovasz-softmax loss: a convex surrogate of 1 - IoU, in one sort for all classes.

Source: Berman, Triki, Blaschko 2018 (arXiv:1705.08790), section 3 and algorithm 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.losses.contract import SegmentationLoss, divide
from utils.losses.region import Classes, one_hot, weighted_mean

_VOID_ERROR = -1.0  # below every error, so that void pixels sort behind all others


class LovaszSoftmax(SegmentationLoss):
    """The Lovasz extension of the Jaccard loss, averaged over classes.

    The extension is linear between sorted errors, so its slope is all that sorting is needed
    for: it is found without a graph and put back into pixel order, and the loss is the product
    of errors and slopes. A loss of a micro-batch: it does not divide by `denominator`.
    """

    def __init__(
        self,
        *,
        classes: Classes = "present",
        per_image: bool = False,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        """Choose what is averaged.

        Args:
            classes: Average over the classes among the labels, or over all.
            per_image: The mean of each image's loss (over images with a valid pixel), instead
                of one loss of the micro-batch.
            ignore_index: The label of void pixels.
            class_weights: Weights of the average over classes.
        """
        super().__init__(ignore_index=ignore_index, class_weights=class_weights)
        self.classes = classes
        self.per_image = per_image

    def value(self, logits: Tensor, target: Tensor, denominator: float | None) -> Tensor:
        """The weighted mean over classes; with `per_image`, of each image's, over images."""
        del denominator
        truth = one_hot(target, logits.shape[1], self.ignore_index)
        valid = (target != self.ignore_index).unsqueeze(1)
        probabilities = self._rows(logits.softmax(dim=1))
        truth, valid = self._rows(truth), self._rows(valid)
        present = truth.any(dim=-1)
        counted = present if self.classes == "present" else torch.ones_like(present)
        with torch.no_grad():
            errors = torch.where(truth, 1 - probabilities, probabilities)
            errors = torch.where(valid, errors, _VOID_ERROR)
            # Rows that do not count are made 0, which a CPU sorts without a pass over the data.
            errors = torch.where(counted.unsqueeze(-1), errors, 0.0)
            slopes = jaccard_slopes(errors, truth)
            slopes = torch.where(valid, slopes, 0.0)
        # The errors again, with a graph: 1 - p where the class is, p elsewhere.
        signed = torch.where(truth, -slopes, slopes)
        offset = torch.where(truth, slopes, 0.0).sum(-1)
        losses = (probabilities * signed).sum(-1) + offset
        means = weighted_mean(losses, counted, self.weights_for(logits))
        if not self.per_image:
            return means.squeeze(0)
        labelled = valid.any(dim=-1).squeeze(1).to(means.dtype)
        return divide((means * labelled).sum(), labelled.sum())

    def _rows(self, values: Tensor) -> Tensor:
        """(N, C or 1, H, W) -> (images or 1, C or 1, pixels)."""
        if self.per_image:
            return values.flatten(2)
        return values.transpose(0, 1).flatten(1).unsqueeze(0)


def jaccard_slopes(errors: Tensor, truth: Tensor) -> Tensor:
    """The slope of the Lovasz extension of 1 - IoU at each error.

    The k-th largest error of a class weighs by how much the Jaccard loss grows when its pixel
    joins the k-1 before it among the mispredicted. With G pixels of the class, I of them not
    among the first k, and U = G + the others among the first k, that is 1/U for a pixel of the
    class and I / (U (U-1)) for another. The closed forms, unlike differences of successive
    losses, do not cancel: with millions of pixels float32 would keep only noise of those.

    Args:
        errors: (..., pixels) float32 or float64, each 0 or more, or -1 for a void pixel.
        truth: (..., pixels) bool: is the pixel of this row's class?

    Returns:
        (..., pixels) in the order of `errors`.
    """
    # The bits of a float that is not negative, read as an integer, have its order; those of -1
    # are a negative integer. A CPU sorts integers by radix, seven times as fast as floats, if
    # they come as one row (and needs the memory of one); a GPU sorts all rows in one call.
    if errors.device.type != "cpu":
        return _slopes(errors, truth)
    rows = zip(errors.flatten(0, -2), truth.flatten(0, -2), strict=True)
    return torch.stack([_slopes(error, own) for error, own in rows]).view_as(errors)


def _slopes(errors: Tensor, truth: Tensor) -> Tensor:
    bits = errors.view(torch.int32 if errors.dtype == torch.float32 else torch.int64)
    order = (-bits).argsort(dim=-1)
    inside = truth.gather(-1, order)
    # Integer sums: exact, and deterministic on CUDA, where those of floats are not.
    found = inside.cumsum(-1, dtype=torch.int32)
    size = found[..., -1:]
    place = torch.arange(1, errors.shape[-1] + 1, device=errors.device, dtype=torch.int32)
    union = (size + place - found).to(errors.dtype)
    missing = (size - found).to(errors.dtype)
    slopes = torch.where(inside, 1.0, missing / (union - 1).clamp_min(1.0)) / union
    # A class without pixels: any first misprediction takes the loss from 0 to 1.
    slopes[..., :1] = torch.where(size == 0, 1.0, slopes[..., :1])
    return torch.empty_like(errors).scatter_(-1, order, slopes)

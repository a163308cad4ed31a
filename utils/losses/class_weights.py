"""Weights that give rare classes a say, from how often each class is labelled."""

import math
import statistics
from collections.abc import Sequence

from utils.config.sections import ClassWeightRule

_ENET = 1.02  # bounds the weights to 1.4 .. 50


def class_weights(
    scheme: ClassWeightRule, pixels: Sequence[int], surroundings: Sequence[int]
) -> tuple[float, ...]:
    """The weight of each class by a formula.

    Args:
        scheme: "median_freq": median of f / f[c], with f[c] the share of the class in the images
            where it occurs (Eigen and Fergus 2015, arXiv:1411.4734, section 6.3.2).
            "sqrt_median_freq": its square root, which raises rare classes less (docs/recipes.md).
            "enet": 1 / ln(1.02 + p[c]), with p[c] the share of the class in all labelled pixels
            (Paszke et al. 2016, arXiv:1606.02147, section 5.2).
            "inverse": 1 / p[c], scaled so that the mean over the classes that occur is 1.
        pixels: Labelled pixels of each class.
        surroundings: Labelled pixels, of any class, of the images in which each class occurs.

    Returns:
        One weight a class; 0 for a class that never occurs, except by "enet".

    Raises:
        ValueError: No pixel is labelled.
    """
    total = sum(pixels)
    if total == 0:
        raise ValueError("no labelled pixel to take class weights from")
    if scheme == "enet":
        return tuple(1 / math.log(_ENET + count / total) for count in pixels)
    if scheme in ("median_freq", "sqrt_median_freq"):
        power = 1 if scheme == "median_freq" else 0.5
        pairs = zip(pixels, surroundings, strict=True)
        shares = [count / around if count else 0 for count, around in pairs]
        middle = statistics.median(share for share in shares if share)
        return tuple((middle / share) ** power if share else 0.0 for share in shares)
    inverse = [total / count if count else 0.0 for count in pixels]
    mean = statistics.fmean(value for value in inverse if value)
    return tuple(value / mean for value in inverse)

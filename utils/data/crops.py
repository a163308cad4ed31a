"""Which part of an image a training crop shows, where its labels have a say."""

import numpy as np

from utils.data.labels import count_values
from utils.data.transforms import View, warp_mask

_REDRAWS = 10  # as in mmsegmentation, whose cat_max_ratio this is


def choose_crop(
    view: View,
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    rare_crops: float,
    cat_max_ratio: float,
    num_classes: int,
    ignore_index: int,
) -> View:
    """Move a cut to a class drawn evenly, or away from where one class fills it.

    The class is drawn first and then one of its pixels, as in nnU-Net (Isensee et al. 2021): so a
    class of a hundred pixels is met as often as one of a million.

    Args:
        view: Where the cut is; nothing else of it changes.
        mask: Train ids (H, W) of the whole image.
        rng: The sample's own generator for this purpose.
        rare_crops: The share of samples that are moved to a class; those are not drawn again.
        cat_max_ratio: The others are drawn again while a class has this share of the valid pixels.
        num_classes: Train ids are 0..num_classes-1, all other values void.
        ignore_index: What lies outside the image.
    """
    if rng.random() < rare_crops:
        present = np.flatnonzero(count_values(mask, num_classes))
        if len(present):
            places = np.flatnonzero(mask == int(rng.choice(present)))
            return view.centered_on(*divmod(int(rng.choice(places)), mask.shape[1]))
    for _ in range(_REDRAWS if cat_max_ratio < 1 else 0):
        counts = count_values(warp_mask(mask, view.geometry(), ignore_index), num_classes)
        if counts.max() < cat_max_ratio * counts.sum():
            break
        view = view.placed(*rng.random(2))
    return view

"""Augmentation: what a config may say about how a training sample differs from its image."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from utils.data import transforms
from utils.data.crops import choose_crop
from utils.errors import ConfigError
from utils.seeding import crop_generator


@dataclass(kw_only=True, eq=False, repr=False)
class Augmentation:
    """The documented augmentation; each sample's is a pure function of (seed, epoch, index).

    Args:
        base_size: Long side in pixels that an image is rescaled to before the random factor;
            None leaves sizes alone, and then `scale` has nothing to scale.
        crop_size: Side of the square training crop; of the center crop with `val`. None: whole.
        scale: Rescale by a random factor of the long side.
        flip: Flip left-right half of the time.
        rotate: Rotate by -10..10 degrees.
        blur: Blur half of the samples.
        augment: Augment training samples as the other arguments say, and crop them at random;
            without it images come as they are.
        val: Validation: with `crop_size` the short side becomes crop_size and the center is cut,
            without it the image is whole. Wins over `augment`.
        scale_range: The random factor of `scale`, smallest and largest.
        jitter: Brightness, contrast and saturation each change by a factor of up to 1 -+ jitter.
        rare_crops: The share of crops that are centered on a pixel of a class drawn evenly over
            the classes in the image, however small they are.
        cat_max_ratio: Draw a crop's place again, up to 10 times, while one class has this share of
            its valid pixels; 1: never. Those of `rare_crops` stay.
        ignore_index: The mask value of void, padding and corners (set by the program).
        seed: Seed of the augmentation (set by the program).
    """

    base_size: Annotated[int, Ge(1)] | None = None
    crop_size: Annotated[int, Ge(1)] | None = None
    scale: bool = True
    flip: bool = False
    rotate: bool = False
    blur: bool = False
    augment: bool = False
    val: bool = False
    scale_range: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = transforms.SCALE_RANGE
    jitter: Annotated[float, Ge(0), Lt(1)] = 0.0
    rare_crops: Annotated[float, Ge(0), Le(1)] = 0.0
    cat_max_ratio: Annotated[float, Gt(0), Le(1)] = 1.0
    ignore_index: int = 255
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be, or would have no effect."""
        if self.scale_range[0] > self.scale_range[1]:
            raise ConfigError(
                f"scale_range: found {list(self.scale_range)}, expected the smaller factor first"
            )
        if self.chooses_crops and not (self.augments and self.crop_size):
            name = "rare_crops" if self.rare_crops else "cat_max_ratio"
            raise ConfigError(
                f"{name}: chooses among random crops, and there are none\n"
                '  fix: "augment": true and a "crop_size" in the same args, or delete it'
            )

    @property
    def augments(self) -> bool:
        """Whether samples are augmented."""
        return self.augment and not self.val

    @property
    def chooses_crops(self) -> bool:
        """Whether the labels have a say in where a crop is taken."""
        return self.rare_crops > 0 or self.cat_max_ratio < 1

    def draw_view(self, size: tuple[int, ...], rng: np.random.Generator) -> transforms.View:
        """Draw what a sample shows of an image of `size` (height, width)."""
        return transforms.training_view(
            *size,
            rng=rng,
            base_size=self.base_size,
            crop_size=self.crop_size,
            scale_range=self.scale_range if self.scale else None,
            rotate=self.rotate,
            flip=self.flip,
        )

    def choose_view(
        self, view: transforms.View, mask: np.ndarray, key: tuple[int, int], *, num_classes: int
    ) -> transforms.View:
        """Let the labels of sample (epoch, index) say where its crop is taken."""
        if not self.chooses_crops:
            return view
        return choose_crop(
            view,
            mask,
            crop_generator(self.seed, *key),
            rare_crops=self.rare_crops,
            cat_max_ratio=self.cat_max_ratio,
            num_classes=num_classes,
            ignore_index=self.ignore_index,
        )

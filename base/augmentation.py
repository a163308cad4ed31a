"""Augmentation: what a config may say about how a training sample differs from its image."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from utils.data import effects, transforms
from utils.data.crops import choose_crop
from utils.errors import ConfigError
from utils.seeding import crop_generator, effect_generator

# What each setting is where it changes nothing.
AT_REST: Mapping[str, object] = {
    **dict.fromkeys(("scale", "flip", "vertical_flip", "rotate", "rotate90", "blur"), False),
    **dict.fromkeys(("jitter", *effects.EFFECTS, "rare_crops"), 0.0),
    "cat_max_ratio": 1.0,
}
# What those need that are refused where they would have no effect.
_NEEDS = {
    **dict.fromkeys(("vertical_flip", "rotate90", *effects.EFFECTS), ("augment",)),
    **dict.fromkeys(("rare_crops", "cat_max_ratio"), ("augment", "crop_size")),
    "rotate_range": ("augment", "rotate"),
    "jitter": ("augment",),
    "scale_range": ("augment", "base_size", "scale"),
}


@dataclass(kw_only=True, eq=False, repr=False)
class Augmentation:
    """The documented augmentation; each sample's is a pure function of (seed, epoch, index).

    Args:
        base_size: Long side in pixels that an image is rescaled to before the random factor;
            None leaves sizes alone, and then `scale` has nothing to scale.
        crop_size: Side of the square training crop; of the center crop with `val`. None: whole.
        scale: Rescale by a random factor of the long side.
        flip: Flip left-right half of the time.
        rotate: Rotate by an angle of `rotate_range`.
        blur: Blur half of the samples.
        augment: Augment training samples as the other arguments say, and crop them at random;
            without it images come as they are.
        val: Validation: with `crop_size` the short side becomes crop_size and the center is cut,
            without it the image is whole. Wins over `augment`.
        scale_range: The random factor of `scale`, smallest and largest.
        rotate_range: The random angle of `rotate` in degrees, smallest and largest.
        vertical_flip: Flip upside down half of the time.
        rotate90: Turn by 0, 90, 180 or 270 degrees, equally likely.
        jitter: Brightness, contrast and saturation each change by a factor of up to 1 -+ jitter.
        brightness: Values change by a factor of up to 1 -+ brightness.
        contrast: Distances from the data's mean change by a factor of up to 1 -+ contrast.
        saturation: Distances from gray change by a factor of up to 1 -+ saturation; RGB only.
        hue: Colors turn about gray by up to -+ hue of a full turn; RGB only.
        gamma: Values are raised to a power of up to 1 -+ gamma; full scale, of float images their
            own range, is 1.
        noise: Gaussian noise of up to this many standard deviations of the data.
        cutout: A hole in the mean color, of up to this share of each side; its labels stay.
        rare_crops: The share of crops that are centered on a pixel of a class drawn evenly over
            the classes in the image, however small they are.
        cat_max_ratio: Draw a crop's place again, up to 10 times, while one class has this share of
            its valid pixels; 1: never. Those of `rare_crops` stay.
        ignore_index: The mask value of void, padding and corners (set by the program).
        seed: Seed of the augmentation (set by the program).
    """

    base_size: Annotated[int, Ge(1), Le(65536)] | None = None
    crop_size: Annotated[int, Ge(1), Le(65536)] | None = None
    scale: bool = True
    flip: bool = False
    rotate: bool = False
    blur: bool = False
    augment: bool = False
    val: bool = False
    scale_range: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = transforms.SCALE_RANGE
    rotate_range: tuple[float, float] = transforms.ROTATE_RANGE
    vertical_flip: bool = False
    rotate90: bool = False
    jitter: Annotated[float, Ge(0), Lt(1)] = 0.0
    brightness: Annotated[float, Ge(0), Lt(1)] = 0.0
    contrast: Annotated[float, Ge(0), Lt(1)] = 0.0
    saturation: Annotated[float, Ge(0), Le(1)] = 0.0
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.0
    gamma: Annotated[float, Ge(0), Lt(1)] = 0.0
    noise: Annotated[float, Ge(0)] = 0.0
    cutout: Annotated[float, Ge(0), Lt(1)] = 0.0
    rare_crops: Annotated[float, Ge(0), Le(1)] = 0.0
    cat_max_ratio: Annotated[float, Gt(0), Le(1)] = 1.0
    ignore_index: int = 255
    seed: int = 0

    border: tuple[float, ...] = field(init=False)  # mean, in the unit of the pixels
    spread: tuple[float, ...] = field(init=False)  # standard deviation, likewise

    def __post_init__(self) -> None:
        """Refuse what cannot be, or would have no effect."""
        for name, kind in (("scale_range", "factor"), ("rotate_range", "angle")):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"{name}: found {[low, high]}, expected the smaller {kind} first")
        twice = [name for name in ("brightness", "contrast", "saturation") if getattr(self, name)]
        if self.jitter and twice:
            raise ConfigError(
                f'jitter: changes brightness, contrast and saturation, and so does "{twice[0]}"\n'
                "  fix: delete one of the two"
            )
        for name, needs in _NEEDS.items():
            idle = self.val or not all(getattr(self, need) for need in needs)
            if idle and getattr(self, name) != getattr(type(self), name):
                listed = " and ".join(f'"{need}"' for need in needs)
                raise ConfigError(
                    f'{name}: has no effect without {listed}, nor in a loader with "val"\n'
                    "  fix: set them in the same args, or delete it"
                )

    @property
    def augments(self) -> bool:
        """Whether samples are augmented."""
        return self.augment and not self.val

    def draw_view(
        self, size: tuple[int, ...], key: tuple[int, int], rng: np.random.Generator
    ) -> transforms.View:
        """Draw what sample (epoch, index) shows of an image of `size` (height, width)."""
        turns = int(self._own("rotate90", key).integers(4)) if self.rotate90 else 0
        view = transforms.training_view(
            *(size[::-1] if turns % 2 else size),
            rng=rng,
            base_size=self.base_size,
            crop_size=self.crop_size,
            scale_range=self.scale_range if self.scale else None,
            rotate_range=self.rotate_range if self.rotate else None,
            flip=self.flip,
        )
        upended = self.vertical_flip and self._own("vertical_flip", key).random() < 0.5
        return view._replace(source=(size[0], size[1]), upended=upended, turns=turns)

    def choose_view(
        self, view: transforms.View, mask: np.ndarray, key: tuple[int, int], *, num_classes: int
    ) -> transforms.View:
        """Let the labels of sample (epoch, index) say where its crop is taken."""
        if not self.rare_crops and self.cat_max_ratio == 1:
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

    def recolored(
        self, image: np.ndarray, key: tuple[int, int], rng: np.random.Generator
    ) -> np.ndarray:
        """Change the colors of sample (epoch, index), (H, W, C)."""
        if self.blur:
            image = effects.random_blur(image, rng)
        if self.jitter:
            image = effects.random_jitter(image, rng, jitter=self.jitter, pivot=self.border)
        for name, effect in effects.EFFECTS.items():
            if amount := getattr(self, name):
                draw = effects.Draw(amount, self._own(name, key), self.border, self.spread)
                image = effect(image, draw)
        return image

    def _own(self, name: str, key: tuple[int, int]) -> np.random.Generator:
        """What one argument draws from: another one, set or not, changes nothing about it."""
        return effect_generator(name, self.seed, *key)

"""The rules: what the data and the machine say about a config, each with its reason and source.

A rule is one function of facts: a better finding replaces it and its test.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from planning.fingerprint import Fingerprint
from utils.drawing.text import percent
from utils.hardware.workers import START_METHOD

ENCODERS = {
    "cpu": ("tf_efficientnet_lite0",),
    "cuda": ("convnext_tiny.in12k_ft_in1k", "resnet50", "tf_efficientnet_lite0"),
}
"""Encoders to start from, the best first."""
_ENOUGH = {True: 500, False: 2000}  # images seen, from pretrained and from random weights
_START, _SPARE = 15, 0.95  # seconds until the first iteration; share of the time that is planned
_ARGS = "train_loader.args"
_OURS, _THEIRS = "as in docs/recipes.md", "as in MMSegmentation's recipes"
_MEASURED = "docs/recipes.md"


class Choice(NamedTuple):
    """A value of the config and why, in a sentence."""

    value: Any
    reason: str = ""


Choices = dict[str, Choice]
"""By the key's path in the config."""


class Machine(NamedTuple):
    """Where it will train: "cpu" or "cuda", cores, free bytes of the host and of the GPU."""

    device: str
    cores: int
    host_bytes: int
    device_bytes: int


class Measured(NamedTuple):
    """A network, and what training it takes: `validation` in seconds an image, `save` an epoch."""

    arch: Mapping[str, Any]
    images_per_second: float
    validation: float
    save: float
    peak_bytes: int


def split(data: Fingerprint) -> Choices:
    """Hold out what tells the truth about other images."""
    if data.val_images:
        return {}
    chosen = {}
    if data.folders >= 5:
        why = "images of one folder may be of one place or film (docs/data.md)"
        chosen[f"{_ARGS}.group"] = Choice("(.*)/", why)
    if data.images < 50:
        why = "few images: a fifth is a rough judge; folds [0, 5] to [4, 5] judge by all (nnU-Net)"
        return chosen | {f"{_ARGS}.val_fold": Choice([0, 5], why)}
    why = "a fifth, 500 images at most: more would tell little more"
    return chosen | {f"{_ARGS}.val_split": Choice(held_out(data), why)}


def held_out(data: Fingerprint) -> float:
    """The share of the images that is validated."""
    return 0.2 if data.images <= 2500 else round(500 / data.images, 3)


def crop(data: Fingerprint, device: str) -> Choice:
    """Show as much of an image at once as the device affords."""
    most, source = (352, _OURS) if device == "cpu" else (512, _THEIRS)
    why = f"the short side in steps of 32, at most {most} on {device}, {source}"
    return Choice(max(32, min(*data.median, most) // 32 * 32), why)


def scale(data: Fingerprint) -> Choices:
    """Scale by chance where things are near and far, about the size that is predicted."""
    if max(data.largest) > 1.5 * max(data.smallest):
        why = "image sizes differ, and images are predicted at their own size: so trained"
        return {f"{_ARGS}.scale": Choice(value=False, reason=why)}
    if not is_upright(data):
        why = "seen from one distance: sizes mean something (nnU-Net scales few of its images)"
        return {f"{_ARGS}.scale": Choice(value=False, reason=why)}
    return {
        f"{_ARGS}.base_size": Choice(max(data.median), "the images' own long side"),
        f"{_ARGS}.scale_range": Choice([0.5, 2.0], "a scene with near and far, as DeepLab's"),
    }


def is_upright(data: Fingerprint) -> bool:
    """Whether labels tell above from below, by more than chance tells left from right."""
    return data.upright > 0.05 + 2 * data.sideways


def augmentation(data: Fingerprint) -> Choices:
    """Change what means nothing in these data."""
    chosen = {f"{_ARGS}.flip": Choice(value=True, reason="left and right mean the same")}
    if not is_upright(data):
        why = "labels above and below differ no more than left and right ones: no way is up"
        chosen |= {f"{_ARGS}.{key}": Choice(True, why) for key in ("vertical_flip", "rotate90")}
    if (data.channels, data.dtype) == (3, "uint8"):
        chosen[f"{_ARGS}.jitter"] = Choice(0.2, f"light and camera vary; {_OURS}")
    return chosen


def rare_crops(data: Fingerprint, crop_size: int) -> Choices:
    """Show rare classes more often, where a crop is a small part of an image."""
    share, name = rarest(data)
    if share >= 0.01 or crop_size**2 >= math.prod(data.median) / 2:
        return {}
    why = f"{name} has {percent(share)} of the pixels: a third of the crops shows a class (nnU-Net)"
    return {f"{_ARGS}.rare_crops": Choice(0.33, why)}


def rarest(data: Fingerprint) -> tuple[float, str]:
    """The share and the name of the rarest class that occurs."""
    return min(pair for pair in zip(data.shares, data.classes, strict=True) if pair[0])


def class_weights(data: Fingerprint, arch: Mapping[str, Any]) -> Choices:
    """Give rare classes a say where all has to be learned."""
    share, name = rarest(data)
    if arch["args"].get("pretrained") or len(data.classes) == 2 or share >= 0.02:
        return {}
    why = f"from random weights a class like {name}, {percent(share)}, comes late ({_MEASURED})"
    return {"class_weights": Choice("sqrt_median_freq", why)}


def loss(data: Fingerprint) -> Choice:
    """Cross-entropy, and the score itself where that costs little."""
    if len(data.classes) > 32:
        return Choice("CrossEntropyLoss2d", "Lovasz would sort all pixels for each of the classes")
    parts = [{"type": "CrossEntropyLoss2d"}, {"type": "LovaszSoftmax", "weight": 0.5}]
    why = f"Lovasz is the score as a loss (Berman 2018): on CamVid worth 6 points ({_MEASURED})"
    return Choice({"type": "Sum", "args": {"parts": parts}}, why)


def monitor(data: Fingerprint) -> Choice:
    """Keep the best checkpoint for what is looked for."""
    share, name = rarest(data)
    if len(data.classes) == 2 and share < 0.05:
        there = data.occurs[data.classes.index(name)]
        images = data.images + data.val_images
        if there * (data.val_images / images or held_out(data)) < 3:
            return Choice("max Mean_IoU", f"{name} is in {there} images: perhaps in none held out")
        return Choice(f"max IoU/{name}", "half of the mean would be the easy class")
    return Choice("max Mean_IoU", "all classes count the same")


def candidates(device: str, weights: Mapping[str, str | bool]) -> list[dict[str, Any]]:
    """Return three networks, the strongest first.

    Args:
        device: "cpu" or "cuda".
        weights: `arch.args.pretrained` of the encoders whose weights are there.
    """
    wide, narrow = (32, 16) if device == "cpu" else (64, 32)
    unets = [{"type": "UNet", "args": {"base_channels": n}} for n in (wide, narrow)]
    name = next((name for name in ENCODERS[device] if name in weights), None)
    if name is None:
        return [*unets, {"type": "ENet", "args": {}}]
    args = {"backbone": name, "pretrained": weights[name]}
    deeplab = {"type": "DeepLab", "args": {**args, "separable": True}}
    segformer = {"type": "SegFormer", "args": {**args, "width": 256}}  # docs/recipes.md
    return [segformer, deeplab, unets[1]]


def model(measured: Sequence[Measured], minutes: float) -> tuple[Measured, Choice]:
    """Choose the strongest network that the time is enough for."""
    seen = [planned_seconds(minutes) * one.images_per_second for one in measured]
    enough = [_ENOUGH[bool(one.arch["args"].get("pretrained"))] for one in measured]
    fits = (n for n, images in enumerate(seen) if images >= enough[n])
    best = measured[next(fits, seen.index(max(seen)))]
    each = ", ".join(
        f"{one.arch['type']} {images:,.0f} of {least:,}"
        for one, images, least in zip(measured, seen, enough, strict=True)
    )
    why = f"images in {minutes:g} minutes, of those needed: {each}; the first that fits, or fastest"
    return best, Choice(best.arch, why)


def batch(data: Fingerprint, machine: Machine, peak_bytes: int) -> Choices:
    """8 images an update, 16 on a GPU; in parts where memory does not suffice for all at once.

    Args:
        data: The data.
        machine: Its memory.
        peak_bytes: Of a whole batch; 0: not measured yet.
    """
    on_cpu = machine.device == "cpu"
    whole, source = (8, _OURS) if on_cpu else (16, _THEIRS)
    free = machine.host_bytes if on_cpu else machine.device_bytes
    whole, parts = min(whole, data.images), 1
    while peak_bytes / parts > 0.8 * free and whole % (2 * parts) == 0 and whole > 2 * parts:
        parts *= 2
    why = f"{whole} images an update, {source}"
    chosen = {f"{_ARGS}.batch_size": Choice(whole // parts, why)}
    if parts > 1:
        why = f"{whole} images at once would need {peak_bytes / 2**30:.1f} GiB"
        chosen["trainer.accumulate"] = Choice(parts, why)
    return chosen


def optimizer(arch: Mapping[str, Any]) -> Choices:
    """AdamW, gentle with weights that know something."""
    pretrained = bool(arch["args"].get("pretrained"))
    rate, start = (2e-3, f"pretrained weights, {_OURS}") if pretrained else (3e-3, "random weights")
    chosen = {
        "optimizer.type": Choice("AdamW", "forgives a rate that is not tuned (Loshchilov 2019)"),
        "optimizer.args": Choice({"lr": rate, "weight_decay": 0.01}, f"from {start}"),
    }
    if pretrained:
        why = f"the encoder knows images already: a quarter of the rate, {_OURS}"
        chosen["optimizer.differential_lr"] = Choice(value=True, reason=why)
        chosen["optimizer.backbone_lr_factor"] = Choice(0.25)
    return chosen


def loading(data: Fingerprint, machine: Machine) -> Choices:
    """Keep decoded pixels where they fit; leave a core to the training."""
    workers = max(1, min(machine.cores - 1, 8))
    chosen = {f"{_ARGS}.num_workers": Choice(workers, "a core less than there are (docs/data.md)")}
    if START_METHOD == "fork" and data.decoded_bytes < 0.3 * machine.host_bytes:
        taken, free = (size / 2**30 for size in (data.decoded_bytes, machine.host_bytes))
        why = f"decoded, all images take {taken:.1f} of {free:.1f} GiB"
        chosen[f"{_ARGS}.cache"] = Choice("ram", why)
    return chosen


def schedule(data: Fingerprint, chosen: Measured, minutes: float, batch_size: int) -> Choices:
    """As many epochs as the time allows, with a tenth of it for validation."""
    val = data.val_images or max(1, round(held_out(data) * data.images))
    train = data.images if data.val_images else data.images - val
    train = train if train < batch_size else train // batch_size * batch_size  # full batches
    seconds = planned_seconds(minutes)
    epoch = train / chosen.images_per_second + chosen.save
    validation = val * chosen.validation + chosen.save
    times = max(1, min(30, int(0.1 * seconds / validation)))
    epochs = max(1, int((seconds - times * validation) / epoch))
    updates = epochs * max(1, train // batch_size)
    every, why_every = math.ceil(epochs / times), "30 validations, or a tenth of the time"
    needed = (_START + epochs * epoch + math.ceil(epochs / every) * validation) / 60
    pace = f"{train} images an epoch at {chosen.images_per_second:g} a second"
    pace = f"{pace}, about {needed:.3g} of {minutes:g} minutes"
    result = {
        "lr_scheduler.type": Choice("OneCycle", "anneals to its end, however near (Smith 2018)"),
        "trainer.epochs": Choice(epochs, pace),
        "trainer.val_per_epochs": Choice(every, why_every),
        "trainer.save_period": Choice(epochs, "last.pth and best_model.pth are kept anyway"),
    }
    if updates >= 300:
        why = f"averages the last hundred or so of {updates:,} updates, {_OURS}"
        result["trainer.ema"] = Choice(0.99, why)
    return result


def prediction(data: Fingerprint, crop_size: int) -> Choice:
    """How `inference.py` shall look at images; no key of a config says it."""
    if max(data.largest) <= 2 * crop_size:
        return Choice("whole", "images are at most twice as long as what it was trained on")
    return Choice("sliding", "images are over twice as long as what it was trained on (nnU-Net)")


def planned_seconds(minutes: float) -> float:
    """What the start leaves for epochs and validations, less a little."""
    return max(1.0, _SPARE * 60 * minutes - _START)

"""Dice, Tversky and Lovasz-softmax against loops written from their papers, class by class."""

from functools import partial

import pytest
import torch
from loss_cases import CASES, agree, case, softmax, valid_pixels

from utils.losses.lovasz import LovaszSoftmax, jaccard_slopes
from utils.losses.region import DiceLoss, Tversky


def class_mean(losses, weights):
    """The mean of {class: loss}, weighted."""
    shares = {c: 1.0 if weights is None else float(torch.tensor(weights[c])) for c in losses}
    return sum(shares[c] * losses[c] for c in losses) / sum(shares.values())


def chosen_classes(labels, num_classes, classes):
    return sorted(set(labels)) if classes == "present" else list(range(num_classes))


def dice(logits, target, ignore_index, weights, smooth, classes):
    probabilities = softmax(logits)
    pixels = valid_pixels(target, ignore_index)
    labels = [int(target[p]) for p in pixels]
    losses = {}
    for c in chosen_classes(labels, logits.shape[1], classes):
        p = torch.stack([probabilities[n, c, y, x] for n, y, x in pixels])
        g = torch.tensor([float(label == c) for label in labels], dtype=p.dtype)
        losses[c] = 1 - (2 * (p * g).sum() + smooth) / (p.sum() + g.sum() + smooth)
    return class_mean(losses, weights)


@pytest.mark.parametrize(("smooth", "classes"), [(1.0, "present"), (0.25, "all")])
def test_dice_equals_its_formula_in_value_and_gradient(smooth, classes):
    for seed in range(CASES):
        _, target, ignore_index, weights = case(seed)
        loss = DiceLoss(
            smooth=smooth, classes=classes, ignore_index=ignore_index, class_weights=weights
        )
        reference = partial(
            dice,
            target=target,
            ignore_index=ignore_index,
            weights=weights,
            smooth=smooth,
            classes=classes,
        )
        agree(loss, reference, case(seed), check=seed % 40 == 0)


def tversky(logits, target, ignore_index, weights, alpha, beta):
    probabilities = softmax(logits)
    pixels = valid_pixels(target, ignore_index)
    labels = [int(target[p]) for p in pixels]
    losses = {}
    for c in sorted(set(labels)):
        hits = false_alarms = misses = 0.0
        for (n, y, x), label in zip(pixels, labels, strict=True):
            p = probabilities[n, c, y, x]
            if label == c:
                hits, misses = hits + p, misses + (1 - p)
            else:
                false_alarms = false_alarms + p
        losses[c] = 1 - (hits + 1) / (hits + alpha * false_alarms + beta * misses + 1)
    return class_mean(losses, weights)


def test_tversky_equals_its_formula_in_value_and_gradient():
    for seed in range(CASES):
        _, target, ignore_index, weights = case(seed)
        loss = Tversky(alpha=0.2, beta=0.9, ignore_index=ignore_index, class_weights=weights)
        reference = partial(
            tversky,
            target=target,
            ignore_index=ignore_index,
            weights=weights,
            alpha=0.2,
            beta=0.9,
        )
        agree(loss, reference, case(seed), check=seed % 40 == 0)


def lovasz_of_class(errors, truth):
    """Algorithm 1 of the paper: differences of the Jaccard loss along the sorted errors."""
    order = sorted(range(len(truth)), key=lambda i: -float(errors[i].detach()))
    value, before = 0.0, 0.0
    for k in range(len(order)):
        mispredicted = order[: k + 1]
        kept = sum(truth) - sum(truth[i] for i in mispredicted)
        union = sum(truth) + sum(not truth[i] for i in mispredicted)
        now = 1 - kept / union
        value = value + errors[order[k]] * (now - before)
        before = now
    return value


def lovasz(logits, target, ignore_index, weights, classes, per_image):
    probabilities = softmax(logits)
    everything = valid_pixels(target, ignore_index)
    groups = [everything]
    if per_image:
        groups = [[p for p in everything if p[0] == n] for n in range(len(target))]
    means = []
    for pixels in groups:
        labels = [int(target[p]) for p in pixels]
        losses = {}
        for c in chosen_classes(labels, logits.shape[1], classes):
            truth = [label == c for label in labels]
            errors = [
                1 - probabilities[n, c, y, x] if own else probabilities[n, c, y, x]
                for (n, y, x), own in zip(pixels, truth, strict=True)
            ]
            losses[c] = lovasz_of_class(errors, truth)
        if pixels:
            means.append(class_mean(losses, weights))
    return sum(means) / len(means)


@pytest.mark.parametrize(
    ("classes", "per_image"), [("present", False), ("all", False), ("present", True)]
)
def test_lovasz_equals_the_papers_algorithm_class_by_class(classes, per_image):
    for seed in range(CASES):
        _, target, ignore_index, weights = case(seed)
        loss = LovaszSoftmax(
            classes=classes,
            per_image=per_image,
            ignore_index=ignore_index,
            class_weights=weights,
        )
        reference = partial(
            lovasz,
            target=target,
            ignore_index=ignore_index,
            weights=weights,
            classes=classes,
            per_image=per_image,
        )
        agree(loss, reference, case(seed), check=seed % 50 == 0)


def test_lovasz_keeps_its_digits_in_float32_over_a_million_pixels():
    random = torch.Generator().manual_seed(0)
    errors = torch.rand(1, 2**20, generator=random)
    truth = torch.rand(1, 2**20, generator=random) < 0.1
    exact = jaccard_slopes(errors.double(), truth)
    assert torch.allclose(jaccard_slopes(errors, truth).double(), exact, rtol=1e-6, atol=0)


def test_a_class_with_a_good_prediction_loses_less():
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[:, 4:] = 1
    good = torch.stack([1.0 - target, target.float()], dim=1) * 4
    for loss in (DiceLoss(), Tversky(), LovaszSoftmax()):
        assert 0 <= float(loss(good, target)) < 0.1
        assert float(loss(-good, target)) > 0.8

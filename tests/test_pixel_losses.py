"""Losses that are sums over pixels, against loops written from their formulas."""

from functools import partial

import pytest
import torch
from loss_cases import CASES, agree, case, softmax, valid_pixels
from torch.nn import functional

from utils.losses import LOSSES, CrossEntropyLoss2d, WithAuxiliary


def weight_of(weights, label):
    return 1.0 if weights is None else float(torch.tensor(weights[label]))


def cross_entropy(logits, target, ignore_index, weights):
    probabilities = softmax(logits)
    above = below = 0.0
    for n, y, x in valid_pixels(target, ignore_index):
        label = int(target[n, y, x])
        above = above - weight_of(weights, label) * probabilities[n, label, y, x].log()
        below += weight_of(weights, label)
    return above / below


def test_cross_entropy_equals_its_formula_in_value_and_gradient():
    for seed in range(CASES):
        _, target, ignore_index, weights = case(seed)
        loss = CrossEntropyLoss2d(ignore_index=ignore_index, class_weights=weights)
        reference = partial(
            cross_entropy, target=target, ignore_index=ignore_index, weights=weights
        )
        agree(loss, reference, case(seed), check=seed % 20 == 0)


def test_the_divisor_of_the_whole_batch_makes_its_parts_add_up():
    for seed in range(0, CASES, 7):
        logits, target, ignore_index, weights = case(seed)
        loss = CrossEntropyLoss2d(ignore_index=ignore_index, class_weights=weights)
        counts = torch.stack([(target == c).sum() for c in range(logits.shape[1])])
        total = loss.total(counts)
        parts = [loss(x[None], y[None], total=total) for x, y in zip(logits, target, strict=True)]
        assert float(sum(parts)) == pytest.approx(float(loss(logits, target)), abs=1e-12)


def test_half_precision_inside_autocast_is_computed_in_float32():
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    for name in LOSSES:
        loss = LOSSES[name](ignore_index=255)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = loss(logits.bfloat16(), target)
        assert inside.dtype == torch.float32
        assert float(inside) == float(loss(logits.bfloat16().float(), target))


def test_auxiliary_outputs_are_weighed_and_share_the_divisor():
    main, side, target = (
        torch.randn(2, 3, 4, 4),
        torch.randn(2, 3, 4, 4),
        torch.ones(2, 4, 4).long(),
    )
    loss = WithAuxiliary(CrossEntropyLoss2d(ignore_index=255), 0.25)
    total = torch.tensor(100.0)
    expected = functional.cross_entropy(main, target, reduction="sum") / 100
    assert float(loss(main, target, total=total)) == pytest.approx(float(expected))
    expected += 0.25 * functional.cross_entropy(side, target, reduction="sum") / 100
    assert float(loss((main, side), target, total=total)) == pytest.approx(float(expected))
    assert float(loss.total(torch.tensor([0, 32, 0]))) == 32

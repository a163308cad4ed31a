"""Losses that are sums over pixels, against loops written from their formulas."""

from functools import partial

import pytest
import torch
from loss_cases import CASES, agree, case, softmax, valid_pixels, value_and_gradient
from torch.nn import functional

from utils.losses.pixel import CrossEntropyLoss2d, FocalLoss
from utils.losses.table import WithAuxiliary


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


def smoothed(logits, target, ignore_index, weights, smoothing):
    probabilities = softmax(logits)
    classes = logits.shape[1]
    above = below = 0.0
    for n, y, x in valid_pixels(target, ignore_index):
        label = int(target[n, y, x])
        for c in range(classes):
            share = smoothing / classes + (1 - smoothing) * (c == label)
            above = above - share * weight_of(weights, c) * probabilities[n, c, y, x].log()
        below += weight_of(weights, label)
    return above / below


def test_a_class_without_weight_is_not_smoothed_either():
    """Else a batch of such pixels alone would divide what is smoothed by nothing."""
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    loss = CrossEntropyLoss2d(label_smoothing=0.2, class_weights=[0.0, 1.0])
    value = loss(logits, target)
    value.backward()
    assert value == 0
    assert not logits.grad.any()
    target[0, 0, 0] = 1
    alone = loss(logits[:, :, :1, :1], target[:, :1, :1])
    assert loss(logits, target).item() == pytest.approx(alone.item())


def test_label_smoothing_equals_its_formula_in_value_and_gradient():
    for seed in range(CASES):
        _, target, ignore_index, weights = case(seed)
        loss = CrossEntropyLoss2d(
            label_smoothing=0.2, ignore_index=ignore_index, class_weights=weights
        )
        reference = partial(
            smoothed, target=target, ignore_index=ignore_index, weights=weights, smoothing=0.2
        )
        agree(loss, reference, case(seed), check=seed % 40 == 0)


def hard_pixels_only(logits, target, ignore_index, weights, threshold, share):
    probabilities = softmax(logits)
    scored = []
    for n, y, x in valid_pixels(target, ignore_index):
        label = int(target[n, y, x])
        scored.append((probabilities[n, label, y, x], weight_of(weights, label)))
    scored.sort(key=lambda pair: float(pair[0].detach()))
    least = max(1, round(share * target.numel()))
    kept = [pair for rank, pair in enumerate(scored) if rank < least or pair[0] <= threshold]
    return sum(-w * p.log() for p, w in kept) / sum(w for _, w in kept)


@pytest.mark.parametrize(("threshold", "share"), [(0.3, 0.1), (0.7, 0.5), (0.05, 1.0)])
def test_ohem_equals_its_rule_in_value_and_gradient(threshold, share):
    for seed in range(CASES):
        _, target, ignore_index, weights = case(seed)
        loss = CrossEntropyLoss2d(
            ohem_threshold=threshold,
            ohem_min_kept=share,
            ignore_index=ignore_index,
            class_weights=weights,
        )
        reference = partial(
            hard_pixels_only,
            target=target,
            ignore_index=ignore_index,
            weights=weights,
            threshold=threshold,
            share=share,
        )
        agree(loss, reference, case(seed))
        assert loss.denominator([4, 5]) is None


def focal(logits, target, ignore_index, weights, gamma, alpha):
    probabilities = softmax(logits)
    above = below = 0.0
    for n, y, x in valid_pixels(target, ignore_index):
        label = int(target[n, y, x])
        p = probabilities[n, label, y, x]
        factor = alpha[label] if isinstance(alpha, list) else alpha
        above = above - weight_of(weights, label) * factor * (1 - p) ** gamma * p.log()
        below += weight_of(weights, label)
    return above / below


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_equals_its_formula_in_value_and_gradient(gamma):
    for seed in range(CASES):
        logits, target, ignore_index, weights = case(seed)
        alpha = [0.25 + 0.5 * c for c in range(logits.shape[1])] if seed % 4 < 2 else 0.25
        loss = FocalLoss(
            gamma=gamma,
            alpha=tuple(alpha) if isinstance(alpha, list) else alpha,
            ignore_index=ignore_index,
            class_weights=weights,
        )
        reference = partial(
            focal,
            target=target,
            ignore_index=ignore_index,
            weights=weights,
            gamma=gamma,
            alpha=alpha,
        )
        agree(loss, reference, case(seed), check=seed % 40 == 0)


def test_focal_at_gamma_0_is_cross_entropy_gradient_included():
    for seed in range(0, CASES, 3):
        _, _, ignore_index, weights = case(seed)
        reference = CrossEntropyLoss2d(ignore_index=ignore_index, class_weights=weights)
        focal_loss = FocalLoss(gamma=0.0, ignore_index=ignore_index, class_weights=weights)
        target = case(seed)[1]
        agree(focal_loss, partial(reference, target=target), case(seed))


def test_focal_has_a_finite_gradient_where_the_answer_is_certain():
    logits = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1).requires_grad_()
    for label in (0, 1):
        for gamma in (0.0, 0.3, 2.0):
            loss = FocalLoss(gamma=gamma)(logits, torch.full((1, 1, 1), label))
            (gradient,) = torch.autograd.grad(loss, logits)
            assert gradient.isfinite().all()
            assert bool(gradient.any()) == (label == 1)


@pytest.mark.parametrize("classes", [3, 15, 16, 40])
@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropyLoss2d,
        partial(CrossEntropyLoss2d, label_smoothing=0.2),
        partial(CrossEntropyLoss2d, ohem_threshold=0.05),
        FocalLoss,
    ],
    ids=["cross-entropy", "smoothed", "hard", "focal"],
)
def test_the_layout_of_logits_in_memory_has_no_influence(classes, loss):
    torch.manual_seed(classes)
    target = torch.randint(0, classes, (2, 9, 7))
    target[0, :3] = 255
    criterion = loss(class_weights=torch.rand(classes).tolist())
    plain = torch.randn(2, classes, 9, 7, dtype=torch.float64)
    found = [
        value_and_gradient(partial(criterion, target=target), logits)
        for logits in (plain, plain.contiguous(memory_format=torch.channels_last))
    ]
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-15)


def test_the_divisor_of_the_whole_batch_makes_its_parts_add_up():
    for seed in range(0, CASES, 7):
        logits, target, ignore_index, weights = case(seed)
        loss = CrossEntropyLoss2d(ignore_index=ignore_index, class_weights=weights)
        total = loss.denominator([int((target == c).sum()) for c in range(logits.shape[1])])
        parts = [
            loss(x[None], y[None], denominator=total) for x, y in zip(logits, target, strict=True)
        ]
        assert float(sum(parts)) == pytest.approx(float(loss(logits, target)), abs=1e-12)


def test_auxiliary_outputs_are_weighed_and_share_the_divisor():
    main, side, target = (
        torch.randn(2, 3, 4, 4),
        torch.randn(2, 3, 4, 4),
        torch.ones(2, 4, 4).long(),
    )
    loss = WithAuxiliary(CrossEntropyLoss2d(ignore_index=255), 0.25)
    total = 100
    expected = functional.cross_entropy(main, target, reduction="sum") / 100
    assert float(loss(main, target, denominator=total)) == pytest.approx(float(expected))
    expected += 0.25 * functional.cross_entropy(side, target, reduction="sum") / 100
    assert float(loss((main, side), target, denominator=total)) == pytest.approx(float(expected))
    assert loss.denominator([0, 32, 0]) == 32

"""Random cases for every loss, and the comparison of a loss with a reference in float64."""

import numpy as np
import pytest
import torch

CASES = 200
KINDS = ("mixed", "no void", "absent classes", "one valid pixel", "no valid pixel")


def case(seed):
    """(logits float64 (N,C,H,W), target int64 (N,H,W), ignore_index, class_weights | None)."""
    random = np.random.default_rng(seed)
    ignore_index = (-1, 0, 255)[seed % 3]
    kind = KINDS[seed // 3 % len(KINDS)]
    classes = int(random.integers(2, 7))
    shape = (int(random.integers(1, 4)), int(random.integers(1, 6)), int(random.integers(1, 6)))
    logits = random.normal(size=(shape[0], classes, *shape[1:])) * random.choice([0.5, 3.0])
    usable = [c for c in range(classes) if c != ignore_index]
    if kind == "absent classes":
        usable = usable[: max(1, len(usable) // 2)]
    target = random.choice(usable, size=shape)
    if kind in ("mixed", "absent classes"):
        target[random.random(shape) < 0.3] = ignore_index
    if kind in ("one valid pixel", "no valid pixel"):
        label = target.flat[-1]
        target[:] = ignore_index
        if kind == "one valid pixel":
            target.flat[int(random.integers(target.size))] = label
    weights = random.uniform(0.1, 3.0, size=classes).tolist() if seed % 2 else None
    return (
        torch.from_numpy(logits),
        torch.from_numpy(target.astype(np.int64)),
        ignore_index,
        weights,
    )


def value_and_gradient(function, logits):
    """A scalar function of the logits and its gradient by autograd."""
    leaf = logits.clone().requires_grad_()
    value = function(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def softmax(logits):
    """(N, C, H, W) -> probabilities, from the definition."""
    exponentials = (logits - logits.amax(1, keepdim=True).detach()).exp()
    return exponentials / exponentials.sum(1, keepdim=True)


def valid_pixels(target, ignore_index):
    """(n, y, x) of each pixel that carries a label, in order."""
    return [p for p in np.ndindex(*target.shape) if int(target[p]) != ignore_index]


def agree(loss, reference, seed_case, *, check=False):
    """A loss equals a float64 reference(logits) in value and gradient, and keeps the contract."""
    logits, target = seed_case[:2]
    untouched = target.clone()
    value, slope = value_and_gradient(lambda x: loss(x, target), logits)
    assert torch.equal(target, untouched)
    assert value.dtype == torch.float64
    assert value.shape == ()
    void = (target == loss.ignore_index).unsqueeze(1).expand_as(slope)
    assert not slope[void].any()
    if bool(void.all()):
        assert float(value) == 0
        return
    expected, expected_slope = value_and_gradient(reference, logits)
    assert float(value) == pytest.approx(float(expected), rel=1e-10, abs=1e-12)
    assert torch.allclose(slope, expected_slope, rtol=1e-8, atol=1e-12)
    if check:
        assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.clone().requires_grad_())

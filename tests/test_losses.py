"""The contract that every loss of the table keeps, sums of losses, and the config's way in."""

from functools import partial

import pytest
import torch
from loss_cases import CASES, case, value_and_gradient
from torch.utils._python_dispatch import TorchDispatchMode

from utils.config.registry import choose
from utils.errors import ConfigError
from utils.losses.pixel import CrossEntropyLoss2d
from utils.losses.region import DiceLoss
from utils.losses.table import LOSSES, CE_DiceLoss, Part, Sum, build_loss
from utils.metrics.confusion import ConfusionMatrix

PARTS = (
    Part(type="CrossEntropyLoss2d", args={"label_smoothing": 0.1}),
    Part(type="LovaszSoftmax", weight=0.5),
)
VARIANTS = {
    **{name: (name, {"parts": PARTS} if name == "Sum" else {}) for name in LOSSES},
    "OHEM": ("CrossEntropyLoss2d", {"ohem_threshold": 0.7}),
    "smoothed": ("CrossEntropyLoss2d", {"label_smoothing": 0.1}),
    "per image": ("LovaszSoftmax", {"per_image": True}),
    "all classes": ("DiceLoss", {"classes": "all", "smooth": 0.0}),
}
READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "is_nonzero")


class HostReads(TorchDispatchMode):
    """Collects the operations whose result or size must be known on the host."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        boolean = name in ("index", "index_put", "index_put_") and any(
            isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if boolean or any(name.startswith(read) for read in READS):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def make(variant, **shared):
    name, args = VARIANTS[variant]
    return LOSSES[name](**args, **shared)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_loss_reads_from_the_device_forward_or_backward(variant):
    loss = make(variant, ignore_index=255, class_weights=[0.5, 1.0, 2.0])
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    target = torch.randint(0, 3, (2, 8, 8))
    target[0, :4] = 255
    with HostReads() as reads:
        loss(logits, target, denominator=200.0).backward()
    assert reads.found == []


def test_what_counts_as_a_read_is_noticed():
    values = torch.randn(4)
    with HostReads() as reads:
        _ = values[values > 0]
        _ = values.sum().item()
        _ = values.nonzero()
    assert {"_local_scalar_dense", "nonzero"} <= set(reads.found)
    assert len(reads.found) >= 3


def test_the_confusion_matrix_counts_without_reading_from_the_device():
    matrix = ConfusionMatrix(3, 255)
    with HostReads() as reads:
        matrix.update(torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8)).byte())
    assert reads.found == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_all_void_batch_costs_nothing_and_has_a_graph(variant):
    for ignore_index in (-1, 0, 255):
        loss = make(variant, ignore_index=ignore_index)
        target = torch.full((2, 5, 4), ignore_index)
        for total in (None, 0.0, 12.0):
            logits = torch.randn(2, 3, 5, 4, requires_grad=True)
            value = loss(logits, target, denominator=total)
            value.backward()
            assert value.shape == ()
            assert float(value.detach()) == 0
            assert not logits.grad.any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_void_pixels_have_no_influence_and_the_target_is_untouched(variant):
    for seed in range(0, CASES, 9):
        logits, target, ignore_index, weights = case(seed)
        loss = make(variant, ignore_index=ignore_index, class_weights=weights)
        void = (target == ignore_index).unsqueeze(1)
        before = target.clone()
        function = partial(loss, target=before)
        value, slope = value_and_gradient(function, logits)
        noisy = torch.where(void, 7 * torch.randn_like(logits), logits)
        noisy_value, noisy_slope = value_and_gradient(function, noisy)
        assert torch.equal(before, target)
        assert torch.allclose(value, noisy_value, rtol=1e-12, atol=0)
        assert torch.allclose(slope, noisy_slope, rtol=1e-12, atol=1e-15)
        assert not slope[void.expand_as(slope)].any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_inside_autocast_is_computed_in_float32(variant):
    loss = make(variant)
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits.bfloat16(), target)
    assert inside.dtype == torch.float32
    assert float(inside) == float(loss(logits.bfloat16().float(), target))


@pytest.mark.parametrize("variant", VARIANTS)
def test_class_weights_reach_every_loss(variant):
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    plain = float(make(variant)(logits, target))
    assert float(make(variant, class_weights=[1.0] * 3)(logits, target)) == pytest.approx(plain)
    assert float(make(variant, class_weights=[0.1, 1.0, 5.0])(logits, target)) != plain


@pytest.mark.parametrize("variant", VARIANTS)
def test_layout_of_the_logits_does_not_matter(variant):
    loss = make(variant)
    logits, target = torch.randn(2, 3, 8, 8).double(), torch.randint(0, 3, (2, 8, 8))
    nhwc = logits.to(memory_format=torch.channels_last)
    assert float(loss(logits, target)) == pytest.approx(float(loss(nhwc, target)), rel=1e-12)


def test_a_sum_is_the_weighted_sum_of_its_parts():
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    weights = [0.5, 1.0, 2.0]
    parts = (Part(type="DiceLoss", weight=0.25), Part(type="FocalLoss", args={"gamma": 1.0}))
    expected = 0.25 * LOSSES["DiceLoss"](class_weights=weights)(logits, target)
    expected += LOSSES["FocalLoss"](gamma=1.0, class_weights=weights)(logits, target)
    value = Sum(parts=parts, class_weights=weights)(logits, target)
    assert float(value) == pytest.approx(float(expected))


def test_ce_dice_is_cross_entropy_plus_dice():
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    target[0] = 0
    expected = CrossEntropyLoss2d(ignore_index=0)(logits, target)
    expected += DiceLoss(ignore_index=0, smooth=0.5)(logits, target)
    value = CE_DiceLoss(ignore_index=0, smooth=0.5)(logits, target)
    assert float(value) == pytest.approx(float(expected))


def test_the_parts_of_a_mixture_average_over_micro_batches_by_their_valid_pixels():
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    target[0, :6] = 255
    weights = [0.5, 1.0, 2.0]
    loss = CE_DiceLoss(class_weights=weights)
    dice = DiceLoss(class_weights=weights)
    counts = [torch.bincount(y[y < 3], minlength=3).tolist() for y in target]
    totals = [loss.denominator(count) for count in counts]
    total = sum(totals)
    split = sum(
        loss(x[None], y[None], denominator=total) for x, y in zip(logits, target, strict=True)
    )
    expected = CrossEntropyLoss2d(class_weights=weights)(logits, target)
    for n in range(2):
        expected += totals[n] / total * dice(logits[n : n + 1], target[n : n + 1])
    assert float(split) == pytest.approx(float(expected))


def test_which_losses_divide_by_the_effective_batch():
    counts = [10, 0, 4]
    totals = {variant: make(variant, ignore_index=255).denominator(counts) for variant in VARIANTS}
    dividing = {variant for variant, total in totals.items() if total is not None}
    assert dividing == {"CrossEntropyLoss2d", "FocalLoss", "CE_DiceLoss", "Sum", "smoothed"}
    assert {totals[variant] for variant in dividing} == {14.0}
    weighted = CrossEntropyLoss2d(ignore_index=0, class_weights=[3.0, 1.0, 0.5])
    assert weighted.denominator(counts) == 2.0


@pytest.mark.parametrize(
    ("name", "args", "weights", "message"),
    [
        ("CrossEntropyLos2d", {}, None, "CrossEntropyLoss2d"),
        ("FocalLoss", {"gama": 2.0}, None, "gamma"),
        ("DiceLoss", {"smooth": -1.0}, None, r"loss\.args\.smooth"),
        ("Sum", {"parts": [{"type": "DiceLos"}]}, None, r"loss\.args\.parts\[0\].*DiceLoss"),
        ("Sum", {"parts": [{"type": "DiceLoss", "wieght": 2.0}]}, None, "wieght"),
        ("Sum", {"parts": []}, None, "parts"),
        ("DiceLoss", {}, [1.0, 2.0], "class_weights: found 2 weights, expected 3"),
        ("DiceLoss", {}, [0, 0.0, 0], "class_weights: found only zeros"),
        ("FocalLoss", {"alpha": [1, 2]}, None, "alpha: found 2 factors, expected 3"),
        ("Sum", {"parts": [{"type": "FocalLoss", "args": {"alpha": [1, 2, 3, 4]}}]}, None, "alpha"),
    ],
)
def test_what_a_loss_does_not_take_is_named(name, args, weights, message):
    with pytest.raises(ConfigError, match=message):
        build_loss(
            choose("loss", LOSSES, name, args),
            num_classes=3,
            ignore_index=255,
            class_weights=weights,
        )


def test_a_sum_comes_from_plain_json():
    args = {"parts": [{"type": "CrossEntropyLoss2d", "args": {}, "weight": 2}]}
    loss = build_loss(
        choose("loss", LOSSES, "Sum", args), num_classes=3, ignore_index=-1, aux_weight=0.5
    )
    logits, target = torch.randn(1, 3, 4, 4), torch.full((1, 4, 4), 1)
    expected = 2 * float(CrossEntropyLoss2d()(logits, target))
    assert float(loss(logits, target)) == pytest.approx(expected)
    assert float(loss((logits, logits), target)) == pytest.approx(1.5 * expected)
    # Auxiliary outputs too are divided by the effective batch's total, here twice this one's.
    found = float(loss((logits, logits), target, denominator=32.0))
    assert found == pytest.approx(0.75 * expected)


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("CrossEntropyLoss2d", {}, False),
        ("FocalLoss", {}, False),
        ("DiceLoss", {}, True),
        ("CrossEntropyLoss2d", {"ohem_threshold": 0.7}, True),
        ("CE_DiceLoss", {}, True),
        ("Sum", {"parts": [{"type": "FocalLoss"}, {"type": "CrossEntropyLoss2d"}]}, False),
        ("Sum", {"parts": [{"type": "FocalLoss"}, {"type": "LovaszSoftmax"}]}, True),
    ],
)
def test_the_log_says_which_losses_are_of_a_micro_batch(name, args, said, caplog):
    with caplog.at_level("INFO", logger="segmentation"):
        build_loss(choose("loss", LOSSES, name, args), num_classes=3, ignore_index=255)
    assert (f"loss: {name} compares regions" in caplog.text) == said

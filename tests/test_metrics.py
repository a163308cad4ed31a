"""The confusion matrix against a naive NumPy oracle."""

import numpy as np
import pytest
import torch

from utils.hardware import distributed
from utils.metrics.confusion import ConfusionMatrix
from utils.metrics.totals import Totals, ValidationTotals


def oracle(predictions, labels, num_classes, ignore_index):
    """Pixel by pixel with NumPy masks, one class at a time."""
    valid = (labels != ignore_index) & (labels >= 0) & (labels < num_classes)
    predictions, labels = predictions[valid], labels[valid]
    ious = {}
    for c in range(num_classes):
        union = np.logical_or(predictions == c, labels == c).sum()
        hit = np.logical_and(predictions == c, labels == c).sum()
        ious[str(c)] = None if union == 0 else float(hit / union)
    present = [v for v in ious.values() if v is not None]
    return {
        "Pixel_Accuracy": float((predictions == labels).mean()) if labels.size else None,
        "Mean_IoU": float(np.mean(present)) if present else None,
        "Class_IoU": ious,
    }


def random_case(seed):
    random = np.random.default_rng(seed)
    num_classes = int(random.integers(2, 9))
    ignore_index = int(random.choice([-1, 0, 255, num_classes]))
    shape = (int(random.integers(1, 4)), int(random.integers(1, 13)), int(random.integers(1, 13)))
    some = random.integers(0, num_classes, size=int(random.integers(1, num_classes + 1)))
    labels = random.choice(some, size=shape)
    labels[random.random(shape) < random.choice([0.0, 0.3, 1.0], p=[0.3, 0.6, 0.1])] = ignore_index
    predictions = random.choice(some, size=shape)
    if not 0 <= ignore_index < num_classes:  # void may be predicted, on labels and on void
        predictions[random.random(shape) < random.choice([0.0, 0.3])] = ignore_index
    return num_classes, ignore_index, predictions, labels.astype(np.int16)


def test_scores_equal_a_naive_oracle_on_100_random_images():
    for seed in range(100):
        num_classes, ignore_index, predictions, labels = random_case(seed)
        matrix = ConfusionMatrix(num_classes, ignore_index)
        matrix.update(torch.from_numpy(predictions), torch.from_numpy(labels))
        scores = matrix.compute()
        expected = oracle(predictions, labels, num_classes, ignore_index)
        assert scores["Pixel_Accuracy"] == pytest.approx(expected["Pixel_Accuracy"], abs=1e-12)
        assert scores["Mean_IoU"] == pytest.approx(expected["Mean_IoU"], abs=1e-12)
        assert scores["Class_IoU"] == pytest.approx(expected["Class_IoU"], abs=1e-12)


def test_counts_are_labels_by_predictions():
    matrix = ConfusionMatrix(3, 255)
    predictions, labels = torch.tensor([[[0, 1, 1, 2]]]), torch.tensor([[[0, 0, 1, 255]]])
    matrix.update(predictions, labels.to(torch.uint8))
    assert matrix.counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert matrix.counts.dtype == torch.int64


def test_labels_of_no_class_are_not_counted():
    matrix = ConfusionMatrix(3, 255)
    labels = torch.tensor([[[3, 7, -4, 255, 2]]], dtype=torch.int16)
    matrix.update(torch.zeros(1, 1, 5, dtype=torch.int64), labels)
    assert matrix.counts.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_predicted_void_is_a_miss_of_the_label_and_a_prediction_of_nothing():
    matrix = ConfusionMatrix(3, 255, classes=("sky", "road", "tram"))
    predictions, labels = torch.tensor([[[0, 255, 255, 1]]]), torch.tensor([[[0, 0, 255, 1]]])
    matrix.update(predictions, labels)
    assert matrix.counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    scores = matrix.compute()
    assert scores["Pixel_Accuracy"] == pytest.approx(2 / 3)
    assert scores["Class_IoU"] == {"sky": 0.5, "road": 1.0, "tram": None}


@pytest.mark.parametrize("label", [0, 255])
@pytest.mark.parametrize("prediction", [3, -1, 254])
def test_a_prediction_that_is_nothing_is_an_error_and_no_other_label(prediction, label):
    matrix = ConfusionMatrix(3, 255)
    matrix.update(torch.tensor([[[prediction, 1]]]), torch.tensor([[[label, 1]]]))
    assert matrix.counts.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match=r"1 predictions neither in 0\.\.2 nor void"):
        matrix.compute()


@pytest.mark.parametrize("channels", [2, 4])
def test_logits_of_another_number_of_classes_are_refused(channels):
    matrix = ConfusionMatrix(3, 255)
    with pytest.raises(ValueError, match=f"logits of {channels} channels for 3 classes"):
        matrix.update(torch.zeros(1, channels, 4, 4), torch.zeros(1, 4, 4))


def test_batches_add_up_in_any_order_and_division():
    random = torch.Generator().manual_seed(3)
    predictions = torch.randint(0, 4, (6, 9, 7), generator=random)
    labels = torch.randint(0, 5, (6, 9, 7), generator=random)
    whole, parts = ConfusionMatrix(4, 4), ConfusionMatrix(4, 4)
    whole.update(predictions, labels)
    for part in ([5], [0, 3], [4, 1, 2]):
        parts.update(predictions[part], labels[part])
    assert torch.equal(whole.counts, parts.counts)


def test_logits_count_as_their_argmax_in_any_layout_and_precision():
    logits = torch.randn(2, 5, 8, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.randint(0, 5, (2, 8, 6), generator=torch.Generator().manual_seed(1))
    by_logits, by_classes = ConfusionMatrix(5, 255), ConfusionMatrix(5, 255)
    by_logits.update(logits.to(memory_format=torch.channels_last), labels)
    by_classes.update(logits.argmax(1), labels)
    assert torch.equal(by_logits.counts, by_classes.counts)


def test_absent_classes_are_null_and_do_not_lower_the_mean():
    matrix = ConfusionMatrix(3, 255, classes=("sky", "road", "tram"))
    matrix.update(torch.tensor([[[0, 0, 1]]]), torch.tensor([[[0, 0, 0]]]))
    scores = matrix.compute()
    assert scores["Class_IoU"] == {"sky": pytest.approx(2 / 3), "road": 0.0, "tram": None}
    assert scores["Mean_IoU"] == pytest.approx(1 / 3)


def test_nothing_counted_is_null_everywhere():
    matrix = ConfusionMatrix(2, 255)
    matrix.update(torch.zeros(1, 4, 4, dtype=torch.long), torch.full((1, 4, 4), 255))
    empty = dict.fromkeys(("Pixel_Accuracy", "Mean_IoU"))
    for name in ("IoU", "Dice", "Precision", "Recall"):
        empty[f"Class_{name}"] = {"0": None, "1": None}
    assert matrix.compute() == empty


def test_counts_stay_exact_beyond_what_float32_can_hold():
    matrix = ConfusionMatrix(2, 255)
    matrix.counts[0, 0] = 2**24 + 2**40
    matrix.update(torch.zeros(1, 1, 1, dtype=torch.long), torch.zeros(1, 1, 1, dtype=torch.long))
    assert int(matrix.counts[0, 0]) == 2**24 + 2**40 + 1


def test_reset_forgets():
    matrix = ConfusionMatrix(2, 255)
    matrix.update(torch.zeros(1, 1, 1, dtype=torch.long), torch.zeros(1, 1, 1, dtype=torch.long))
    matrix.reset()
    assert int(matrix.counts.sum()) == 0


def validation_loss(losses, totals):
    sums = ValidationTotals(ConfusionMatrix(3, 255, classes=("a", "b", "c")))
    empty = torch.zeros(1, 2, 2, dtype=torch.int64)
    for loss, total in zip(losses, totals, strict=True):
        sums.add(torch.tensor(loss), total, empty, empty)
    return sums.compute()["val_loss"]


def test_a_validation_loss_is_the_mean_over_pixels_however_many_there_are():
    """Adding 3 to 2^30 in float32, the most that MPS has, changes nothing."""
    losses = [1.0] + [0.25] * 3000
    totals = [2**30, *[3.0] * 3000]
    exact = (2**30 + 0.25 * 9000) / (2**30 + 9000)
    assert validation_loss(losses, totals) == pytest.approx(exact, rel=1e-12)
    assert validation_loss([1.0, 4.0], [None, None]) == 2.5  # regions: a batch is a batch
    assert validation_loss([0.0], [0.0]) is None
    assert validation_loss([], []) is None


def test_counts_made_in_inference_mode_can_be_summed_outside_of_it(monkeypatch):
    """Tensors of inference mode must not be changed outside of it; gloo does so on a GPU."""
    with torch.inference_mode():
        counts = ConfusionMatrix(2, 255)
        counts.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]))
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda values: values.mul_(2))
    counts.synchronize()
    assert counts.compute()["Class_IoU"] == {"0": 0.5, "1": 0.0}
    assert int(counts.counts.sum()) == 4


def test_the_sums_of_an_epoch_are_those_of_each_process_again(monkeypatch):
    """Float sums depend on their order: each process goes on from its own share."""
    for rank in (0, 1):
        monkeypatch.setattr("utils.metrics.totals.rank", lambda rank=rank: rank)
        monkeypatch.setattr("utils.metrics.totals.world_size", lambda: 2)
        totals = Totals(ConfusionMatrix(2, 255, classes=("a", "b")))
        shares = [[0.1, 0.2], [0.3, 0.4]]
        state = {
            "losses": torch.tensor([0.4, 0.6]),
            "counts": torch.ones(2, 2, dtype=torch.int64),
            "iterations": [2, 1],
            "by_process": shares,
        }
        totals.restore(state)
        assert totals.own_losses() == torch.tensor(shares[rank]).tolist()
        assert int(totals.confusion.counts.sum()) == (0 if rank else 4)
        monkeypatch.setattr("utils.metrics.totals.world_size", lambda: 1)
        totals.restore(state)  # as many processes no more: the first has the sum
        assert totals.own_losses() == ([0, 0] if rank else torch.tensor([0.4, 0.6]).tolist())

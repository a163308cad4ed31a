"""Scores from a confusion matrix against pixel-level NumPy, to 1e-12."""

import numpy as np
import pytest
from test_metrics import random_case

from utils.evaluation.scoring import confusion
from utils.metrics.scores import class_scores, mean_scores, top_confusions


def divided(a, b):
    return a / b if b else None


def mean(values):
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def test_every_score_equals_its_definition_on_100_random_images():
    for seed in range(100):
        num_classes, ignore_index, predictions, labels = random_case(seed)
        predictions, labels = (part.reshape(len(part), -1) for part in (predictions, labels))
        counts = confusion(predictions, labels, num_classes=num_classes, ignore_index=ignore_index)
        counts = counts[:-1]
        valid = (labels != ignore_index) & (labels < num_classes)
        p, g = predictions[valid], labels[valid]
        rows = []
        for c in range(num_classes):
            hit, either = ((p == c) & (g == c)).sum(), ((p == c) | (g == c)).sum()
            said, true = (p == c).sum(), (g == c).sum()
            rows.append((divided(hit, either), divided(2 * hit, said + true), divided(hit, said),
                         divided(hit, true), divided(true, g.size)))  # fmt: skip
        scores = class_scores(counts)
        ours = [(s.iou, s.dice, s.precision, s.recall, s.label_share) for s in scores]
        for mine, expected in zip(ours, rows, strict=True):
            assert mine == pytest.approx(expected, abs=1e-12)
        iou, dice, _, recall, _ = zip(*rows, strict=True)
        shares = [divided((g == c).sum(), g.size) or 0 for c in range(num_classes)]
        assert mean_scores(counts) == pytest.approx(
            {
                "Mean_IoU": mean(iou),
                "Pixel_Accuracy": divided((p == g).sum(), g.size),
                "Mean_Accuracy": mean(recall),
                "Frequency_Weighted_IoU": sum(
                    s * (i or 0) for s, i in zip(shares, iou, strict=True)
                )
                if g.size
                else None,
                "Mean_Dice": mean(dice),
            },
            abs=1e-12,
        )


def test_the_means_can_leave_classes_out():
    counts = np.array([[50, 6, 0, 0], [4, 30, 0, 0], [10, 0, 0, 0], [0, 0, 0, 0]])
    every, some = mean_scores(counts), mean_scores(counts, [1, 2, 3])
    assert some["Mean_IoU"] == pytest.approx((30 / 40 + 0) / 2)
    assert some["Mean_Dice"] == pytest.approx((60 / 70 + 0) / 2)
    assert some["Mean_Accuracy"] == pytest.approx((30 / 34 + 0) / 2)
    for name in ("Pixel_Accuracy", "Frequency_Weighted_IoU"):
        assert some[name] == every[name]


def test_the_commonest_mistakes_come_first_with_their_shares():
    counts = np.array([[50, 6, 0], [4, 30, 0], [10, 0, 0]])
    found = top_confusions(counts, 5)
    assert [(one.label, one.prediction, one.pixels) for one in found] == [
        (2, 0, 10),
        (0, 1, 6),
        (1, 0, 4),
    ]
    assert found[0].label_share == 1.0
    assert found[1].label_share == pytest.approx(6 / 56)
    assert [one.error_share for one in found] == pytest.approx([0.5, 0.3, 0.2])
    assert len(top_confusions(counts, 2)) == 2
    assert top_confusions(np.eye(3, dtype=np.int64), 5) == []
    with_void = np.column_stack([counts, [0, 7, 0]])
    assert top_confusions(with_void, 2)[1][:3] == (1, 3, 7)
    assert top_confusions(with_void, 2)[1].label_share == pytest.approx(7 / 41)

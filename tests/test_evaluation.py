"""Evaluation against naive oracles: sums, order, processes, memory."""

import tracemalloc

import numpy as np
import pytest
from evaluation_cases import Pictures, answer, draw_nothing, oracle
from processes import together

from utils.errors import DataError
from utils.evaluation.scoring import SHOWN, Evaluator, confusion
from utils.metrics.boundary import RATIO, boundary_counts


def evaluate(data, **options):
    return Evaluator(data, answer, draw=draw_nothing, **options).run()


def test_counts_equal_the_oracles_to_the_pixel():
    data = Pictures(30)
    evaluation = evaluate(data, boundary_ratio=RATIO)
    pairs = [data.parts(index) for index in range(30)]
    assert (evaluation.counts == oracle(pairs, 4, 255)).all()
    assert evaluation.counts.dtype == np.int64
    edges = sum(boundary_counts(p, m, num_classes=4, ignore_index=255) for p, m in pairs)
    assert (evaluation.boundaries == edges).all()
    assert evaluation.places[:, 1].sum() == evaluation.counts.sum()
    assert evaluation.places[:, 0].sum() == evaluation.counts.sum() - evaluation.counts.trace()


def test_images_stand_in_exact_ascending_order_those_without_labels_last():
    data = Pictures(40)
    images = evaluate(data).images
    scores = []
    for index in range(40):
        counts = oracle([data.parts(index)], 4, 255)
        unions = counts.sum(0) + counts.sum(1) - counts.diagonal()
        present = unions > 0
        mean = float(np.mean(counts.diagonal()[present] / unions[present])) if present.any() else 2
        scores.append((mean, index))
    assert [image.index for image in images] == [index for _, index in sorted(scores)]
    assert images[-1].index == 1
    assert images[-1].mean_iou is None
    assert images[-1].labelled_pixels == 0
    assert images[-1].void_pixels == data.parts(1)[1].size


def test_galleries_hold_the_ends_of_the_order():
    evaluation = evaluate(Pictures(60))
    scored = [image for image in evaluation.images if image.mean_iou is not None]
    assert [shown.score for shown in evaluation.worst] == scored[:SHOWN]
    assert [shown.score for shown in evaluation.best] == scored[: -SHOWN - 1 : -1]
    few = evaluate(Pictures(5))
    assert [shown.score for shown in few.worst] == [
        image for image in few.images if image.mean_iou is not None
    ]


def test_equal_scores_stand_in_the_order_of_the_data():
    class Alike(Pictures):
        def load(self, index):
            del index  # they are all the first
            return super().load(0)

    evaluation = evaluate(Alike(SHOWN + 5))
    assert [shown.score.index for shown in evaluation.worst] == list(range(SHOWN))
    assert [shown.score.index for shown in evaluation.best] == list(range(SHOWN + 4, 4, -1))


def test_labels_of_no_class_are_not_counted():
    mask = np.array([[3, 7, -4, 255, 2]], np.int16)
    counts = confusion(np.zeros_like(mask), mask, num_classes=3, ignore_index=255)
    assert counts.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("world", [2, 5])
def test_any_number_of_processes_gives_the_same_evaluation(world):
    def run():
        return [evaluate(Pictures(length), boundary_ratio=RATIO) for length in (1, 2, 5, 33)]

    alone = run()
    for results in together(run, processes=world):
        for result, expected in zip(results, alone, strict=True):
            assert (result.counts == expected.counts).all()
            assert (result.boundaries == expected.boundaries).all()
            assert (result.places == expected.places).all()
            assert result.images == expected.images
            assert result.worst == expected.worst
            assert result.best == expected.best


def test_memory_does_not_grow_with_the_number_of_images():
    def peak(length):
        data = Pictures(length, size=120)
        tracemalloc.start()
        evaluate(data)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(3)
    # 200 more images of up to 340 KB as int64; a row of scores each is kept.
    assert peak(240) < peak(40) + 200 * 5000


def test_an_image_that_cannot_be_read_ends_the_evaluation():
    class Damaged(Pictures):
        def load(self, index):
            if index == 3:
                raise DataError("image 003.png: damaged")
            return super().load(index)

    with pytest.raises(DataError, match=r"image 003\.png: damaged"):
        evaluate(Damaged(6))

"""Evaluation against naive oracles: sums, order, processes, memory."""

import threading
import tracemalloc
from functools import partial

import numpy as np
import pytest
from evaluation_cases import CLASSES, PALETTE, Images, answer, draw_nothing, oracle

from utils.errors import CheckpointError, DataError
from utils.evaluation.report import render
from utils.evaluation.report_images import draw
from utils.evaluation.scoring import SHOWN, Evaluator, confusion
from utils.evaluation.summary import confusion_csv, summarize
from utils.hardware import distributed
from utils.metrics.boundary import boundary_counts


def evaluate(data, **options):
    return Evaluator(data, answer, draw=draw_nothing, **options).run()


def test_counts_equal_the_oracles_to_the_pixel():
    data = Images(30)
    evaluation = evaluate(data, boundary_ratio=0.02)
    pairs = [data.parts(index) for index in range(30)]
    assert (evaluation.counts == oracle(pairs, 4, 255)).all()
    assert evaluation.counts.dtype == np.int64
    kinds = {"num_classes": 4, "ignore_index": 255, "ratio": 0.02}
    edges = sum(boundary_counts(answer, label, **kinds) for answer, label in pairs)
    assert (evaluation.boundaries == edges).all()
    assert evaluation.places[:, 1].sum() == evaluation.counts.sum()
    assert evaluation.places[:, 0].sum() == evaluation.counts.sum() - evaluation.counts.trace()


def test_images_stand_in_exact_ascending_order_those_without_labels_last():
    data = Images(40)
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


def test_the_worst_images_have_the_most_wrong_pixels_the_best_the_highest_score():
    data = Images(60)
    evaluation = evaluate(data)
    wrong = {}
    for index in set(range(60)) - {1}:  # which is all void
        prediction, mask = data.parts(index)
        wrong[index] = int(((prediction != mask) & (mask != 255)).sum())
    order = sorted(wrong, key=lambda index: (-wrong[index], index))
    assert [shown.score.index for shown in evaluation.worst] == order[:SHOWN]
    assert [shown.score.wrong_pixels for shown in evaluation.worst] == [
        wrong[index] for index in order[:SHOWN]
    ]
    scored = [image for image in evaluation.images if image.mean_iou is not None]
    assert [shown.score for shown in evaluation.best] == scored[: -SHOWN - 1 : -1]
    assert len(evaluate(Images(5)).worst) == 4


def test_a_class_of_three_stray_pixels_makes_no_image_the_worst():
    class Two(Images):
        def load(self, index):
            image, mask = np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.uint8)
            if index == 0:
                image[0, :3] = 1  # three pixels of a class that is not there: Mean_IoU 50 %
            else:
                image[:10], mask[:] = 1, 1
                mask[10:, :10] = 0  # a quarter of the image is wrong
            return image, mask

    evaluation = evaluate(Two(2))
    assert evaluation.images[0].index == 0
    assert [shown.score.index for shown in evaluation.worst] == [1, 0]


def test_equal_scores_stand_in_the_order_of_the_data():
    class Alike(Images):
        def load(self, index):
            del index  # they are all the first
            return super().load(0)

    evaluation = evaluate(Alike(SHOWN + 5))
    assert [shown.score.index for shown in evaluation.worst] == list(range(SHOWN))
    assert [shown.score.index for shown in evaluation.best] == list(range(SHOWN + 4, 4, -1))


def test_labels_of_no_class_are_not_counted():
    mask = np.array([[3, 7, -4, 255, 2]], np.int16)
    counts = confusion(np.zeros_like(mask), mask, num_classes=3, ignore_index=255)
    assert counts.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [4, 0, 0, 0]]


class HalfBlind(Images):
    """A model that predicts void (255) in places."""

    def parts(self, index):
        prediction, mask = super().parts(index)
        prediction[np.random.default_rng(index).random(mask.shape) < 0.2] = 255
        return prediction, mask


def test_predicted_void_is_counted_as_a_miss_or_not_at_all(tmp_path):
    data = HalfBlind(12)
    draws = partial(draw, palette=PALETTE, ignore_index=255)
    evaluation = Evaluator(data, answer, draw=draws, boundary_ratio=0.02).run()
    pairs = [data.parts(index) for index in range(12)]
    missed = [sum(((m == c) & (p == 255)).sum() for p, m in pairs) for c in range(4)]
    assert (evaluation.counts == np.column_stack([oracle(pairs, 4, 255), missed])).all()
    on_void = sum(((m == 255) & (p == 255)).sum() for p, m in pairs)
    assert min(on_void, *missed[:3]) > 0
    summary = summarize(evaluation, classes=CLASSES, about={"arch": "UNet", "data": "x"})
    assert summary["predicted_void"] == {"not_counted": on_void, "missed": sum(missed)}
    assert summary["labelled_pixels"] == sum((m != 255).sum() for _, m in pairs)
    right = sum(((m != 255) & (p == m)).sum() for p, m in pairs)
    assert summary["Pixel_Accuracy"] == pytest.approx(right / summary["labelled_pixels"])
    for number, row in enumerate(summary["classes"][:3]):
        hits = sum(((p == number) & (m == number)).sum() for p, m in pairs)
        said = sum(((p == number) & (m != 255)).sum() for p, m in pairs)
        true = sum((m == number).sum() for _, m in pairs)
        assert row["Precision"] == pytest.approx(hits / said)
        assert row["Recall"] == pytest.approx(hits / true)
        assert row["IoU"] == pytest.approx(hits / (said + true - hits))
    assert evaluation.places[:, 0].sum() == summary["labelled_pixels"] - right
    assert (
        f"(void for {on_void:,}); a labelled pixel predicted void is a miss ({sum(missed):,})"
        in (summary["rules"])
    )
    assert ("sky", "(void)", missed[0]) in [tuple(one.values())[:3] for one in
                                          summary["top_confusions"]]  # fmt: skip
    header, sky, *_ = confusion_csv(evaluation.counts, CLASSES).splitlines()
    assert header.endswith(",tram,(void)")
    assert sky.endswith(f",{missed[0]}")
    page = render(evaluation, summary, palette=PALETTE)
    share = missed[0] / evaluation.counts[0].sum()
    assert f'title="sky → (void): {100 * share:.2f} %"' in page


def test_a_prediction_that_is_no_class_ends_the_evaluation():
    class Raw(Images):
        def parts(self, index):
            prediction, mask = super().parts(index)
            prediction[0, :2] = (4, 200) if index == 2 else 0
            return prediction, mask

    message = r"image 002\.png: 2 predictions neither in 0\.\.3 nor void"
    with pytest.raises(CheckpointError, match=message):
        evaluate(Raw(4))


def together(monkeypatch, world, work):
    """Run `work` as `world` processes would, each in a thread, with sums over all of them."""
    here = threading.local()
    barrier = threading.Barrier(world)
    board = [None] * world

    def exchange(value):
        barrier.wait()
        board[here.rank] = value
        barrier.wait()
        return list(board)

    monkeypatch.setattr(distributed, "rank", lambda: here.rank)
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    monkeypatch.setattr(distributed, "collect", exchange)
    monkeypatch.setattr(distributed, "sum_over_processes", lambda v: sum(exchange(v.clone())))
    results = [None] * world

    def process(rank):
        here.rank = rank
        results[rank] = work()

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("length", [1, 2, 5, 33])
def test_any_number_of_processes_gives_the_same_evaluation(monkeypatch, length):
    alone = evaluate(Images(length), boundary_ratio=0.02)
    for world in (2, 3, 8):
        with monkeypatch.context() as patch:
            results = together(patch, world, lambda: evaluate(Images(length), boundary_ratio=0.02))
        for result in results:
            assert (result.counts == alone.counts).all()
            assert (result.boundaries == alone.boundaries).all()
            assert (result.places == alone.places).all()
            assert result.images == alone.images
            assert result.worst == alone.worst
            assert result.best == alone.best


def test_memory_does_not_grow_with_the_number_of_images():
    def peak(length):
        data = Images(length, size=120)
        tracemalloc.start()
        evaluate(data)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(3)
    # 200 more images of up to 340 KB as int64; a row of scores each is kept.
    assert peak(240) < peak(40) + 200 * 5000


def test_an_image_that_cannot_be_read_ends_the_evaluation():
    class Damaged(Images):
        def load(self, index):
            if index == 3:
                raise DataError("image 003.png: damaged")
            return super().load(index)

    with pytest.raises(DataError, match=r"image 003\.png: damaged"):
        evaluate(Damaged(6))

"""Our matrix and scores against torchmetrics and Cityscapes' own evaluation."""

import numpy as np
import pytest
import torch
from PIL import Image

from utils.metrics.confusion import ConfusionMatrix
from utils.metrics.scores import mean_scores

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("default")]


def pairs(number, num_classes, seed):
    """Predictions and labels of odd sizes with void (255) and classes that never occur."""
    random = np.random.default_rng(seed)
    for _ in range(number):
        shape = tuple(random.integers(3, 40, size=2))
        labels = random.integers(0, num_classes - 2, size=shape)
        predictions = np.where(
            random.random(shape) < 0.6, labels, random.integers(0, num_classes - 1, size=shape)
        )
        labels[random.random(shape) < 0.15] = 255
        yield predictions, labels


def test_the_matrix_is_that_of_torchmetrics():
    from torchmetrics.classification import MulticlassConfusionMatrix

    theirs, ours = MulticlassConfusionMatrix(9, ignore_index=255), ConfusionMatrix(9, 255)
    for predictions, labels in pairs(40, 9, seed=0):
        theirs.update(torch.from_numpy(predictions), torch.from_numpy(labels))
        ours.update(torch.from_numpy(predictions)[None], torch.from_numpy(labels)[None])
    assert torch.equal(ours.counts, theirs.compute())


def test_scores_are_those_of_cityscapes_own_evaluation(tmp_path):
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official  # noqa: N813
    from cityscapesscripts.helpers.labels import trainId2label

    args = official.args
    args.evalInstLevelScore = args.evalPixelAccuracy = False
    id_of = np.array([trainId2label[number].id for number in range(19)])
    matrix, ours = official.generateMatrix(args), ConfusionMatrix(19, 255)
    for number, (predictions, labels) in enumerate(pairs(30, 19, seed=1)):
        void = labels == 255
        files = [tmp_path / f"{number}_{kind}.png" for kind in ("prediction", "label")]
        # Void ids of the raw labels differ (0..6, 9, 10, ...); all are ignored alike.
        raw = np.where(void, 4, id_of[np.where(void, 0, labels)])
        for file, ids in zip(files, (id_of[predictions], raw), strict=True):
            Image.fromarray(ids.astype(np.uint8)).save(file)
        official.evaluatePair(*map(str, files), matrix, {}, {}, args)
        ours.update(torch.from_numpy(predictions)[None], torch.from_numpy(labels)[None])
    theirs = {
        name: official.getIouScoreForLabel(label.id, matrix, args)
        for name, label in (
            (trainId2label[number].name, trainId2label[number]) for number in range(19)
        )
    }
    mine = [None if np.isnan(value) else value for value in theirs.values()]
    assert list(ours.compute()["Class_IoU"].values()) == pytest.approx(mine, abs=1e-12)
    average = official.getScoreAverage(theirs, args)
    assert mean_scores(ours.counts.numpy())["Mean_IoU"] == pytest.approx(average, abs=1e-12)

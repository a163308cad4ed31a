"""The confusion matrix and every score that is taken from it.

Scores need counts only: no network, no file and no drawing may enter.
"""

from utils.metrics.confusion import ConfusionMatrix
from utils.metrics.scores import class_scores, mean_scores

__all__ = ["ConfusionMatrix", "class_scores", "mean_scores"]

"""The confusion matrix and every score that is taken from it.

Scores need counts only: no network, no file and no drawing may enter.
"""

from utils.metrics.confusion import ConfusionMatrix, class_ious, mean_present

__all__ = ["ConfusionMatrix", "class_ious", "mean_present"]

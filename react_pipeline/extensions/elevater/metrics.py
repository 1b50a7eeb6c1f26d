"""The four metrics of ELEVATER, as functions of true labels and scores; every value is a fraction.

They are those of the benchmark's own package, vision-evaluation, which adds only the mean over 11
points to scikit-learn, and would bring OpenCV and pycocotools. Shapes: N images, C classes. Of
degenerate input:
    Equal scores: the class with the lower number is predicted. Curves treat equal scores as one
    threshold. Absent class (no image of it): left out of a mean over classes. It can still be
    predicted, wrongly. Nothing to measure (no class has a positive; ROC AUC where all images are of
    one class): `InputError`, never 0.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, recall_score, roc_auc_score

from react_pipeline.store import InputError

Labels = NDArray[np.integer[Any]]
Scores = NDArray[np.floating[Any]]

RECALL_POINTS = np.linspace(1, 0, 11)
"""From 1 down to 0: so counted, no point exceeds its recall (upwards, 0.3 is 0.30000000000000004).
"""


def measure(metric: str, labels: Labels, scores: Scores) -> float:
    """Return the value of a metric of `METRICS`, a fraction.

    Args:
        labels: True class ids (N,), or indicators (N, C) of 0 and 1 for multilabel data.
        scores: Scores or probabilities (N, C).

    Raises:
        InputError: If a score is not finite, or nothing can be measured.
    """
    if not np.isfinite(scores).all():
        raise InputError(
            f"{metric}: {np.count_nonzero(~np.isfinite(scores))} scores are not finite"
        )
    return METRICS[metric](labels, scores)


def accuracy(labels: Labels, scores: Scores) -> float:
    """Return top-1: the fraction of the images whose true class has the highest score."""
    return float(np.mean(scores.argmax(axis=1) == labels))


def mean_per_class(labels: Labels, scores: Scores) -> float:
    """Return the balanced accuracy: the mean, over the classes that have images, of the fraction
    of their images that are right.

    vision-evaluation takes the columns of absent classes away before it predicts; where all classes
    have images, as in every test split of the benchmark, that is the same.
    """
    return float(
        recall_score(labels, scores.argmax(axis=1), labels=np.unique(labels), average="macro")
    )


def eleven_point_map(labels: Labels, scores: Scores) -> float:
    """Return Pascal VOC 2007's mean average precision: per class, the mean of the interpolated
    precision at 11 recalls.

    The interpolated precision at a recall is the highest precision at that recall or a higher one.
    As in vision-evaluation, the curve ends at recall 0 with precision 1, so the last of the 11
    points is always 1.
    """
    present = np.flatnonzero(labels.any(axis=0))
    if not len(present):
        raise InputError(
            "11point_mAP: no class has a positive image, so there is nothing to measure"
        )
    averages = []
    for column in present:
        precision, recall, _ = precision_recall_curve(labels[:, column], scores[:, column])
        averages.append(np.mean([precision[recall >= point].max() for point in RECALL_POINTS]))
    return float(np.mean(averages))


def roc_auc(labels: Labels, scores: Scores) -> float:
    """Return the area under the ROC curve of two classes, by the scores of class 1."""
    if (labels == labels[0]).all():
        raise InputError("roc_auc: all images have the same label; it needs images of both")
    return float(roc_auc_score(labels, scores[:, 1]))


METRICS: dict[str, Callable[[Labels, Scores], float]] = {
    "accuracy": accuracy,
    "mean-per-class": mean_per_class,
    "11point_mAP": eleven_point_map,
    "roc_auc": roc_auc,
}
"""By the names that ELEVATER's configurations use."""

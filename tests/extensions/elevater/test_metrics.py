from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    precision_recall_curve,
    roc_auc_score,
)

from react_pipeline.extensions.elevater.metrics import measure
from react_pipeline.store.errors import InputError


def scored(
    seed: int, n: int = 200, n_classes: int = 7, steps: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that hold some of the truth; `steps` rounds them, which
    makes ties.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(n_classes, size=n)
    scores = random.random((n, n_classes)).astype(np.float32)
    scores[np.arange(n), labels] += 0.3
    return labels, np.round(scores * steps) / steps if steps else scores / scores.sum(
        axis=1, keepdims=True
    )


def interpolated_map(labels: np.ndarray, scores: np.ndarray) -> float:
    """The definition, walked through point by point as vision-evaluation does."""
    averages = []
    for column in range(labels.shape[1]):
        if not labels[:, column].any():
            continue
        precision, recall, _ = precision_recall_curve(labels[:, column], scores[:, column])
        highest, place, points = 0.0, 0, []
        for threshold in np.linspace(1, 0, 11):
            while place < len(recall) and threshold <= recall[place]:
                highest = max(highest, precision[place])
                place += 1
            points.append(highest)
        averages.append(np.mean(points))
    return float(np.mean(averages))


@pytest.mark.parametrize(("seed", "steps"), [(0, 0), (1, 4)])
def test_metrics_of_one_label_equal_scikit_learn(seed: int, steps: int) -> None:
    labels, scores = scored(seed, steps=steps)
    predicted = scores.argmax(axis=1)
    assert measure("accuracy", labels, scores) == pytest.approx(accuracy_score(labels, predicted))
    assert measure("mean-per-class", labels, scores) == pytest.approx(
        balanced_accuracy_score(labels, predicted)
    )
    labels, scores = scored(seed, n_classes=2, steps=steps)
    assert measure("roc_auc", labels, scores) == pytest.approx(roc_auc_score(labels, scores[:, 1]))


@pytest.mark.parametrize(("seed", "steps"), [(0, 0), (1, 4)])
def test_eleven_point_map_equals_its_definition(seed: int, steps: int) -> None:
    random = np.random.default_rng(seed)
    labels = (random.random((150, 5)) < 0.2).astype(np.uint8)
    labels[:, 3] = 0
    scores = random.random((150, 5)) + 0.3 * labels
    scores = np.round(scores * steps) if steps else scores
    assert measure("11point_mAP", labels, scores) == pytest.approx(
        interpolated_map(labels, scores), abs=1e-12
    )


def test_a_recall_of_three_tenths_reaches_point_of_three_tenths() -> None:
    # Ten positives, three of them first: counted upwards the point would be 0.30000000000000004 and
    # be missed.
    labels = np.array([[1]] * 3 + [[0]] * 90 + [[1]] * 7)
    scores = np.linspace(1, 0, 100)[:, None]
    last = 10 / 100
    assert measure("11point_mAP", labels, scores) == pytest.approx((4 * 1 + 7 * last) / 11)


def test_equal_scores_predict_the_class_with_the_lower_number() -> None:
    labels, scores = np.array([0, 1, 2]), np.ones((3, 3))
    assert measure("accuracy", labels, scores) == pytest.approx(1 / 3)
    assert measure("mean-per-class", labels, scores) == pytest.approx(1 / 3)
    assert measure("roc_auc", np.array([0, 1]), np.ones((2, 2))) == 0.5


def test_absent_class_is_left_out_of_mean_but_can_be_predicted() -> None:
    labels = np.array([0, 0, 1, 1])
    scores = np.array([[0.9, 0.1, 0.0], [0.1, 0.0, 0.9], [0.0, 0.9, 0.1], [0.0, 0.9, 0.1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure("mean-per-class", labels, scores) == pytest.approx((0.5 + 1.0) / 2)


def test_a_single_class_is_measured_where_that_means_something() -> None:
    labels, scores = np.zeros(3, dtype=int), np.eye(3)
    assert measure("mean-per-class", labels, scores) == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="all images have the same label"):
        measure("roc_auc", labels, scores[:, :2])
    with pytest.raises(InputError, match="no class has a positive image"):
        measure("11point_mAP", np.zeros((3, 3), dtype=int), scores)
    with pytest.raises(InputError, match="1 scores are not finite"):
        measure("accuracy", np.array([0]), np.array([[np.nan, 0.0]]))

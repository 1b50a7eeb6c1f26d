from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from react_pipeline.extensions.elevater.metrics import measure
from react_pipeline.store import InputError


def interpolated_map(labels: np.ndarray, scores: np.ndarray) -> float:
    """The definition, walked through point by point as vision-evaluation does."""
    averages = []
    for column in np.flatnonzero(labels.any(axis=0)):
        precision, recall, _ = precision_recall_curve(labels[:, column], scores[:, column])
        highest, place, points = 0.0, 0, []
        for threshold in np.linspace(1, 0, 11):
            while place < len(recall) and threshold <= recall[place]:
                highest = max(highest, precision[place])
                place += 1
            points.append(highest)
        averages.append(np.mean(points))
    return float(np.mean(averages))


@pytest.mark.parametrize("steps", [0, 4])  # rounding makes ties
def test_the_mean_over_11_points_is_as_defined(steps: int) -> None:
    random = np.random.default_rng(0)
    several = (random.random((200, 7)) < 0.2).astype(np.uint8)
    several[:, 3] = 0
    scores = random.random((200, 7)) + 0.3 * several
    scores = np.round(scores * steps) / steps if steps else scores
    found = measure("11point_mAP", several, scores)
    assert found == pytest.approx(interpolated_map(several, scores), abs=1e-12)


def test_a_recall_of_three_tenths_reaches_point_of_three_tenths() -> None:
    # Ten positives, three of them first: counted upwards the point would be 0.30000000000000004 and
    # be missed.
    labels = np.array([[1]] * 3 + [[0]] * 90 + [[1]] * 7)
    scores = np.linspace(1, 0, 100)[:, None]
    last = 10 / 100
    assert measure("11point_mAP", labels, scores) == pytest.approx((4 * 1 + 7 * last) / 11)


@pytest.mark.parametrize(
    ("metric", "labels", "scores", "value"),
    [
        ("accuracy", [0, 1, 2], np.ones((3, 3)), 1 / 3),  # the lower number of equal scores
        ("roc_auc", [0, 1], np.ones((2, 2)), 0.5),
        ("roc_auc", [0, 1, 0], [[0, 1], [0, 3], [0, 2]], 1.0),  # by the scores of class 1
        ("mean-per-class", [0, 0, 0], np.eye(3), 1 / 3),
        # An absent class can be predicted, and is in no mean.
        ("mean-per-class", [0, 0, 1, 1], np.eye(3)[[0, 2, 1, 1]], (0.5 + 1.0) / 2),
        ("roc_auc", [0, 0], np.eye(2), "all images have the same label"),
        ("11point_mAP", np.zeros((3, 3), int), np.eye(3), "no class has a positive image"),
        ("accuracy", [0], [[np.nan, 0.0]], "1 scores are not finite"),
    ],
)
def test_degenerate_input_has_a_value_or_a_reason(
    metric: str, labels: object, scores: object, value: float | str
) -> None:
    given = metric, np.asarray(labels), np.asarray(scores)
    if isinstance(value, str):
        with pytest.raises(InputError, match=value):
            measure(*given)
    else:
        assert measure(*given) == pytest.approx(value)

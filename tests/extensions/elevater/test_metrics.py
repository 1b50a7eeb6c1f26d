from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from react_pipeline.extensions.elevater.metrics import measure
from react_pipeline.store import InputError


@pytest.mark.parametrize("steps", [1_000_000, 4])  # a few steps make ties
def test_the_mean_over_11_points_is_as_defined(steps: int) -> None:
    random = np.random.default_rng(0)
    several = random.random((200, 7)) < 0.2
    several[:, 3] = False
    scores = np.round((random.random((200, 7)) + 0.3 * several) * steps) / steps
    averages = []
    for column in np.flatnonzero(several.any(axis=0)):
        precision, recall, _ = precision_recall_curve(several[:, column], scores[:, column])
        reached = [recall >= point / 10 - 1e-9 for point in range(11)]
        averages.append(np.mean([precision[places].max() for places in reached]))
    found = measure("11point_mAP", several.astype(np.uint8), scores)
    assert found == pytest.approx(np.mean(averages))


@pytest.mark.parametrize(
    ("metric", "labels", "scores", "value"),
    [
        ("accuracy", [0, 1, 2], np.ones((3, 3)), 1 / 3),  # the lower number of equal scores
        ("roc_auc", [0, 1], np.ones((2, 2)), 0.5),
        ("roc_auc", [0, 1, 0], [[0, 1], [0, 3], [0, 2]], 1.0),  # by the scores of class 1
        ("mean-per-class", [0, 0, 0], np.eye(3), 1 / 3),
        # Ten positives, three of them first: counted upwards the point would be
        # 0.30000000000000004 and be missed.
        (
            "11point_mAP",
            [[1]] * 3 + [[0]] * 90 + [[1]] * 7,
            np.linspace(1, 0, 100)[:, None],
            (4 * 1 + 7 * 0.1) / 11,
        ),
        # An absent class can be predicted, and is in no mean.
        ("mean-per-class", [0, 0, 1, 1], np.eye(3)[[0, 2, 1, 1]], (0.5 + 1.0) / 2),
        ("roc_auc", [0, 0], np.eye(2), "all images have the same label"),
        ("11point_mAP", np.zeros((3, 3), int), np.eye(3), "no class has a positive image"),
        ("accuracy", [0], [[np.nan, 0.0]], "1 scores are not finite"),
    ],
)
def test_a_figure_by_hand_or_the_reason_why_there_is_none(
    metric: str, labels: object, scores: object, value: float | str
) -> None:
    given = metric, np.asarray(labels), np.asarray(scores)
    if isinstance(value, str):
        with pytest.raises(InputError, match=value):
            measure(*given)
    else:
        assert measure(*given) == pytest.approx(value)

"""Calibration: the temperature with which a softmax states how often it is right.

Belongs here: fitting it on labelled images. Does not belong here: what is predicted with it (`use.classifier`).
Shapes: N images, C classes.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from scipy.special import logsumexp  # type: ignore[import-untyped]

BOUNDS = (1e-2, 1e3)


def fit_temperature(logits: NDArray[np.float32], class_ids: NDArray[np.int64]) -> float:
    """The temperature T that minimises the cross-entropy of softmax(logits / T): temperature scaling (Guo et al. 2017).

    Targets are smoothed by 1 / (N + 2), as Platt's are, so that a set without an error gives no infinite certainty.

    Args:
        logits: (N, C).
        class_ids: True class ids (N,).
    """
    scores = logits.astype(np.float64)
    smoothing = 1 / (len(scores) + 2)
    expected = (1 - smoothing) * scores[np.arange(len(scores)), class_ids] + smoothing * scores.mean(axis=1)

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float((logsumexp(scores * scale, axis=1) - expected * scale).mean())

    # Convex in 1 / T, so there is one minimum.
    return float(np.exp(minimize_scalar(loss, bounds=np.log(BOUNDS), method="bounded").x))

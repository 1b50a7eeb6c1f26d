"""Calibration: a temperature for a model's softmax, and how far its confidence is from how often it
is right.

Does not belong here: what else is measured (`domain_results`), using the temperature (`use`).
Shapes: N images, C classes; logits are 100 times the cosines.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

TEMPERATURE_BOUNDS = (1e-2, 1e3)
BINS = 15
"""Bins of equal width, as usual since Guo et al. 2017."""


def calibrate(logits: NDArray[np.float32], class_ids: NDArray[np.int64]) -> dict[str, Any]:
    """Compute `temperature`, `calibration_error` and `uncalibrated_error` of a result."""
    return {
        "temperature": fit_temperature(logits, class_ids),
        "calibration_error": held_out_error(logits, class_ids),
        "uncalibrated_error": error_of_confidence(logits, class_ids, 1.0),
    }


def confidence(
    logits: NDArray[np.float32], temperature: float | NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the largest probability of softmax(logits / T) of each image (N,); T is one, or one
    for each image (N,).
    """
    scores = logits.astype(np.float64) / np.reshape(temperature, (-1, 1))
    largest: NDArray[np.float64] = 1 / np.exp(scores - scores.max(axis=1, keepdims=True)).sum(
        axis=1
    )
    return largest


def fit_temperature(logits: NDArray[np.float32], class_ids: NDArray[np.int64]) -> float:
    """Fit the temperature T that minimises the cross-entropy of softmax(logits / T): temperature
    scaling (Guo et al. 2017).

    Targets are smoothed by 1 / (N + 2), as Platt's are, so that a set without an error gives no
    infinite certainty.

    Args:
        logits: (N, C).
        class_ids: True class ids (N,).
    """
    # Takes half a second, and results are read by commands that fit nothing.
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped, unused-ignore]
    from scipy.special import logsumexp  # type: ignore[import-untyped, unused-ignore]

    scores = logits.astype(np.float64)
    smoothing = 1 / (len(scores) + 2)
    of_class = scores[np.arange(len(scores)), class_ids]
    expected = (1 - smoothing) * of_class + smoothing * scores.mean(axis=1)

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float((logsumexp(scores * scale, axis=1) - expected * scale).mean())

    # Convex in 1 / T, so there is one minimum.
    minimum = minimize_scalar(loss, bounds=np.log(TEMPERATURE_BOUNDS), method="bounded")
    return float(np.exp(minimum.x))


def held_out_error(logits: NDArray[np.float32], class_ids: NDArray[np.int64]) -> float | None:
    """Measure the calibration error of a fitted temperature on images that it was not fitted on;
    None for one image.

    Of the images in the order of their classes, every second one is in the first half. Each half is
    measured with the temperature fitted on the other, so that all images count. A temperature
    fitted on all of them, as models are served with, has seen more and is no worse.
    """
    if len(class_ids) < 2:
        return None
    order = np.argsort(class_ids, kind="stable")
    temperatures = np.empty(len(class_ids))
    for half, other in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        temperatures[half] = fit_temperature(logits[other], class_ids[other])
    return error_of_confidence(logits, class_ids, temperatures)


def error_of_confidence(
    logits: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    temperature: float | NDArray[np.float64],
) -> float:
    """Compute the expected calibration error, a fraction: |confidence - accuracy|, averaged over
    bins of the confidence.
    """
    sure = confidence(logits, temperature)
    surplus = sure - (logits.argmax(axis=1) == class_ids)
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(bins, weights=surplus)).sum() / len(class_ids))

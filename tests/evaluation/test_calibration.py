"""Temperature scaling finds the temperature that labels were drawn with, and never promises
certainty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from react_pipeline.evaluation import fit_temperature
from react_pipeline.evaluation.calibration import error_of_confidence, held_out_error


def drawn(images: int, classes: int, temperature: float) -> tuple[Any, Any]:
    """Logits, and labels that are drawn from their softmax at a temperature."""
    chance = np.random.default_rng(0)
    logits = 3 * chance.standard_normal((images, classes)).astype(np.float32)
    # The class of the largest logit plus Gumbel noise is a draw from the softmax.
    return logits, (logits / temperature + chance.gumbel(size=logits.shape)).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_temperature_of_labels_that_were_drawn_is_found(temperature: float) -> None:
    logits, labels = drawn(20_000, 5, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)
    error = held_out_error(logits, labels)
    assert error is not None and error < 0.03


def test_a_small_set_without_an_error_gives_no_certainty() -> None:
    logits = np.eye(4, dtype=np.float32).repeat(2, axis=0)
    temperature = fit_temperature(logits, logits.argmax(axis=1))
    # 1 of 10 by the smoothing, a quarter of which falls to the right class.
    assert softmax(logits[0] / temperature)[0] == pytest.approx(0.925, abs=1e-3)


def test_the_error_is_confidence_less_accuracy_over_bins() -> None:
    logits, labels = drawn(400, 3, 2.0)
    probabilities = softmax(logits, axis=1)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    places = np.digitize(confidence, np.arange(1, 15) / 15)
    sums = (abs((confidence - right)[places == place].sum()) for place in range(15))
    expected = sum(sums) / 400
    assert error_of_confidence(logits, labels, 1.0) == pytest.approx(expected, rel=1e-4)
    certain = np.float32([[1e4, 0], [1e4, 0]])
    assert error_of_confidence(certain, np.array([0, 1]), 1.0) == pytest.approx(0.5)


def test_each_half_is_measured_with_temperature_of_other() -> None:
    # One class, so every second image is of one half: those are all right, the others all wrong,
    # and equally certain.
    logits = np.tile(4 * np.eye(2, dtype=np.float32), (50, 1))
    labels = np.zeros(100, dtype=np.int64)
    of_right, of_wrong = (fit_temperature(logits[start::2], labels[start::2]) for start in (0, 1))
    assert of_right < 1 < of_wrong
    expected = error_of_confidence(logits, labels, np.tile([of_wrong, of_right], 50))
    assert held_out_error(logits, labels) == pytest.approx(expected)
    # Fitted on all of them, half are right with a confidence of a half: nothing would be seen.
    unseen = error_of_confidence(logits, labels, fit_temperature(logits, labels))
    assert unseen < 0.01 < 0.4 < expected
    assert held_out_error(logits[:1], labels[:1]) is None

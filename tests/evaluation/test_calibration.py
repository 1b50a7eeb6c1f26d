"""Temperature scaling finds the temperature that labels were drawn with, and never promises certainty."""

from __future__ import annotations

import numpy as np
import pytest

from react_pipeline.evaluation.domain_results import fit_temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_temperature_of_labels_that_were_drawn_is_found(temperature: float) -> None:
    chance = np.random.default_rng(0)
    logits = 3 * chance.standard_normal((20_000, 5)).astype(np.float32)
    # The class of the largest logit plus Gumbel noise is a draw from the softmax.
    labels = (logits / temperature + chance.gumbel(size=logits.shape)).argmax(axis=1)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_a_small_set_without_an_error_gives_no_certainty() -> None:
    logits = np.eye(4, dtype=np.float32).repeat(2, axis=0)
    temperature = fit_temperature(logits, logits.argmax(axis=1))
    exponentials = np.exp(logits[0] / temperature)
    # 1 of 10 by the smoothing, a quarter of which falls to the right class.
    assert exponentials[0] / exponentials.sum() == pytest.approx(0.925, abs=1e-3)

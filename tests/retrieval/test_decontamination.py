"""Decontamination: the images of an evaluation set beside those of a corpus."""

from __future__ import annotations

import numpy as np
import pytest
from support.retrieval import NOTHING

from react_pipeline.retrieval.decontamination import EvaluationImages


def test_the_nearest_evaluation_image_is_exact_in_any_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(0)
    vectors, images = (random.normal(size=(count, 8)).astype(np.float32) for count in (50, 30))
    monkeypatch.setattr("react_pipeline.indexing.batch._BLOCK_ROWS", 4)
    nearest = EvaluationImages(frozenset(), images, 0.9).similarity(vectors)
    np.testing.assert_allclose(nearest, (vectors @ images.T).max(axis=1), rtol=1e-5)
    assert EvaluationImages(frozenset(), images, 0.9).similarity(vectors[:0]).shape == (0,)
    assert np.isnan(NOTHING.similarity(vectors)).all()

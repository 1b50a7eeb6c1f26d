from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.clustered import Cloud
from benchmarks.retrieval import measure, table

ROWS = 2_600


def test_clouds_are_unit_the_same_each_time_and_a_gap_apart() -> None:
    images, texts = next(Cloud(ROWS, 64).pairs())
    again, _ = next(Cloud(ROWS, 64).pairs())
    assert images.shape == texts.shape == (ROWS, 64) and (images == again).all()
    assert np.linalg.norm(images, axis=1) == pytest.approx(np.ones(ROWS), abs=1e-5)
    assert np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0)) > 0.5
    similarities = texts[:200] @ images.T
    assert (similarities.argmax(axis=1) == np.arange(200)).mean() > 0.5
    prompts = Cloud(ROWS, 64).prompts(3, 5)
    assert prompts.shape == (15, 64)
    assert (prompts[:5] @ prompts[:5].T).mean() > (prompts[:5] @ prompts[5:].T).mean()


@pytest.mark.slow
def test_every_way_gives_the_figures_that_the_table_needs(tmp_path: Path) -> None:
    asked = measure(tmp_path, ROWS, 4)
    assert asked["same_as_index"] == asked["same_as_flat"] == 1 and asked["prompts"] == 320
    assert all(way["seconds"] > 0 for way in asked["ways"].values())
    page = table(asked)
    assert all(text in page for text in ("320 prompts", "| cell by cell", "| exact ", "`IVF"))

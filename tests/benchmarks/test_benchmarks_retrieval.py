from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import retrieval
from benchmarks.all_prompts import table
from benchmarks.clustered import Cloud
from benchmarks.retrieval_tables import index_table

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
def test_every_stage_gives_the_figures_that_the_tables_need(tmp_path: Path) -> None:
    retrieval.make(tmp_path, ROWS)
    rows = []
    for key in ("Flat", "IVF64,SQfp16"):
        built = retrieval.build(tmp_path, ROWS, key)
        found = retrieval.search(tmp_path, ROWS, key)
        assert built["bytes"] == retrieval.file_of(tmp_path, key).stat().st_size
        assert min(found["ours"], found["exact"], found["reference"]) > 0
        assert found["reference_recall"] <= found["recall_at_10"] + 0.02
        rows.append(found)
    assert rows[0]["recall_at_10"] == rows[0]["reference_recall"] == 1.0
    asked = retrieval.ask_all(tmp_path, ROWS, 4, "IVF64,SQfp16")
    assert asked["same_as_index"] == asked["same_as_flat"] == 1 and asked["prompts"] == 320
    assert all(way["seconds"] > 0 for way in asked["ways"].values())
    assert all(
        text in index_table(rows) for text in ("| 2,600", "`Flat`", "`IVF64,SQfp16`", "1.000")
    )
    assert all(text in table(asked) for text in ("320 prompts", "| cell by cell", "| exact "))

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.retrieval import measure, table

ROWS = 2_600


@pytest.mark.slow
def test_every_way_gives_the_figures_that_the_table_needs(tmp_path: Path) -> None:
    asked = measure(tmp_path, ROWS, 4)
    assert asked["same_as_index"] == asked["same_as_flat"] == 1 and asked["prompts"] == 320
    assert all(way["seconds"] > 0 for way in asked["ways"].values())
    page = table(asked)
    assert all(text in page for text in ("320 prompts", "| cell by cell", "| exact ", "`IVF"))

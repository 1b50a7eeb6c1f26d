"""The sums for corpora that no machine here holds: by hand where that is easy, and as the page has
them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cluster_sums
from react_pipeline.extensions.plan.index_cost import adding_seconds, training_seconds
from react_pipeline.indexing.keys import Key


def test_sums_are_those_by_hand() -> None:
    # 2 x 64 x 32,768² x 512 x 10 operations at 68 G a second; 400 million rows at 6,646 a second.
    assert training_seconds(400_000_000, 32_768) / 3_600 == pytest.approx(2.87, abs=0.01)
    compressed = "OPQ64_512,IVF32768_HNSW32,PQ64x8"
    assert adding_seconds(400_000_000, Key.parse(compressed)) / 3_600 == pytest.approx(
        16.72, abs=0.01
    )
    # Twice the cells, twice the comparisons of a row with all of them.
    one, two = (
        adding_seconds(1_000_000, Key.parse(f"IVF{cells},SQfp16")) for cells in (32_768, 65_536)
    )
    assert two == pytest.approx(2 * one)
    # Vectors as they are cost nothing to add; a graph of more links costs more.
    flat, graph, larger = (
        adding_seconds(1_000_000, Key.parse(key)) for key in ("Flat", "HNSW32", "HNSW64")
    )
    assert 0 == flat < graph < larger


def test_the_page_has_the_tables_of_these_rates() -> None:
    text = (Path(__file__).parents[2] / "benchmarks" / "results.md").read_text()
    assert cluster_sums.page() in text

"""The benchmark of collecting: both ways give the same shards, and only one reads the tars
through.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import collect


def test_both_ways_collect_the_same_and_range_reads_read_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "PAIRS", 200)
    # Shards that differ would raise.
    table, size_bytes = collect.measure(tmp_path, tars=2, repeats=1)
    assert list(table["pairs"]) == [0, 4, 40]
    assert table["bytes"].is_monotonic_increasing
    assert table["bytes"][1] < size_bytes / 10
    assert "| 1.0% | 4 |" in collect.to_markdown(table[1:], size_bytes, 2)

"""The benchmark of the embedding: its captions and its table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import embed as benchmark
from benchmarks.pages import to_markdown


def test_rows_are_ratios_of_medians_and_the_page_shows_them() -> None:
    unit = np.eye(3)
    vectors: dict[str, Any] = {
        name: {"image": unit, "text": unit} for name in (benchmark.THEIRS, *benchmark.OURS)
    }
    seconds = {
        benchmark.THEIRS: [8.0, 10.0, 60.0],
        benchmark.BARE: [9.0] * 3,
        "ours fp32": [5.0, 4.0, 5.0],
    }
    rows = benchmark.speed_rows({**seconds, "ours bf16": [2.0] * 3}, 20, vectors)
    assert rows["ours fp32"]["over clip-retrieval"] == 2.0 and rows["ours bf16"]["pairs/s"] == 10
    assert rows["ours fp32"]["over the bare pass"] == pytest.approx(1.8)
    text = to_markdown(rows)
    assert "| ours bf16 | 10.0 | 5.00 | 4.50 | 1.0000000 | 1.0000000 |" in text
    assert text.splitlines()[3].endswith("| – | – |")

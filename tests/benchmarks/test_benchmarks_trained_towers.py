"""What the benchmark of whole towers compares is the same: both ways give the same vectors."""

from __future__ import annotations

import pytest
import torch

from benchmarks.trained_towers import caption_tokens, image_ways, seconds_of, table_of, text_ways


@pytest.mark.slow
def test_both_ways_of_each_part_give_same_and_table_names_them() -> None:
    tokens = caption_tokens(6, 0.4)
    assert len(torch.unique(tokens, dim=0)) == 4
    parts = []
    for ways, tolerance in (
        (text_ways(tokens), 0.999_99),
        (image_ways(torch.randn(2, 3, 64, 64)), 0.99),
    ):
        with torch.no_grad():
            plain, ours = (way().float() for way in ways.values())
        assert torch.nn.functional.cosine_similarity(plain, ours).min() > tolerance
        parts.append(seconds_of(ways, 0))
    table = table_of(parts)
    assert len(table) == 4 and list(table["ratio"])[::2] == ["1.00", "1.00"]

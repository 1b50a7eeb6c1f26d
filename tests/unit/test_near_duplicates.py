"""Near duplicates: every pair of like images is found, in any blocks and in any order of asking."""

from __future__ import annotations

import numpy as np
import pytest

from react_pipeline.lineage import Project
from react_pipeline.retrieval.near_duplicates import NearDuplicates
from react_pipeline.vectors import read_vectors


@pytest.mark.parametrize("block", [7, 4_096])
def test_neighbours_are_all_pairs_above_the_similarity(
    indexed_project: Project, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("react_pipeline.retrieval.near_duplicates.BLOCK_ROWS", block)
    embeddings = indexed_project.store.current("corpus_embeddings", "all")
    vectors = read_vectors(embeddings, "image")
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    limit = float(np.quantile(cosines, 0.98))
    found = NearDuplicates(embeddings, limit)
    rows = np.random.default_rng(0).permutation(len(vectors))
    for part in np.array_split(rows, 3):
        found.examine(part)
    alike = {row: set(np.flatnonzero(cosines[row] >= limit)) for row in range(len(vectors))}
    assert {row: set(others) for row, others in found.neighbours.items()} == {r: o for r, o in alike.items() if o}
    assert all(len(others) == len(set(others)) for others in found.neighbours.values())


def test_above_1_nothing_is_compared(indexed_project: Project) -> None:
    found = NearDuplicates(indexed_project.store.current("corpus_embeddings", "all"), 1.01)
    found.examine(np.arange(96))
    assert not found.neighbours

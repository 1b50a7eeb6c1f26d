from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np
import pytest
from support.vectors import read_vectors

from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from react_pipeline.indexing import Neighbours, StoredVectors, draw_queries
from react_pipeline.indexing.build import Queries, tune
from react_pipeline.project import Project
from react_pipeline.store import Artifact

ROWS, WIDTH = 1_000, 16


@pytest.fixture
def embeddings(make_project: Callable[..., Project]) -> Artifact:
    project = make_project()
    publish_parents(project, "recall")
    return publish_embeddings(project, Cloud(ROWS, WIDTH).pairs(300), WIDTH)


class Missing:
    """An exact index that leaves out the first `missing` hits and finds the next best instead."""

    def __init__(self, vectors: np.ndarray, missing: int) -> None:
        self.vectors, self.missing, self.ntotal = vectors, missing, len(vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        wanted = min(k + self.missing, self.ntotal)
        found = faiss.knn(queries, self.vectors, wanted, metric=faiss.METRIC_INNER_PRODUCT)
        return found[0][:, self.missing :], found[1][:, self.missing :]


@pytest.mark.parametrize("depth", [10, 100])
@pytest.mark.parametrize("side", ["image", "text"])
def test_recall_is_the_share_of_the_exact_hits_that_were_found(
    embeddings: Artifact, side: Any, depth: int
) -> None:
    neighbours = Neighbours(StoredVectors(embeddings, side), draw_queries(embeddings, 30))
    vectors = read_vectors(embeddings, side)
    assert neighbours.recall(Missing(vectors, 0), depth, 1) == 1.0
    # On the text side the first hit is the query's own row, which does not count.
    lost = 3 if side == "image" else 2
    recall = neighbours.recall(Missing(vectors, 3), depth, 1)
    assert recall == pytest.approx(1 - lost / depth, abs=0.01)


class InMemory:
    """Vectors as `StoredVectors` gives them."""

    def __init__(self, vectors: np.ndarray, side: str) -> None:
        self.vectors, self.side = vectors, side
        self.rows, self.dimension = vectors.shape

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        yield 0, self.vectors

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.vectors[rows]


def test_a_querys_own_caption_counts_for_nothing() -> None:
    vectors = np.eye(4, 8, dtype=np.float32)
    stored: Any = InMemory(vectors, "text")
    neighbours = Neighbours(stored, Queries(vectors[:2], np.arange(2)))
    # Of all others, in any order, each is as similar as the next.
    assert neighbours.recall(Missing(vectors, 0), 10, 1) == 1.0
    assert neighbours.recall(Missing(vectors, 1), 10, 1) == 1.0


def test_hits_as_similar_as_the_exact_ones_are_equally_right() -> None:
    same = np.tile(np.eye(1, 8, dtype=np.float32), (50, 1))
    stored: Any = InMemory(same, "image")
    neighbours = Neighbours(stored, Queries(same[:1], np.array([0])))
    assert neighbours.recall(Missing(same, 30), 10, 1) == 1.0


def test_queries_are_captions_of_their_rows_and_same_each_time(embeddings: Artifact) -> None:
    queries = draw_queries(embeddings, 100)
    assert (queries.vectors == read_vectors(embeddings, "text")[queries.rows]).all()
    assert len(queries.rows) == len(set(queries.rows)) == 100
    assert (draw_queries(embeddings, 100).rows == queries.rows).all()
    assert len(draw_queries(embeddings, 10 * ROWS).rows) == ROWS


def test_tuning_stops_at_least_effort_that_reaches_target() -> None:
    def measure(value: int) -> float:
        return min(value / 100, 1.0)

    assert tune(measure, 0.6, 1, 1_000) == (64, 0.64)
    assert tune(measure, 0.9, 1, 1_000) == (96, 0.96)
    assert tune(lambda _: 0.5, 0.95, 1, 6) == (6, 0.5)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import pytest
from support.vectors import read_vectors

from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from react_pipeline.embedding import StoredVectors
from react_pipeline.indexing import draw_queries
from react_pipeline.indexing.build import Queries, compare, tune_and_measure
from react_pipeline.project import Project
from react_pipeline.settings import IndexConfig

ROWS, WIDTH = 1_000, 16
ALL = slice(None)
Publish = Callable[[np.ndarray, np.ndarray], Any]


@pytest.fixture
def publish(make_project: Callable[..., Project]) -> Publish:
    project = make_project()
    publish_parents(project, "recall")
    return lambda images, texts: publish_embeddings(project, [(images, texts)], images.shape[1])


@pytest.fixture
def embeddings(publish: Publish) -> Any:
    return publish(*next(Cloud(ROWS, WIDTH).pairs()))


class Missing:
    """An exact index that leaves out the first `missing` hits and finds the next best instead."""

    def __init__(self, vectors: np.ndarray, missing: int) -> None:
        self.vectors, self.missing, self.ntotal = vectors, missing, len(vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        wanted = min(k + self.missing, self.ntotal)
        found = faiss.knn(queries, self.vectors, wanted, metric=faiss.METRIC_INNER_PRODUCT)
        return found[0][:, self.missing :], found[1][:, self.missing :]


@pytest.mark.parametrize("side", ["image", "text"])
def test_recall_is_the_share_of_the_exact_hits_that_were_found(embeddings: Any, side: Any) -> None:
    vectors, queries = read_vectors(embeddings, side), draw_queries(embeddings, 30)
    whole, holed = (
        compare(Missing(vectors, missing), StoredVectors(embeddings, side), queries, 1)
        for missing in (0, 3)
    )
    # On the text side the first hit is the query's own row, which does not count.
    lost = 3 if side == "image" else 2
    for depth in (10, 100):
        assert whole(depth, ALL) == 1.0
        assert holed(depth, ALL) == pytest.approx(1 - lost / depth, abs=0.01)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_querys_own_caption_counts_for_nothing(publish: Publish, missing: int) -> None:
    vectors = np.eye(4, 8, dtype=np.float32)
    stored = StoredVectors(publish(vectors, vectors), "text")
    queries = Queries(np.arange(2), vectors[:2])
    # Of all others, in any order, each is as similar as the next.
    assert compare(Missing(vectors, missing), stored, queries, 1)(10, ALL) == 1.0


def test_hits_as_similar_as_the_exact_ones_are_equally_right(publish: Publish) -> None:
    same = np.tile(np.eye(1, 8, dtype=np.float32), (50, 1))
    stored, queries = StoredVectors(publish(same, same), "image"), Queries(np.array([0]), same[:1])
    assert compare(Missing(same, 30), stored, queries, 1)(10, ALL) == 1.0


@pytest.mark.parametrize(("target", "nprobe"), [(0.1, 1), (1.0, 6)])
def test_tuning_ends_where_the_target_is_reached_or_all_cells_are_searched(
    embeddings: Any, target: float, nprobe: int
) -> None:
    stored, queries = StoredVectors(embeddings, "image"), draw_queries(embeddings, 30)
    index = faiss.index_factory(WIDTH, "IVF6,PQ2x4", faiss.METRIC_INNER_PRODUCT)
    vectors = read_vectors(embeddings, "image")
    index.train(vectors)
    index.add(vectors)
    measured = tune_and_measure(index, IndexConfig(target_recall=target), stored, queries, 1)
    assert (measured["parameters"], index.nprobe) == (f"nprobe={nprobe}", nprobe)
    assert (measured["tuned_recall"] >= target) == (target < 1)

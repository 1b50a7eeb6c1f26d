from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from support.vectors import read_vectors

from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from react_pipeline.indexing.recall import Neighbours, Queries, draw_queries, tune
from react_pipeline.indexing.vectors import StoredVectors
from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import InputError

ROWS, WIDTH = 1_000, 16


@pytest.fixture
def embeddings(make_project: Callable[..., Project]) -> Artifact:
    project = make_project()
    publish_parents(project, "recall")
    return publish_embeddings(project, Cloud(ROWS, WIDTH).pairs(300), WIDTH)


def exact_index(vectors: np.ndarray) -> object:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


class Missing:
    """An exact index that leaves out the first `missing` hits and finds the next best instead."""

    def __init__(self, index: object, missing: int) -> None:
        self.index, self.missing, self.ntotal = index, missing, index.ntotal

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        similarities, rows = self.index.search(queries, k + self.missing)
        return similarities[:, self.missing :], rows[:, self.missing :]


@pytest.mark.parametrize("depth", [10, 100])
@pytest.mark.parametrize("side", ["image", "text"])
def test_recall_is_the_share_of_the_exact_hits_that_were_found(
    embeddings: Artifact, side: str, depth: int
) -> None:
    neighbours = Neighbours(StoredVectors(embeddings, side), draw_queries(embeddings, 30))
    index = exact_index(read_vectors(embeddings, side))
    assert neighbours.recall(index, depth, 1) == 1.0
    # On the text side the first hit is the query's own row, which does not count.
    lost = 3 if side == "image" else 2
    assert neighbours.recall(Missing(index, 3), depth, 1) == pytest.approx(
        1 - lost / depth, abs=0.01
    )


class InMemory:
    """Vectors as `StoredVectors` gives them."""

    def __init__(self, vectors: np.ndarray, side: str) -> None:
        self.vectors, self.side = vectors, side
        self.rows, self.dimension = vectors.shape

    def blocks(self, first_row: int, last_row: int, size: int) -> Iterator[tuple[int, np.ndarray]]:
        for first in range(first_row, last_row, 3):
            yield first, self.vectors[first : first + 3]

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.vectors[rows]

    def refuse_bad(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        pass


def test_a_querys_own_caption_counts_for_nothing() -> None:
    vectors = np.eye(4, 8, dtype=np.float32)
    neighbours = Neighbours(InMemory(vectors, "text"), Queries(vectors[:2], np.arange(2)))
    assert neighbours._similarities.max() == 0.0
    # Of all others, in any order, each is as similar as the next.
    assert neighbours.recall(exact_index(vectors), 10, 1) == 1.0


def test_hits_as_similar_as_the_exact_ones_are_equally_right(embeddings: Artifact) -> None:
    same = np.repeat(StoredVectors(embeddings, "image").take(np.array([0])), 50, axis=0)
    neighbours = Neighbours(InMemory(same, "image"), Queries(same[:1], np.array([0])))

    class Last:
        ntotal = 50

        def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            return np.ones((1, k), np.float32), np.arange(50 - k, 50)[None]

    assert neighbours.recall(Last(), 10, 1) == 1.0


def test_queries_are_captions_of_their_rows_and_same_each_time(
    embeddings: Artifact,
) -> None:
    queries = draw_queries(embeddings, 100)
    assert (queries.vectors == read_vectors(embeddings, "text")[queries.rows]).all()
    assert len(queries.rows) == len(set(queries.rows)) == 100
    assert (draw_queries(embeddings, 100).rows == queries.rows).all()
    assert len(draw_queries(embeddings, 10 * ROWS).rows) == ROWS


def test_chunks_and_chosen_rows_are_those_of_the_files(embeddings: Artifact) -> None:
    stored, vectors = StoredVectors(embeddings, "text"), read_vectors(embeddings, "text")
    for first_row in (0, 299, 300, 301, 999, 1_000):
        parts = list(stored.blocks(first_row, ROWS, 70))
        assert (
            np.concatenate([np.empty((0, WIDTH)), *(part for _, part in parts)]).tolist()
            == vectors[first_row:].tolist()
        )
        assert all((vectors[first : first + len(part)] == part).all() for first, part in parts)
    rows = np.array([999, 0, 300, 299, 0, 500])
    assert (stored.take(rows) == vectors[rows]).all()
    bad = stored.take(rows)
    bad[3] = 0
    with pytest.raises(InputError, match=r"text_emb_0000.npy"):
        stored.refuse_bad(rows, bad)


def test_tuning_stops_at_least_effort_that_reaches_target() -> None:
    tried: list[int] = []

    def measure(value: int) -> float:
        tried.append(value)
        return min(value / 100, 1.0)

    assert tune(measure, 0.6, 1, 1_000) == (64, 0.64)
    assert tune(measure, 0.9, 1, 1_000) == (96, 0.96)
    assert max(tried) == 128
    assert tune(lambda _: 0.5, 0.95, 1, 6) == (6, 0.5)

"""Recall of an index against exact search, and the settings that reach the target. Shapes: Q
queries, D width.

Retrieval asks with texts, so recall is measured with texts on both sides: caption vectors of random
rows. On the text side a query is itself a row of the index; that row counts neither as found nor as
wanted. Half of the queries tune, the other half give the recorded figures. A hit is right if it is
as similar as the exact search's K-th: rows of equal similarity (captions that many rows share) are
equally right.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from react_pipeline.embedding import Rows, Vectors
from react_pipeline.indexing.exact import exact_hits, rank_exactly
from react_pipeline.indexing.files import find_rows
from react_pipeline.indexing.vectors import StoredVectors
from react_pipeline.store import Artifact

DEPTHS = (10, 100)
_EQUAL = 1e-5
"""Similarities that differ by less are equal: sums in another order differ by about as much."""
_SEED = 0


class Queries(NamedTuple):
    """Caption vectors (Q, D) and the rows of the corpus they are from."""

    vectors: Vectors
    rows: Rows


def draw_queries(embeddings: Artifact, size: int) -> Queries:
    """Return captions of random rows (fixed seed), fewer where the corpus is smaller.

    Raises:
        InputError: If one of them is not finite or not of unit length.
    """
    texts = StoredVectors(embeddings, "text")
    rows, vectors = texts.sample(size, _SEED)
    texts.refuse_bad(rows, vectors)
    return Queries(vectors, rows)


class Neighbours:
    """The exact nearest rows of some queries on one side of the corpus, and the share of them that
    an index finds.
    """

    def __init__(self, stored: StoredVectors, queries: Queries) -> None:
        """Compare all rows with the queries.

        Raises:
            InputError: If a vector is not finite or not of unit length.
        """
        self._stored = stored
        self._queries = queries
        self._own = queries.rows if stored.side == "text" else np.full(len(queries.rows), -1)
        # One hit more: on the text side the query's own row is taken out again.
        similarities, rows = exact_hits(stored, queries.vectors, max(DEPTHS) + 1)
        self._similarities = np.where(rows == self._own[:, None], -np.inf, similarities)

    def recall(self, index: Any, depth: int, rerank: int, part: slice = slice(None)) -> float:
        """Return the share of each query's exact nearest `depth` rows that the index finds, as a
        fraction.

        Args:
            depth: How many hits; fewer where the corpus has fewer rows.
            rerank: As for `find_rows`.
        """
        queries = self._queries.vectors[part]
        own = self._own[part, None]
        depth = min(depth, self._stored.rows - (self._stored.side == "text"))
        if not depth or not len(queries):
            return 1.0
        needed = np.sort(self._similarities[part], axis=1)[:, [-depth]]
        _, rows = find_rows(index, queries, depth + 1, rerank, self._stored)
        query, place = np.nonzero((rows >= 0) & (rows != own))
        take = self._stored.take
        similarities, _ = rank_exactly(queries, query, rows[query, place], take, depth)
        return round(float((similarities >= needed - _EQUAL).mean()), 4)


def tune(
    measure: Callable[[int], float], target: float, least: int, most: int
) -> tuple[int, float]:
    """Return how many cells or graph nodes a search looks at, and the recall that this gives: the
    fewest found that reach the target, or the most there are.

    The number is doubled; at the end one a quarter smaller is tried.

    Args:
        measure: Returns the recall of a number.
    """
    value, recall = least, measure(least)
    while recall < target and value < most:
        value = min(2 * value, most)
        recall = measure(value)
    smaller = value * 3 // 4
    if recall >= target and smaller > least and (less := measure(smaller)) >= target:
        return smaller, less
    return value, recall

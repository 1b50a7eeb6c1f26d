"""Recall of an index against exact search, and the settings that reach the target.

Belongs here: held-out queries, their exact neighbours, recall, tuning. Does not belong here: searching
(`indexing.files`), building (`indexing.build`). Shapes: Q queries, K hits, D width.

Retrieval asks with texts, so recall is measured with texts on both sides: caption vectors of random rows. On the text
side a query is itself a row of the index; that row counts neither as found nor as wanted. Half of the queries tune, the
other half give the recorded figures. A hit is right if it is as similar as the exact search's K-th: rows of equal
similarity (captions that many rows share) are equally right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from react_pipeline.embedding import Rows, Side, Vectors
from react_pipeline.indexing.files import find_rows, similarities_of
from react_pipeline.indexing.vectors import StoredVectors
from react_pipeline.store import Artifact

DEPTHS = (10, 100)
_EQUAL = 1e-5
"""Similarities that differ by less are equal: sums in another order differ by about as much."""
_SEED = 0


@dataclass(frozen=True)
class Queries:
    """Caption vectors (Q, D) and the rows of the corpus they are from."""

    vectors: Vectors
    rows: Rows

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)


def draw_queries(embeddings: Artifact, wanted: int) -> Queries:
    """Captions of random rows (fixed seed), fewer where the corpus is smaller.

    Raises:
        InputError: If one of them is not finite or not of unit length.
    """
    texts = StoredVectors(embeddings, "text")
    rows, vectors = texts.sample(wanted, _SEED)
    texts.refuse_bad(rows, vectors)
    return Queries(vectors, rows)


class Neighbours:
    """The exact nearest rows of some queries; fed with all rows of the corpus, chunk by chunk."""

    def __init__(self, queries: Queries, side: Side, dimension: int) -> None:
        """Nothing was seen yet."""
        self.queries = queries
        self.own = queries.rows if side == "text" else np.full(len(queries), -2)
        self._similarities: Vectors = np.empty((len(queries), 0), dtype=np.float32)
        self._rows: Rows = np.empty((len(queries), 0), dtype=np.int64)

    def see(self, first_row: int, vectors: Vectors) -> None:
        """Take account of a chunk."""
        import faiss

        # One more than wanted: on the text side the query's own row is taken out again.
        depth = max(DEPTHS) + 1
        similarities, rows = faiss.knn(
            self.queries.vectors, vectors, min(depth, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT
        )
        similarities = np.concatenate([self._similarities, similarities], axis=1)
        rows = np.concatenate([self._rows, rows + first_row], axis=1)
        order = np.argsort(-similarities, axis=1, kind="stable")[:, :depth]
        self._similarities = np.take_along_axis(similarities, order, axis=1)
        self._rows = np.take_along_axis(rows, order, axis=1)

    def recall(self, index: Any, stored: StoredVectors, depth: int, rerank: int, part: slice = slice(None)) -> float:
        """Share of each query's exact nearest `depth` rows that the index finds, as a fraction.

        Args:
            depth: How many hits; fewer where the corpus has fewer rows.
            rerank: As of `find_rows`.
        """
        queries, own = self.queries.vectors[part], self.own[part, None]
        exact = np.where(self._rows[part] == own, -np.inf, self._similarities[part])
        depth = min(depth, int((self._rows[part] != own).sum(axis=1).min(initial=depth)))
        if not depth or not len(queries):
            return 1.0
        needed = -np.sort(-exact, axis=1)[:, depth - 1 : depth]
        _, rows = find_rows(index, queries, depth + 1, rerank, stored)
        # The query's own row goes to the end, then the first `depth` count.
        order = np.argsort(rows == own, axis=1, kind="stable")[:, :depth]
        found = np.take_along_axis(rows, order, axis=1)
        right = (found != own) & (similarities_of(queries, found, stored) >= needed - _EQUAL)
        return round(float(right.mean()), 4)


@dataclass(frozen=True)
class Tuned:
    """Cells or graph nodes a search looks at, how many times K is ranked again, and the recall that this gave."""

    value: int
    rerank: int
    recall: float


def tune(
    measure: Callable[[int, int], float],
    target: float,
    *,
    value: tuple[int, int],
    rerank: tuple[int, int],
) -> Tuned:
    """The least effort found that reaches the target, or the most there is.

    Each step doubles whichever of the two helps more; at the end a value a quarter smaller is tried.

    Args:
        measure: Recall of a value and a re-ranking.
        value: Where to start and where to stop.
        rerank: Likewise.
    """
    best = Tuned(value[0], rerank[0], measure(value[0], rerank[0]))
    while best.recall < target:
        options = []
        if best.value < value[1]:
            options.append((min(2 * best.value, value[1]), best.rerank))
        if best.rerank < rerank[1]:
            options.append((best.value, min(2 * best.rerank, rerank[1])))
        if not options:
            return best
        best = max((Tuned(*option, measure(*option)) for option in options), key=lambda tried: tried.recall)
    smaller = best.value * 3 // 4
    if smaller > value[0] and (recall := measure(smaller, best.rerank)) >= target:
        return Tuned(smaller, best.rerank, recall)
    return best

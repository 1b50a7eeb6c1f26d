"""Building the index of a side: training, adding, tuning, measuring.

Does not belong here: which key is built (`indexing.keys`). Shapes: N rows, C cells, Q queries, D
width.

FAISS is used directly. autofaiss, which clip-retrieval uses, refuses PQ and SQ keys for inner
products, tunes for a query time whatever the recall, and trains polysemous codes that nothing here
searches with. With `index.train_on: faiss-gpu` a GPU trains the centroids; cells are filled in main
memory, so an index may be larger than the card.

Retrieval asks with texts, so recall is measured with texts on both sides: caption vectors of random
rows. On the text side a query is itself a row of the index; that row counts neither as found nor as
wanted. Half of the queries tune, the other half give the recorded figures. A hit is right if it is
as similar as the exact search's K-th: rows of equal similarity (captions that many rows share) are
equally right.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from react_pipeline.embedding import Rows, Side, Vectors
from react_pipeline.indexing.exact import exact_hits, rank_exactly
from react_pipeline.indexing.files import (
    find_rows,
    inverted_lists,
    search_parameters,
    set_parameters,
    write_index,
)
from react_pipeline.indexing.keys import Key
from react_pipeline.indexing.vectors import StoredVectors
from react_pipeline.settings import IndexConfig
from react_pipeline.stage import encoder_in
from react_pipeline.store import Artifact, InputError

DEPTHS = (10, 100)
GRAPH_BREADTH = (16, 4_096)
"""efSearch, where tuning starts and stops."""
ROTATION_ROUNDS, ROTATION_ROWS = 12, 20_000
"""Training of a rotation (OPQ). FAISS' own 50 rounds on 65,536 rows take over ten minutes a core at
D = 512.
"""
FAISS_GPU = Path(sys.prefix, "faiss-gpu")
"""Where `index.train_on: faiss-gpu` looks for a GPU build of FAISS. That build has the same files
as faiss-cpu, so only a second process imports it: without code for the card it aborts its process,
and no `except` catches that."""
_QUERY_SEED, _TRAINING_SEED = 0, 1
_EQUAL = 1e-5
"""Similarities that differ by less are equal: sums in another order differ by about as much."""

Measured = dict[str, Any]
"""What the counts record of one side: `key`, `parameters`, `rerank`, `tuned_recall` (recall@10 of
the queries that were tuned with), `recall_at_10` and `recall_at_100` (of the others), `seconds`."""


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
    rows, vectors = texts.sample(size, _QUERY_SEED)
    texts.refuse_bad(rows, vectors)
    return Queries(vectors, rows)


def build_side(
    config: IndexConfig,
    key: str,
    embeddings: Artifact,
    side: Side,
    path: Path,
    queries: Queries,
) -> Measured:
    """Write the index of one side, and return what the counts record of it.

    Memory holds the index, the training sample and one chunk of vectors.
    """
    import faiss

    started = time.perf_counter()
    stored = StoredVectors(embeddings, side)
    parsed = Key.parse(key)
    neighbours = Neighbours(stored, queries)
    index = faiss.index_factory(stored.dimension, key, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        _, sample = stored.sample(parsed.sample_rows, _TRAINING_SEED)
        train(index, parsed, sample, on_gpu=config.train_on is not None)
    for _, vectors in stored.chunks():
        index.add(vectors)
    measured = tune_and_measure(index, config, neighbours, parsed.rerank)
    write_index(index, path)
    return {**measured, "key": key, "seconds": time.perf_counter() - started}


def train(index: Any, key: Key, sample: Vectors, *, on_gpu: bool) -> None:
    """Train an index on rows (N, D), its centroids with the GPU build of FAISS if asked to."""
    import faiss

    rotated = sample
    if key.rotation:
        rotation = faiss.downcast_VectorTransform(index.chain.at(0))
        rotation.niter = ROTATION_ROUNDS
        rotation.max_train_points = ROTATION_ROWS
        rotation.train(sample)
        rotated = rotation.apply(sample)
    if (lists := inverted_lists(index)) is not None:
        if key.codes == "SQfp16":
            # Then a code is the stored half-precision vector itself; of residuals it would be a
            # rounding.
            lists.by_residual = False
        if key.parts:
            # Codes ordered for a search by Hamming distance, which nothing here does, take most of
            # the training.
            lists.do_polysemous_training = False
        if on_gpu:
            # FAISS trains no centroids where there are as many as cells.
            lists.quantizer.add(train_centroids(rotated, lists.nlist))
    index.train(sample)


def train_centroids(rows: Vectors, cells: int) -> Vectors:
    """Return unit centroids (C, D) of random rows (N, D), by spherical k-means on a GPU.

    Raises:
        InputError: If the GPU build of FAISS is not installed, or does not work on this GPU.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_train_with_faiss, FAISS_GPU, rows, cells).result()
        except Exception as error:  # whatever that build raises, or the end of its process
            raise InputError(
                f"index.train_on: FAISS in {FAISS_GPU} does not train on this machine's GPU "
                f"({error}); install a build for the card there, or remove the field"
            ) from error


def _train_with_faiss(folder: Path, rows: Vectors, cells: int) -> Vectors:
    sys.path.insert(0, str(folder))
    import faiss

    if not faiss.get_num_gpus():
        raise RuntimeError(f"{faiss.__file__} has no GPU")
    kmeans = faiss.Kmeans(rows.shape[1], cells, spherical=True, gpu=True)
    kmeans.train(rows)
    return kmeans.centroids


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


def tune_and_measure(
    index: Any, config: IndexConfig, neighbours: Neighbours, rerank: int
) -> Measured:
    """Set the parameter that reaches the target on the odd queries, and measure recall on the even
    ones.

    Args:
        rerank: Unless the configuration says otherwise; 1: the index holds whole vectors.
    """
    if config.rerank and rerank > 1:
        rerank = config.rerank
    least, most = 1, 1
    if search_parameters(index, 1):
        lists = inverted_lists(index)
        least, most = GRAPH_BREADTH if lists is None else (1, int(lists.nlist))

    def measure(value: int) -> float:
        set_parameters(index, search_parameters(index, value))
        return neighbours.recall(index, 10, rerank, slice(1, None, 2))

    value, recall = tune(measure, config.target_recall, least, most)
    parameters, held_out = search_parameters(index, value), slice(None, None, 2)
    set_parameters(index, parameters)
    return {
        "parameters": parameters,
        "rerank": rerank,
        "tuned_recall": recall,
        **{f"recall_at_{n}": neighbours.recall(index, n, rerank, held_out) for n in DEPTHS},
    }


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


def index_counts(
    embeddings: Artifact,
    config: IndexConfig,
    sides: dict[Side, Measured],
    reason: str,
    queries: Queries,
    staging: Path,
) -> dict[str, Any]:
    """Return the counts of the manifest, for both sides."""
    for side, measured in sides.items():
        if (tuned := measured["tuned_recall"]) < config.target_recall:
            reason += (
                f"; {side}: recall@10 is {tuned:.3f} at most with this key, target_recall "
                f"{config.target_recall} is not reached"
            )

    def by_side(name: str, but: object = None) -> dict[Side, Any]:
        return {side: one[name] for side, one in sides.items() if one[name] != but}

    return {
        "rows": int(embeddings.counts["rows"]),
        "dimension": int(embeddings.counts["dimension"]),
        "encoder": embeddings.parents[encoder_in(embeddings.parents)],
        "key": next(iter(sides.values()))["key"],
        "exact": all(measured["key"] == "Flat" for measured in sides.values()),
        "reason": reason,
        "parameters": by_side("parameters", but=""),
        "rerank": by_side("rerank", but=1),
        **{name: by_side(name) for name in ("tuned_recall", "recall_at_10", "recall_at_100")},
        "recall_queries": len(queries.rows[::2]),
        "target_recall": config.target_recall,
        "seconds": round(sum(measured["seconds"] for measured in sides.values()), 2),
        "bytes": sum((staging / f"{side}.index").stat().st_size for side in sides),
    }

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

from react_pipeline.embedding import Rows, StoredVectors, Vectors
from react_pipeline.indexing.keys import Key
from react_pipeline.indexing.search import (
    exact_hits,
    find_rows,
    innermost,
    inverted_lists,
    set_parameters,
)
from react_pipeline.settings import IndexConfig
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

    rows: Rows
    vectors: Vectors


def draw_queries(embeddings: Artifact, size: int) -> Queries:
    """Return captions of random rows (fixed seed), fewer where the corpus is smaller."""
    return Queries(*StoredVectors(embeddings, "text").sample(size, _QUERY_SEED))


def build_side(
    config: IndexConfig, key: str, stored: StoredVectors, queries: Queries, folder: Path
) -> Measured:
    """Write the index of one side into a folder, and return what the counts record of it.

    Memory holds the index, the training sample and one block of vectors.
    """
    import faiss

    started = time.perf_counter()
    parsed = Key.parse(key)
    index = faiss.index_factory(stored.dimension, key, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        _, sample = stored.sample(parsed.sample_rows, _TRAINING_SEED)
        train(index, parsed, sample, on_gpu=config.train_on is not None)
    for _, vectors in stored.blocks():
        index.add(vectors.astype(np.float32))
    measured = tune_and_measure(index, config, stored, queries, parsed.rerank)
    # FAISS itself would not say why the disk refuses.
    with (folder / f"{stored.side}.index").open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
    return {**measured, "key": key, "seconds": time.perf_counter() - started}


def train(index: Any, key: Key, sample: Vectors, *, on_gpu: bool) -> None:
    """Train an index on rows (N, D), its centroids with the GPU build of FAISS if asked to."""
    import faiss

    rotated = sample
    if key.rotation:
        rotation = faiss.downcast_VectorTransform(index.chain.at(0))
        rotation.niter, rotation.max_train_points = ROTATION_ROUNDS, ROTATION_ROWS
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


def tune_and_measure(
    index: Any, config: IndexConfig, stored: StoredVectors, queries: Queries, rerank: int
) -> Measured:
    """Double the effort of a search until the odd queries reach the target, and measure recall on
    the even ones.

    Args:
        index: Of all stored vectors.
        rerank: Unless the configuration says otherwise; 1: the index holds whole vectors.
    """
    rerank = config.rerank if config.rerank and rerank > 1 else rerank
    recall = compare(index, stored, queries, rerank)
    text, value, most = effort(index)
    while True:
        parameters = text.format(value, 2 * value)
        set_parameters(index, parameters)
        tuned_recall = recall(10, slice(1, None, 2))
        if tuned_recall >= config.target_recall or value >= most:
            break
        value = min(2 * value, most)
    return {
        "parameters": parameters or None,
        "rerank": rerank if rerank > 1 else None,
        "tuned_recall": tuned_recall,
        **{f"recall_at_{depth}": recall(depth, slice(None, None, 2)) for depth in DEPTHS},
    }


def compare(
    index: Any, stored: StoredVectors, queries: Queries, rerank: int
) -> Callable[[int, slice], float]:
    """Compare all rows with the queries, and return a function that measures recall: which share of
    the exact nearest `depth` rows (fewer where the corpus has fewer) of some of the queries the
    index finds, as its parameters are then.

    Args:
        rerank: As for `find_rows`.
    """
    on_text = stored.side == "text"
    own = queries.rows[:, None] if on_text else np.full((len(queries.rows), 1), -1)

    def others(part: slice, similarities: Vectors, rows: Rows) -> Vectors:
        """Return the similarities of rows that are not the query's own, ascending."""
        return np.sort(np.where(rows == own[part], -np.inf, similarities), axis=1)

    # One hit more: on the text side the query's own row is taken out again.
    exact = others(slice(None), *exact_hits(stored, queries.vectors, max(DEPTHS) + 1))

    def recall(depth: int, part: slice) -> float:
        asked, depth = queries.vectors[part], min(depth, stored.rows - on_text)
        if not depth or not len(asked):
            return 1.0
        found = others(part, *find_rows(index, asked, depth + 1, rerank, stored))[:, -depth:]
        return round(float((found >= exact[part, [-depth]] - _EQUAL).mean()), 4)

    return recall


def effort(index: Any) -> tuple[str, int, int]:
    """Return the parameters that say how many cells or graph nodes a search looks at, with a place
    for this number and one for twice as much, and the least and the most that is tried; empty if
    the search is exact.
    """
    import faiss

    if (lists := inverted_lists(index)) is not None:
        # A graph over the cells must be searched at least as widely as cells are wanted.
        is_graph = hasattr(faiss.downcast_index(lists.quantizer), "hnsw")
        return "nprobe={0}" + ",quantizer_efSearch={1}" * is_graph, 1, int(lists.nlist)
    return ("efSearch={0}", *GRAPH_BREADTH) if hasattr(innermost(index), "hnsw") else ("", 1, 1)

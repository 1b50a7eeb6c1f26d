"""Building the index of a side: training, adding, tuning, measuring.

Does not belong here: which key is built (`indexing.keys`), recall (`indexing.recall`).

FAISS is used directly. autofaiss, which clip-retrieval uses, refuses PQ and SQ keys for inner
products, tunes for a query time whatever the recall, and trains polysemous codes that nothing here
searches with.

With a GPU torch trains the centroids (`indexing.cells`). Cells are filled in main memory, so an
index may be larger than the card. Not run on a GPU yet.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from react_pipeline.embedding import Side, Vectors
from react_pipeline.indexing.cells import train_centroids
from react_pipeline.indexing.files import (
    inverted_lists,
    search_parameters,
    set_parameters,
    write_index,
)
from react_pipeline.indexing.keys import Key, memory_budget
from react_pipeline.indexing.recall import Neighbours, Queries, tune
from react_pipeline.indexing.vectors import StoredVectors
from react_pipeline.settings import IndexConfig
from react_pipeline.stage import encoder_in
from react_pipeline.store import Artifact, InputError

GRAPH_BREADTH = (16, 4_096)
"""efSearch, where tuning starts and stops."""
TRAINING_SEED = 1
ROTATION_ROUNDS, ROTATION_ROWS = 12, 20_000
"""Training of a rotation (OPQ). FAISS' own 50 rounds on 65,536 rows take over ten minutes a core at
D = 512.
"""

Measured = dict[str, Any]
"""What the counts record of one side: `key`, `parameters`, `rerank`, `tuned_recall` (recall@10 of
the queries that were tuned with), `recall_at_10` and `recall_at_100` (of the others), `seconds`."""


def build_side(
    config: IndexConfig,
    key: str,
    embeddings: Artifact,
    side: Side,
    path: Path,
    queries: Queries,
    device: str = "cpu",
) -> Measured:
    """Write the index of one side, and return what the counts record of it.

    Memory holds the index, the training sample and one chunk of vectors.
    """
    import faiss

    started = time.perf_counter()
    stored = StoredVectors(embeddings, side)
    parsed = Key.parse(key)
    sample = training_rows(parsed, config, stored.dimension)
    neighbours = Neighbours(stored, queries)
    index = faiss.index_factory(stored.dimension, key, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        train(index, parsed, stored.sample(sample, TRAINING_SEED)[1], config.train_on or device)
    for _, vectors in stored.chunks():
        index.add(vectors)
    measured = tune_and_measure(index, config, neighbours, parsed.rerank)
    write_index(index, path)
    return {**measured, "key": key, "seconds": time.perf_counter() - started}


def training_rows(key: Key, config: IndexConfig, dimension: int) -> int:
    """Return how many rows an index is trained on, at most.

    Raises:
        InputError: If they are too few for the key.
    """
    # A quarter of the budget at most: the sample is in memory together with the index.
    affordable = memory_budget(config) // 4 // (4 * dimension)
    rows = config.training_rows or min(key.sample_rows, affordable)
    if rows < key.rows_to_train:
        raise InputError(
            f"index.training_rows: {rows:,} rows are too few to train {key.text}, which needs "
            f"{key.rows_to_train:,}; raise index.training_rows or index.memory_gib, or take fewer "
            "cells"
        )
    return rows


def train(index: Any, key: Key, sample: Vectors, device: str) -> None:
    """Train an index on rows (N, D); its centroids on a device of `train_centroids`."""
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
        if device != "cpu":
            # FAISS trains no centroids where there are as many as cells.
            lists.quantizer.add(train_centroids(rotated, lists.nlist, device))
    index.train(sample)


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
    values = (1, 1)
    if search_parameters(index, 1):
        lists = inverted_lists(index)
        values = GRAPH_BREADTH if lists is None else (1, int(lists.nlist))

    def measure(value: int) -> float:
        set_parameters(index, search_parameters(index, value))
        return neighbours.recall(index, 10, rerank, slice(1, None, 2))

    value, recall = tune(measure, config.target_recall, *values)
    parameters = search_parameters(index, value)
    set_parameters(index, parameters)
    held_out = slice(None, None, 2)
    return {
        "parameters": parameters,
        "rerank": rerank,
        "tuned_recall": recall,
        "recall_at_10": neighbours.recall(index, 10, rerank, held_out),
        "recall_at_100": neighbours.recall(index, 100, rerank, held_out),
    }


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

"""Building the index of each side: training, adding, tuning, measuring.

Does not belong here: which key is built (`indexing.keys`), recall (`indexing.recall`).

FAISS is used directly. autofaiss, which clip-retrieval uses, refuses PQ and SQ keys for inner
products, tunes for a query time whatever the recall, and trains polysemous codes that nothing here
searches with.

With a GPU torch trains the centroids and finds the cell of each row (`indexing.cells`). The card
holds nothing but the centroids, 4 D bytes a cell, and a part of a chunk. Codes are made and kept in
main memory, so an index may be larger than the card. Not run on a GPU yet.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from react_pipeline.embedding import Side
from react_pipeline.embedding import sides as embedded_sides
from react_pipeline.indexing.cells import nearest_cells, train_centroids
from react_pipeline.indexing.files import (
    inverted_lists,
    rotated,
    search_parameters,
    set_parameters,
    write_index,
)
from react_pipeline.indexing.keys import RERANK_LIMIT, Key, choose_key, memory_budget
from react_pipeline.indexing.recall import Neighbours, Queries, draw_queries, tune
from react_pipeline.indexing.vectors import StoredVectors
from react_pipeline.settings import IndexConfig
from react_pipeline.stage import encoder_in
from react_pipeline.store import Artifact, InputError, Scratch

GRAPH_BREADTH = (16, 4_096)
"""efSearch, where tuning starts and stops."""
TRAINING_SEED = 1
ROTATION_ROUNDS, ROTATION_ROWS = 12, 20_000
"""Training of a rotation (OPQ). FAISS' own 50 rounds on 65,536 rows take over ten minutes a core at
D = 512.
"""


@dataclass
class Built:
    """One side: what the counts record of it."""

    key: str
    parameters: str = ""
    rerank: int = 1
    tuned_recall: float = 1.0
    """Recall@10 of the queries that were tuned with; the recorded figures are of the others."""
    recall_at_10: float = 0.0
    recall_at_100: float = 0.0
    seconds: float = 0.0
    note: str = ""
    """A remark for people, such as a target that was not reached."""


def build_indices(
    config: IndexConfig, embeddings: Artifact, staging: Path, scratch: Scratch, *, device: str
) -> dict[str, Any]:
    """Write `image.index` and `text.index`, as far as there are vectors, and return the counts.

    A side that a killed build had finished is kept.

    Raises:
        InputError: If a vector cannot be ranked, or the key fits neither the vectors nor the
            machine.
    """
    rows = int(embeddings.counts["rows"])
    dimension = int(embeddings.counts["dimension"])
    key, reason = choose_key(config, rows, dimension)
    queries = draw_queries(embeddings, 2 * config.recall_queries)
    sides: dict[Side, Built] = {}
    for side in embedded_sides(embeddings):

        def write(folder: Path, side: Side = side) -> dict[str, Any]:
            path = folder / f"{side}.index"
            built = build_side(config, key, embeddings, side, path, queries, device)
            return asdict(built)

        sides[side] = Built(**scratch.build(f"{side}-{key}", staging, write))
    return index_counts(embeddings, config, sides, reason, queries, staging)


def build_side(
    config: IndexConfig,
    key: str,
    embeddings: Artifact,
    side: Side,
    path: Path,
    queries: Queries,
    device: str = "cpu",
) -> Built:
    """Write the index of one side.

    Memory holds the index, the training sample and one chunk of vectors.
    """
    import faiss

    started = time.perf_counter()
    stored = StoredVectors(embeddings, side)
    parsed = Key.parse(key)
    sample = training_rows(parsed, config, stored.dimension)
    neighbours = Neighbours(stored, queries)
    built = Built(key)
    index = faiss.index_factory(stored.dimension, key, faiss.METRIC_INNER_PRODUCT)
    train(index, parsed, stored, sample, config.train_on or device)
    add_rows(index, stored, device)
    tune_and_measure(index, config, neighbours, built, parsed.rerank)
    write_index(index, path)
    built.seconds = round(time.perf_counter() - started, 2)
    return built


def training_rows(key: Key, config: IndexConfig, dimension: int) -> int:
    """How many rows an index is trained on, at most.

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


def train(index: Any, key: Key, stored: StoredVectors, rows: int, device: str) -> None:
    """Train an index on random rows; its centroids on a device of `train_centroids`."""
    import faiss

    if index.is_trained:
        return
    lists = inverted_lists(index)
    sample = stored.sample(rows, TRAINING_SEED)[1]
    if key.rotation:
        rotation = faiss.downcast_VectorTransform(index.chain.at(0))
        rotation.niter = ROTATION_ROUNDS
        rotation.max_train_points = ROTATION_ROWS
        rotation.train(sample)
    if lists is not None:
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
            lists.quantizer.add(train_centroids(rotated(index, sample), lists.nlist, device))
    index.train(sample)


def add_rows(index: Any, stored: StoredVectors, device: str) -> None:
    """Add all rows to a trained index in main memory; a GPU finds their cells."""
    lists = inverted_lists(index)
    if lists is None or device == "cpu":
        for _, vectors in stored.chunks():
            index.add(vectors)
        return
    import faiss
    import torch

    centroids = torch.from_numpy(lists.quantizer.reconstruct_n(0, lists.nlist)).to(device)
    for _, vectors in stored.chunks():
        vectors = rotated(index, vectors)
        nearest = nearest_cells(torch.from_numpy(vectors), centroids).numpy()
        lists.add_core(len(vectors), faiss.swig_ptr(vectors), None, faiss.swig_ptr(nearest))
        index.ntotal = lists.ntotal


def tune_and_measure(
    index: Any, config: IndexConfig, neighbours: Neighbours, built: Built, rerank: int
) -> None:
    """Set the parameters that reach the target on the odd queries, and measure recall on the even
    ones.

    Args:
        rerank: Where tuning starts, unless the configuration fixes it; 1: the index holds whole
            vectors.
    """
    lists = inverted_lists(index)
    tunable = bool(search_parameters(index, 1))

    def measure(value: int, rerank: int) -> float:
        set_parameters(index, search_parameters(index, value))
        return neighbours.recall(index, 10, rerank, slice(1, None, 2))

    if tunable or rerank > 1:
        values = GRAPH_BREADTH if tunable else (1, 1)
        if lists is not None:
            values = (1, int(lists.nlist))
        most = RERANK_LIMIT if rerank > 1 else 1
        reranks = (config.rerank or rerank, config.rerank or most)
        tuned = tune(measure, config.target_recall, value=values, rerank=reranks)
        built.parameters = search_parameters(index, tuned.value)
        built.rerank = tuned.rerank
        built.tuned_recall = tuned.recall
        set_parameters(index, built.parameters)
        if tuned.recall < config.target_recall:
            built.note = (
                f"recall@10 is {tuned.recall:.3f} at most with this key, target_recall "
                f"{config.target_recall} is not reached"
            )
    held_out = slice(None, None, 2)
    built.recall_at_10 = neighbours.recall(index, 10, built.rerank, held_out)
    built.recall_at_100 = neighbours.recall(index, 100, built.rerank, held_out)


def index_counts(
    embeddings: Artifact,
    config: IndexConfig,
    sides: dict[Side, Built],
    reason: str,
    queries: Queries,
    staging: Path,
) -> dict[str, Any]:
    """The counts of the manifest, for both sides."""
    first = next(iter(sides.values()))
    notes = [f"{side}: {built.note}" for side, built in sides.items() if built.note]
    return {
        "rows": int(embeddings.counts["rows"]),
        "dimension": int(embeddings.counts["dimension"]),
        "encoder": embeddings.parents[encoder_in(embeddings.parents)],
        "key": first.key,
        "exact": all(built.key == "Flat" for built in sides.values()),
        "reason": "; ".join([reason, *notes]),
        "parameters": {side: built.parameters for side, built in sides.items() if built.parameters},
        "rerank": {side: built.rerank for side, built in sides.items() if built.rerank > 1},
        **{
            name: {side: getattr(built, name) for side, built in sides.items()}
            for name in ("tuned_recall", "recall_at_10", "recall_at_100")
        },
        "recall_queries": len(queries.rows[::2]),
        "target_recall": config.target_recall,
        "seconds": round(sum(built.seconds for built in sides.values()), 2),
        "bytes": sum((staging / f"{side}.index").stat().st_size for side in sides),
    }

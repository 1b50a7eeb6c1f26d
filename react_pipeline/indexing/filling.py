"""Training an index and filling it with rows: here, or with a GPU. Shapes: N rows, D width.

With a GPU torch trains the centroids and finds the cell of each row (`indexing.cells`). The card
holds nothing but the centroids, 4 D bytes a cell, and a part of a chunk. Codes are made and kept in
main memory, so an index may be larger than the card. Not run on a GPU yet.
"""

from __future__ import annotations

from typing import Any

from react_pipeline.indexing.cells import nearest_cells, train_centroids
from react_pipeline.indexing.files import inverted_lists, rotated
from react_pipeline.indexing.keys import Key, memory_budget
from react_pipeline.indexing.vectors import StoredVectors
from react_pipeline.settings import IndexConfig
from react_pipeline.store import InputError

TRAINING_SEED = 1
ROTATION_ROUNDS, ROTATION_ROWS = 12, 20_000
"""Training of a rotation (OPQ). FAISS' own 50 rounds on 65,536 rows take over ten minutes a core at
D = 512.
"""


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

"""A number for each of many rows of the corpus, computed of their image vectors: here or on a
cluster.

Does not belong here: what is computed (`candidates`, `decontamination`). Shapes: N rows, D width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from react_pipeline.embedding import Rows, Vectors, vectors_of
from react_pipeline.project import spread
from react_pipeline.settings import DistributorConfig
from react_pipeline.store import Artifact

_CHUNK_ROWS, _TASK_ROWS = 8_192, 1_000_000

Compute = Callable[[Vectors, NDArray[Any]], Vectors]
"""Maps vectors (n, D) and per-row side data (n,) to one value per row (n,)."""


def values_of_rows(
    embeddings: Artifact,
    rows: Rows,
    compute: Compute,
    beside: NDArray[Any] | None = None,
    distributor: DistributorConfig | None = None,
) -> Vectors:
    """The number of each row (N,).

    Args:
        embeddings: The vectors of the corpus.
        rows: Their numbers (N,), in any order, also repeated.
        compute: Computes the numbers of some rows.
        beside: Per-row side data (N,) for `compute`; None: the row numbers.
        distributor: Where it runs; None: here.
    """
    # In the order of the corpus, so that a chunk reads neighbouring pages of the vectors.
    order = np.argsort(rows, kind="stable")
    parts = [order[start : start + _TASK_ROWS] for start in range(0, len(order), _TASK_ROWS)]
    extra = rows if beside is None else beside
    items = [(rows[part], extra[part]) for part in parts]
    task = partial(_compute_rows, embeddings, compute)
    results = spread(task, items, distributor or DistributorConfig(), "comparing chosen rows")
    values = np.empty(len(rows), np.float32)
    for part, numbers in zip(parts, results, strict=True):
        values[part] = numbers
    return values


def _compute_rows(
    embeddings: Artifact, compute: Compute, item: tuple[Rows, NDArray[Any]]
) -> Vectors:
    rows, beside = item
    values = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        values[part] = compute(vectors_of(embeddings, "image", rows[part]), beside[part])
    return values

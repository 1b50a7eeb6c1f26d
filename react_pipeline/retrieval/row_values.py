"""A number for each of many rows of the corpus, computed of their vectors: here or on a cluster.

Does not belong here: what is computed (`candidates`, `decontamination`). Shapes: N rows, D width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.embedding import Rows, Side, Vectors, vectors_of
from react_pipeline.project import spread
from react_pipeline.store import Artifact

_CHUNK_ROWS, _TASK_ROWS = 8_192, 1_000_000

Compute = Callable[[Vectors, NDArray[Any]], Vectors]
"""Maps vectors (n, D) and per-row side data (n,) to one value per row (n,)."""


def values_of_rows(
    embeddings: Artifact,
    rows: Rows,
    compute: Compute,
    beside: NDArray[Any] | None = None,
    side: Side = "image",
) -> Vectors:
    """The number of each row (N,).

    Args:
        embeddings: The vectors of the corpus.
        rows: Their numbers (N,), in any order, also repeated.
        compute: Computes the numbers of some rows.
        beside: Per-row side data (N,) for `compute`; None: the row numbers.
        side: Whose vectors.
    """
    # In the order of the corpus, so that a chunk reads neighbouring pages of the vectors.
    order = np.argsort(rows, kind="stable")
    parts = [order[start : start + _TASK_ROWS] for start in range(0, len(order), _TASK_ROWS)]
    extra = rows if beside is None else beside
    items = [(rows[part], extra[part]) for part in parts]
    task = partial(_compute_rows, embeddings, compute, side)
    results = spread(task, items, "comparing chosen rows")
    values = np.empty(len(rows), np.float32)
    for part, numbers in zip(parts, results, strict=True):
        values[part] = numbers
    return values


def _compute_rows(
    embeddings: Artifact, compute: Compute, side: Side, item: tuple[Rows, NDArray[Any]]
) -> Vectors:
    rows, beside = item
    values = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        values[part] = compute(vectors_of(embeddings, side, rows[part]), beside[part])
    return values


def mean_vectors(class_ids: pd.Series, vectors: Vectors) -> dict[int, Vectors]:
    """The unit mean (D,) of each class's vectors."""
    means = {}
    for class_id in class_ids.unique():
        mean = vectors[(class_ids == class_id).to_numpy()].mean(axis=0)
        means[int(class_id)] = mean / np.linalg.norm(mean)
    return means


def likeness(
    embeddings: Artifact,
    candidates: pd.DataFrame,
    means: dict[int, Vectors],
    side: Side = "image",
) -> Vectors:
    """Cosine of each candidate's image, or caption, with the mean vector of its class, (N,)."""
    table = np.stack(list(means.values()))
    position = pd.Series(range(len(means)), index=list(means))[candidates["class_id"]].to_numpy()

    def cosines(images: Vectors, class_positions: NDArray[Any]) -> Vectors:
        products: Vectors = np.einsum("nd,nd->n", images, table[class_positions])
        return products

    rows = candidates["row"].to_numpy()
    return values_of_rows(embeddings, rows, cosines, position, side)

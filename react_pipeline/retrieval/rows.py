"""Rows of the corpus that were found: their metadata, and how like their class they are.

Does not belong here: the fields that `where` names (`row_filter`). Shapes: N rows, D width.
"""

import numpy as np
import pandas as pd

from react_pipeline.embedding import Side, Vectors, row_metadata, vectors_of
from react_pipeline.store import Artifact, Scratch

CANDIDATE_ROWS = "rows.parquet"
"""File of a scratch, with metadata that were read before."""

_CHUNK_ROWS = 8_192


def candidate_metadata(
    embeddings: Artifact, rows: pd.Series, columns: list[str], scratch: Scratch
) -> pd.DataFrame:
    """Read metadata as `row_metadata` does; what is in `scratch` already is not read again."""
    path = scratch.folder / CANDIDATE_ROWS
    if path.exists():
        kept = pd.read_parquet(path)
        if {*columns} <= {*kept} and rows.isin(kept.index).all():
            return kept[columns].loc[rows.to_numpy()]
    return row_metadata(embeddings, rows, columns)


def mean_vectors(class_ids: pd.Series, vectors: Vectors) -> dict[int, Vectors]:
    """Return the unit mean (D,) of each class's vectors."""
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
    """Return the cosine of each candidate's image, or caption, with the mean vector of its class,
    (N,).
    """
    table = np.stack(list(means.values()))
    places = pd.Series(range(len(means)), index=list(means))
    cosines = np.empty(len(candidates), np.float32)
    # In the order of the corpus, so that a chunk reads neighbouring pages of the vectors.
    order = np.argsort(candidates["row"].to_numpy(), kind="stable")
    for start in range(0, len(order), _CHUNK_ROWS):
        part = order[start : start + _CHUNK_ROWS]
        some = candidates.iloc[part]
        vectors = vectors_of(embeddings, side, some["row"])
        cosines[part] = np.einsum("nd,nd->n", vectors, table[places[some["class_id"]]])
    return cosines

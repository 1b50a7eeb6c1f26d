"""Fusion: the hits of all prompts and modes become one list of candidates, the best first.

Does not belong here: searching (`queries`), what is dropped later on (`ranking`). Shapes: N rows, D
width.

Similarities of T2T, T2I and I2I are on different scales and are never compared with one another.
`preference` goes by the order of the modes, `filter` by one likeness for all pairs, whichever mode
found them.
"""

import numpy as np
import pandas as pd

from react_pipeline.embedding import Side, StoredVectors, Vectors
from react_pipeline.settings import RetrievalConfig
from react_pipeline.store import Artifact

_CHUNK_ROWS = 8_192


def fuse(hits: pd.DataFrame, settings: RetrievalConfig) -> pd.DataFrame:
    """Return the best hit of each class and row, the best of all first.

    A hit above its mode's floor goes before one below it, then the modes' order decides (with
    `rank: prompts` the rank first), then similarity, then rank, then the order of classes and rows,
    so that the order of equal hits is always the same.

    Args:
        hits: Columns query, class_id, mode, row, similarity, rank, and any others.
        settings: Gives the modes, their floors, and the fusion.

    Returns:
        The same columns, with `dropped` ("" or `below_similarity`) and `score` (NaN).
    """
    floors = {mode: settings.min_similarity.get(mode, -np.inf) for mode in settings.modes}
    below = hits["similarity"] < hits["mode"].map(floors).astype("float32")
    dropped = pd.Series("", hits.index, object).mask(below, "below_similarity")
    best = _sorted(hits.assign(dropped=dropped, score=np.nan), settings)
    return best.drop_duplicates(["class_id", "row"], ignore_index=True)


def apply_filter(
    candidates: pd.DataFrame, likeness: Vectors, settings: RetrievalConfig
) -> pd.DataFrame:
    """Return the candidates by how like each one's image is to its class, or with
    `fusion: preference` as they are; those under the floor are dropped.

    Args:
        candidates: From `fuse`.
        likeness: Cosine of each candidate's image with its class, (N,).
        settings: Gives the floor.

    Returns:
        The same columns; in the new order, `score` is the likeness.
    """
    fails = (candidates["dropped"] == "") & (likeness < settings.min_similarity.get("filter", -1))
    filtered = candidates.assign(dropped=candidates["dropped"].mask(fails, "below_filter"))
    if settings.fusion == "preference":
        return filtered
    return _sorted(filtered.assign(score=likeness), settings).reset_index(drop=True)


def _sorted(hits: pd.DataFrame, settings: RetrievalConfig) -> pd.DataFrame:
    """Return hits in the order of `fuse`, by `score` first.

    Pandas' sort by several columns took twice as long on 8 million hits.
    """
    places = hits["mode"].map({mode: place for place, mode in enumerate(settings.modes)})
    order = [hits["dropped"] != "", -hits["score"].fillna(0), places.astype("int8")]
    if settings.rank == "prompts":
        order.insert(2, hits["rank"])
    order += [-hits["similarity"], hits["rank"], hits["class_id"], hits["row"], hits["query"]]
    return hits.iloc[np.lexsort([column.to_numpy() for column in reversed(order)])]


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
    cosines, stored = np.empty(len(candidates), np.float32), StoredVectors(embeddings, side)
    # In the order of the corpus, so that a chunk reads neighbouring pages of the vectors.
    order = np.argsort(candidates["row"].to_numpy(), kind="stable")
    for start in range(0, len(order), _CHUNK_ROWS):
        part = order[start : start + _CHUNK_ROWS]
        some = candidates.iloc[part]
        of_class = np.stack([means[class_id] for class_id in some["class_id"]])
        cosines[part] = np.einsum("nd,nd->n", stored.take(some["row"]), of_class)
    return cosines

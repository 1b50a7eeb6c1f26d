"""Fusion: the hits of all prompts and modes become one list of candidates, the best first.

Does not belong here: searching (`candidates`), what is dropped later on (`ranking`).

Similarities of T2T, T2I and I2I are on different scales and are never compared with one another.
`preference` goes by the order of the modes, `filter` by one likeness for all pairs, whichever mode
found them.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.settings import RetrievalConfig


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
    dropped = np.array(["", "below_similarity"], object)[below.astype("int8")]
    best = hits.assign(dropped=dropped, score=np.nan)
    best = best.iloc[np.lexsort((*_keys(hits, settings), below.to_numpy()))]
    return best[~best[["class_id", "row"]].duplicated()].reset_index(drop=True)


def apply_filter(
    candidates: pd.DataFrame, likeness: NDArray[np.float32], settings: RetrievalConfig
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
    floor = settings.min_similarity.get("filter", -np.inf)
    fails = (candidates["dropped"] == "") & (likeness < floor)
    filtered = candidates.assign(dropped=candidates["dropped"].mask(fails, "below_filter"))
    if settings.fusion == "preference":
        return filtered
    filtered["score"] = likeness
    is_dropped = (filtered["dropped"] != "").to_numpy()
    order = np.lexsort((*_keys(filtered, settings), -likeness, is_dropped))
    return filtered.iloc[order].reset_index(drop=True)


def _keys(hits: pd.DataFrame, settings: RetrievalConfig) -> list[NDArray[Any]]:
    """Return the order of hits that are equal otherwise, as keys of `np.lexsort`, the last one
    first.

    Pandas' sort by several columns took twice as long on 8 million hits.
    """
    places = {mode: place for place, mode in enumerate(settings.modes)}
    columns = [
        hits["query"],
        hits["row"],
        hits["class_id"],
        hits["rank"],
        -hits["similarity"],
        hits["mode"].map(places).astype("int8"),
    ]
    if settings.rank == "prompts":
        columns.append(hits["rank"])
    return [column.to_numpy() for column in columns]

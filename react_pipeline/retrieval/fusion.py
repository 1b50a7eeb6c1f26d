"""Fusion: the hits of all prompts and modes become one list of candidates, the best first.

Does not belong here: searching (`candidates`), what is dropped later on (`ranking`).

Similarities of T2T, T2I and I2I are on different scales and are never compared with one another.
`preference` goes by the order of the modes, `rrf` by ranks (reciprocal rank fusion, Cormack et al.
2009: a pair scores 1 / (60 + rank) in each mode that finds it), `filter` by one likeness for all
pairs, whichever mode found them.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.settings import RetrievalConfig

RRF_CONSTANT = 60


def best_hits(hits: pd.DataFrame, settings: RetrievalConfig) -> pd.DataFrame:
    """The best hit of each class and row, the best of all first.

    A hit above its mode's floor goes before one below it, then the modes' order decides, then
    similarity, then rank, then the order of classes and rows, so that the order of equal hits is
    always the same. With `rrf` the score decides before all these but the floor.

    Args:
        hits: Columns query, class_id, mode, row, similarity, rank, and any others.
        settings: Gives the modes, their floors, and the fusion.

    Returns:
        The same columns, with `dropped` ("" or `below_similarity`) and `score` (NaN where the
        fusion has none, or has
        none yet).
    """
    below = _is_below_floor(hits, settings)
    dropped = np.array(["", "below_similarity"], object)[below.astype("int8")]
    best = hits.assign(dropped=dropped, score=np.nan).iloc[np.lexsort(_keys(hits, below, settings))]
    best = best[~best[["class_id", "row"]].duplicated()].reset_index(drop=True)
    if settings.fusion == "rrf":
        best["score"] = _reciprocal_ranks(hits[~below], best)
        best = in_order(best, settings)
    return best


def apply_filter(
    candidates: pd.DataFrame, likeness: NDArray[np.float32], settings: RetrievalConfig
) -> pd.DataFrame:
    """The candidates by how like each one's image is to its class; those under the floor are
    dropped.

    Args:
        candidates: Of `best_hits`.
        likeness: Cosine of each candidate's image with its class, (N,).
        settings: Gives the floor.

    Returns:
        The same columns in the new order; `score` is the likeness.
    """
    floor = settings.min_similarity.get("filter", -np.inf)
    fails = (candidates["dropped"] == "") & (likeness < floor)
    filtered = candidates.assign(
        score=likeness, dropped=candidates["dropped"].mask(fails, "below_filter")
    )
    return in_order(filtered, settings)


def in_order(candidates: pd.DataFrame, settings: RetrievalConfig) -> pd.DataFrame:
    """Candidates of several calls of `best_hits`, put into one order."""
    order = np.lexsort(
        _keys(candidates, candidates["dropped"] != "", settings, candidates["score"])
    )
    return candidates.iloc[order].reset_index(drop=True)


def _keys(
    hits: pd.DataFrame, below: pd.Series, settings: RetrievalConfig, score: pd.Series | None = None
) -> tuple[Any, ...]:
    preference = (
        hits["mode"]
        .map({name: position for position, name in enumerate(settings.modes)})
        .astype("int8")
    )
    # numpy's sort takes its last key first; pandas' sort by several columns took twice as long on 8
    # million hits.
    keys = [
        hits["query"],
        hits["row"],
        hits["class_id"],
        hits["rank"],
        -hits["similarity"],
        preference,
    ]
    if score is not None and settings.fusion != "preference":
        keys.append(-score)
    return tuple(key.to_numpy() for key in [*keys, below])


def _is_below_floor(hits: pd.DataFrame, settings: RetrievalConfig) -> pd.Series:
    floors = {name: settings.min_similarity.get(name, -np.inf) for name in settings.modes}
    return hits["similarity"] < hits["mode"].map(floors).astype("float32")


def _reciprocal_ranks(hits: pd.DataFrame, best: pd.DataFrame) -> NDArray[np.float64]:
    """The sum over modes of 1 / (60 + rank), for each of `best`; a class's pairs of one mode rank
    by similarity.
    """
    keys = [hits["query"], hits["row"], hits["rank"], -hits["similarity"], hits["class_id"]]
    ordered = hits.iloc[np.lexsort(tuple(key.to_numpy() for key in keys))]
    first = ordered[~ordered[["class_id", "mode", "row"]].duplicated()]
    rank = 1 + first.groupby(["class_id", "mode"], sort=False, observed=True).cumcount()
    score = (1 / (RRF_CONSTANT + rank)).groupby([first["class_id"], first["row"]]).sum()
    wanted = pd.MultiIndex.from_frame(best[["class_id", "row"]])
    return np.asarray(score.reindex(wanted, fill_value=0.0), np.float64)

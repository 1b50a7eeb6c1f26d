"""Ranking: from the hits of all prompts to one list of candidates, each kept or dropped for one reason.

Belongs here: pure functions on tables of hits: the order, the drops, the cap, the report per class. Does not belong
here: searching, reading or writing anything (`retrieve`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from react_pipeline.config import DomainConfig, RetrievalConfig
from react_pipeline.duplicates import EvaluationImages, repeats

DROP_REASONS = (
    "below_similarity",
    "several_classes",
    "evaluation_image_hash",
    "evaluation_image_near",
    "exact_duplicate",
    "cap",
)
"""Why a candidate is not kept, in the order in which it is tried; each candidate is counted under one reason."""


def best_hits(hits: pd.DataFrame, settings: RetrievalConfig) -> pd.DataFrame:
    """The best hit of each class and row, the best of all first.

    A hit above its mode's floor goes before one below it, then the modes' order decides, then similarity, then rank,
    then the order of classes and rows, so that equal hits are always told apart in the same way.

    Args:
        hits: Columns query, class_id, mode, row, similarity, rank, and any others.
        settings: Gives the modes and their floors.

    Returns:
        The same columns, with `dropped` ("" or `below_similarity`).
    """
    mode = hits["mode"]
    below = hits["similarity"] < mode.map({name: settings.min_similarity.get(name, -np.inf) for name in settings.modes})
    preference = mode.map({name: position for position, name in enumerate(settings.modes)})
    # numpy's sort takes its last key first; pandas' sort by several columns took twice as long on 8 million hits.
    keys = [hits["query"], hits["row"], hits["class_id"], hits["rank"], -hits["similarity"], preference, below]
    order = np.lexsort([key.to_numpy() for key in keys])
    best = hits.assign(dropped=np.where(below, "below_similarity", "")).iloc[order]
    return best[~best[["class_id", "row"]].duplicated()].reset_index(drop=True)


def mark_drops(candidates: pd.DataFrame, evaluation: EvaluationImages, settings: RetrievalConfig) -> None:
    """Fill `dropped` of the candidates (the best first), by the reasons of `DROP_REASONS` in their order.

    A row wanted by several classes stays with the class that holds its best hit; of equal images, whichever class or
    row they belong to, the best stays. The cap keeps the best of each class.
    """

    def drop(reason: str, wrong: pd.Series) -> None:
        candidates.loc[wrong[wrong].index, "dropped"] = reason

    def alive(column: str) -> pd.Series:
        return candidates.loc[candidates["dropped"] == "", column]

    drop("several_classes", alive("row").duplicated())
    drop("evaluation_image_hash", evaluation.holds(alive("image_sha256")))
    drop("evaluation_image_near", alive("evaluation_similarity") >= evaluation.near)
    drop("exact_duplicate", repeats(alive("image_sha256")))
    kept = alive("class_id")
    drop("cap", kept.groupby(kept).cumcount() >= settings.max_per_class)


def class_report(
    domain: DomainConfig,
    prompts: pd.DataFrame,
    hits: pd.DataFrame,
    candidates: pd.DataFrame,
    settings: RetrievalConfig,
) -> pd.DataFrame:
    """One row a class, in the domain's order: candidates = kept + the sum over `DROP_REASONS`.

    `shortfall` is how many hits fewer than k per prompt and mode the index gave (it holds fewer rows, or its search
    found no more).
    """
    classes = pd.DataFrame({"class": domain.class_names})
    size = prompts.groupby("class_id").size()
    counts = pd.crosstab(candidates["class_id"], candidates["dropped"])
    counts = counts.rename(columns={"": "kept"}).reindex(columns=["kept", *DROP_REASONS], fill_value=0)
    classes["prompts"] = size
    classes["candidates"] = candidates.groupby("class_id").size()
    classes = classes.join(counts).fillna(0)
    wanted = classes["prompts"] * settings.k_per_prompt * len(settings.modes)
    classes["shortfall"] = wanted - hits.groupby("class_id").size().reindex(classes.index, fill_value=0)
    numbers = [column for column in classes.columns if column != "class"]
    return classes.astype(dict.fromkeys(numbers, "int64"))

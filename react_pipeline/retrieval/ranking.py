"""Ranking: of a list of candidates, each one is kept or dropped for one reason.

Belongs here: pure functions on tables of candidates: the drops, near duplicates, the cap, the balance. Does not belong
here: the order of the candidates (`fusion`), what is learned of their images (`examination`), the report.

A candidate is a class and a row of the corpus; a row that several classes want is kept once, for one of them, and the
pair is told of all of them (`classes_of`).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence, Set

import numpy as np
import pandas as pd

from react_pipeline.config import RetrievalConfig
from react_pipeline.retrieval.duplicates import EvaluationImages, repeats

DROP_REASONS = (
    "below_similarity",
    "below_filter",
    "evaluation_image_hash",
    "evaluation_image_near",
    "rendered_text",
    "not_collected",
    "exact_duplicate",
    "near_duplicate",
    "cap",
    "total",
)
"""Why a row is not kept, in the order in which it is tried; each row is counted once, for the class it fits best."""

SHARED = "several_classes"
"""Stands for a candidate whose row is decided on, kept or dropped, for another class; if kept, the pair names both."""

Neighbours = Mapping[int, Sequence[int]]


def mark_drops(
    candidates: pd.DataFrame,
    evaluation: EvaluationImages,
    settings: RetrievalConfig,
    *,
    failed: Set[int] = frozenset(),
    neighbours: Neighbours | None = None,
) -> None:
    """Fill `dropped` of the candidates: "" where kept, `SHARED`, or one of `DROP_REASONS`.

    A row wanted by several classes counts for the class that holds its best hit, or with `balance: even` for the one
    that has fewest pairs; of equal images and of near duplicates, whichever class or row they belong to, the best
    stays. The cap keeps the best of each class.

    Args:
        candidates: The best first: columns class_id, row, image_sha256 ("" where it is not known yet),
            evaluation_similarity, dropped (of `fusion`; other reasons are found anew); `url` and `text_fraction` count
            where they are there.
        evaluation: What must be kept out.
        settings: Of the domain.
        failed: Rows whose image cannot be had.
        neighbours: For a row those whose image is a near duplicate of its own.
    """
    found = candidates["dropped"].isin(("below_similarity", "below_filter"))
    candidates["dropped"] = candidates["dropped"].where(found, "")
    alive = candidates[~found]
    best = alive[~alive["row"].duplicated()].set_index("row")
    reasons = _reasons_of_rows(best, evaluation, settings, failed)
    usable = alive[~alive["row"].map(reasons != "").astype(bool)]
    if settings.balance == "even":
        chosen, lost = _fewest_first(usable, settings.max_per_class, neighbours or {})
    elif neighbours:
        chosen, lost = _best_first(usable, settings.max_per_class, neighbours)
    else:
        first = usable[~usable["row"].duplicated()]
        fits = first.groupby("class_id").cumcount() < settings.max_per_class
        chosen, lost = first.index[fits], {"cap": first.loc[~fits, "row"].to_numpy()}
    if settings.max_pairs is not None and len(chosen) > settings.max_pairs:
        # The worst pairs of the largest classes go, so that what is left is as even as it can be.
        ranks = candidates.loc[chosen].groupby("class_id").cumcount().sort_values(kind="stable")
        lost["total"] = candidates.loc[ranks.index[settings.max_pairs :], "row"].to_numpy()
        chosen = ranks.index[: settings.max_pairs]
    for reason, rows in lost.items():
        reasons.loc[rows] = reason
    reasons.loc[candidates.loc[chosen, "row"]] = SHARED
    outcome = alive["row"].map(reasons).astype(object).mask(alive["row"].duplicated(), SHARED)
    outcome.loc[chosen] = ""
    candidates.loc[outcome.index, "dropped"] = outcome


def of_kept_rows(candidates: pd.DataFrame) -> pd.Series:
    """Whether each candidate's row is kept, for its own class or for another one."""
    kept = candidates.loc[candidates["dropped"] == "", "row"]
    return candidates["dropped"].isin(("", SHARED)) & candidates["row"].isin(kept)


def classes_of(candidates: pd.DataFrame, class_names: Sequence[str]) -> pd.Series:
    """For each kept row all the classes that want it, its own first, then by fit; a list of names, indexed by row."""
    wanted = candidates[of_kept_rows(candidates)]
    wanted = wanted.assign(kept=wanted["dropped"] != "").sort_values("kept", kind="stable")
    names = pd.Series(np.asarray(class_names, object)[wanted["class_id"]], index=wanted["row"].to_numpy())
    return names.groupby(level=0, sort=False).agg(list)


def _reasons_of_rows(
    best: pd.DataFrame, evaluation: EvaluationImages, settings: RetrievalConfig, failed: Set[int]
) -> pd.Series:
    """What is wrong with each row whatever else is chosen ("" if nothing): by row, the best first."""
    reasons = pd.Series("", index=best.index, dtype=object)

    def drop(reason: str, wrong: pd.Series) -> None:
        reasons[wrong & (reasons == "")] = reason

    drop("evaluation_image_hash", evaluation.holds(best["image_sha256"]))
    drop("evaluation_image_near", best["evaluation_similarity"] >= evaluation.near)
    if settings.max_text_fraction is not None and "text_fraction" in best:
        drop("rendered_text", best["text_fraction"] > settings.max_text_fraction)
    if failed:
        drop("not_collected", pd.Series(best.index.isin(list(failed)), best.index))
    for identity in [name for name in ("url", "image_sha256") if name in best]:
        known = best.loc[(reasons == "") & (best[identity] != ""), identity]
        again = repeats(known)
        drop("exact_duplicate", again.reindex(best.index, fill_value=False))
    return reasons


def _best_first(usable: pd.DataFrame, cap: int, neighbours: Neighbours) -> tuple[pd.Index, dict[str, list[int]]]:
    """Take rows in their order; a class that is full takes no more, and no near duplicate of a taken row is taken."""
    first = usable[~usable["row"].duplicated()]
    taken: set[int] = set()
    kept: dict[int, int] = {}
    chosen, lost = [], {"near_duplicate": list[int](), "cap": list[int]()}
    for position, row, class_id in zip(first.index, first["row"].tolist(), first["class_id"].tolist(), strict=True):
        if not taken.isdisjoint(neighbours.get(row, ())):
            lost["near_duplicate"].append(row)
        elif kept.get(class_id, 0) >= cap:
            lost["cap"].append(row)
        else:
            taken.add(row)
            kept[class_id] = kept.get(class_id, 0) + 1
            chosen.append(position)
    return pd.Index(chosen, dtype="int64"), lost


def _fewest_first(usable: pd.DataFrame, cap: int, neighbours: Neighbours) -> tuple[pd.Index, dict[str, list[int]]]:
    """The class with fewest pairs takes its best row that is free, again and again; equal ones in their order."""
    waiting = {
        class_id: iter(zip(of_class.index, of_class["row"].tolist(), strict=True))
        for class_id, of_class in usable.groupby("class_id", sort=True)
    }
    queue = [(0, class_id) for class_id in waiting]
    taken: set[int] = set()
    near: dict[int, None] = {}
    chosen = []
    while queue:
        kept, class_id = heapq.heappop(queue)
        for position, row in waiting[class_id]:
            if row in taken or row in near:
                continue
            if not taken.isdisjoint(neighbours.get(row, ())):
                near[row] = None
                continue
            taken.add(row)
            chosen.append(position)
            if kept + 1 < cap:
                heapq.heappush(queue, (kept + 1, class_id))
            break
    left = [row for row in usable["row"].drop_duplicates().tolist() if row not in taken and row not in near]
    return pd.Index(sorted(chosen), dtype="int64"), {"near_duplicate": list(near), "cap": left}

"""Ranking: of a list of candidates, each one is kept or dropped for one reason.

Does not belong here: the order of the candidates (`fusion`), fetching and encoding images
(`images`). Shapes: N rows, D width.

A candidate is a class and a row of the corpus; a row that several classes want is kept once, for
one of them, and the pair lists all of them (`join_classes`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from react_pipeline.embedding import Vectors
from react_pipeline.retrieval.decontamination import KeptOut
from react_pipeline.retrieval.images import REFILL_ROUNDS, Images
from react_pipeline.settings import RetrievalConfig

DROP_REASONS: Mapping[str, str] = {
    "below_similarity": "less similar to the query than `min_similarity` of its mode",
    "below_filter": "its image is less like the class than `min_similarity.filter`",
    "filtered": "`where` is not true of it",
    "evaluation_image_hash": "is an evaluation image, byte for byte",
    "evaluation_image_near": "looks like an evaluation image (`near_duplicate_similarity`)",
    "evaluation_subject": "shows the same subject as an evaluation image (`same_subject: exclude`)",
    "rejected": "a person rejected it (`DOMAIN.review.jsonl`), or it is in `takedown.txt`",
    "not_collected": "its image was not available, or was not tried any more after the last round",
    "exact_duplicate": "the same bytes (or URL) as a pair taken before",
    "near_duplicate": "looks like a better pair (`duplicate_similarity`)",
    "cap": "its class has `max_per_class` better pairs",
    "total": "given up for `max_pairs`",
}
"""Why a row is not kept; each row is counted once, for the class it fits best."""

_BEFORE_CHOICE = ("below_similarity", "below_filter", "filtered", "rejected")

SHARED = "several_classes"
"""Marks a candidate whose row is decided on, kept or dropped, for another class; if kept, the pair
names both.
"""

BLOCK_ROWS = 1_024
"""Rows whose vectors are compared at a time."""


def choose(
    candidates: pd.DataFrame,
    images: Images,
    kept_out: KeptOut,
    settings: RetrievalConfig,
    means: Mapping[int, Vectors] | None = None,
) -> None:
    """Fill `dropped` of the candidates: "" where kept, `SHARED`, or one of `DROP_REASONS`.

    A row wanted by several classes counts for the class that holds its best hit (equal ones take
    turns). Rows are taken one after the other, the best first, until each class has enough; one is
    dropped as a duplicate only if an image of its URL, of its bytes, or one that looks like it was
    taken before, for whichever class.

    Images that must be fetched are looked at in rounds: first the rows that would be taken if all
    were good, then twice, four times and so on as many as a class lacks (`REFILL_ROUNDS`).

    Args:
        candidates: The best first: columns class_id, row, similarity, image_sha256 ("" where it is
            not known yet), dropped (of `fusion`); `url` counts where it is there. Digests and
            `evaluation_similarity` of the rows that were looked at are filled in.
        means: Unit vectors (D,) by class, which images are compared with for
            `min_similarity.filter`; None where candidates were filtered before.
    """
    alive = candidates[~candidates["dropped"].isin(_BEFORE_CHOICE)]
    rows = _one_class_each(alive)
    rows = rows.assign(dropped="", seen=False, evaluation_similarity=np.float32(np.nan))
    _refuse(rows, kept_out)
    floor = settings.min_similarity.get("filter", -1.0)

    def look(index: pd.Index) -> None:
        rows.loc[index] = _look(rows.loc[index], images, kept_out, means, floor)

    if images.fetches:
        _drop(rows, "not_collected", ~images.source.fetchable(rows))
    else:
        look(rows.index[rows["dropped"] == ""])
    rounds = 0
    while True:
        still = rows[rows["dropped"] == ""]
        reasons = _take(still, images, settings)
        wanted = _wanted(still, reasons, 2**rounds)
        if wanted.empty:
            break
        if rounds <= REFILL_ROUNDS:
            look(wanted.index)
        else:  # what was not fetched by now is given up
            lacks = rows["class_id"].isin(wanted["class_id"])
            _drop(rows, "not_collected", ~rows["seen"] & lacks)
        rounds += 1
    rows.loc[still.index, "dropped"] = reasons
    # The worst of the largest classes go, so that what is left is as even as it can be.
    ranks = still[reasons == ""].groupby("class_id").cumcount().sort_values(kind="stable")
    rows.loc[ranks.index[settings.max_pairs or len(ranks) :], "dropped"] = "total"
    candidates.loc[alive.index, "dropped"] = SHARED
    _record(candidates, rows)


def _record(candidates: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Write into the candidates what became of their rows, and what their images show."""
    candidates.loc[rows.index, "dropped"] = rows["dropped"]
    shown = rows.set_index("row")
    digests = candidates["row"].map(shown["image_sha256"])
    candidates["image_sha256"] = digests.fillna(candidates["image_sha256"])
    similarity = candidates["row"].map(shown["evaluation_similarity"])
    candidates["evaluation_similarity"] = similarity.astype("float32")


def of_kept_rows(candidates: pd.DataFrame) -> pd.Series:
    """Return whether each candidate's row is kept, for its own class or for another one."""
    kept = candidates.loc[candidates["dropped"] == "", "row"]
    return candidates["dropped"].isin(("", SHARED)) & candidates["row"].isin(kept)


def join_classes(candidates: pd.DataFrame, class_names: Sequence[str]) -> pd.Series:
    """Return for each kept row all the classes that want it, its own first, then by fit; a list of
    names, indexed by row.
    """
    kept = candidates[of_kept_rows(candidates)]
    kept = kept.sort_values("dropped", kind="stable")  # "" before `SHARED`
    names = np.asarray(class_names, object)[kept["class_id"]]
    return pd.Series(names, kept["row"].to_numpy()).groupby(level=0, sort=False).agg(list)


def _one_class_each(candidates: pd.DataFrame) -> pd.DataFrame:
    """Return the best candidate of each row. Every other row that several classes want equally,
    such as classes of one name, goes to the last of them.
    """
    best = candidates.drop_duplicates("row")
    again = candidates[candidates["row"].duplicated()]
    similarity = again["row"].map(best.set_index("row")["similarity"])
    as_good = again[again["similarity"] == similarity]
    others = as_good[pd.factorize(as_good["row"])[0] % 2 == 1].drop_duplicates("row", keep="last")
    return pd.concat([best[~best["row"].isin(others["row"])], others]).sort_index()


def _drop(rows: pd.DataFrame, reason: str, wrong: Any) -> None:
    """Set the reason where there is none yet."""
    rows.loc[np.asarray(wrong, bool) & (rows["dropped"] == "").to_numpy(), "dropped"] = reason


def _refuse(rows: pd.DataFrame, kept_out: KeptOut) -> None:
    """Drop the rows that nothing else can save."""
    _drop(rows, "evaluation_image_hash", kept_out.holds(rows["image_sha256"]))
    _drop(rows, "evaluation_subject", kept_out.shows_same_subject(rows))
    _drop(rows, "rejected", kept_out.refuses(rows))


def _wanted(rows: pd.DataFrame, reasons: pd.Series, times: int) -> pd.DataFrame:
    """Return the rows to look at next: those that would be taken, or for each class the best
    `times` as many.
    """
    unseen = rows[~rows["seen"] & reasons.isin(("", "cap"))]
    lacking = unseen.loc[reasons == "", "class_id"].value_counts()
    places = unseen.groupby("class_id").cumcount()
    return unseen[places < times * unseen["class_id"].map(lacking).fillna(0)]


def _look(
    rows: pd.DataFrame,
    images: Images,
    kept_out: KeptOut,
    means: Mapping[int, Vectors] | None,
    floor: float,
) -> pd.DataFrame:
    """Return rows with what their images show, dropped where they must not be taken."""
    rows = rows.assign(seen=True)
    images.look(rows["row"].to_numpy())
    if images.fetches:
        rows["image_sha256"] = [images.sha256.get(row, "") for row in rows["row"].tolist()]
        _drop(rows, "not_collected", rows["image_sha256"] == "")
    _refuse(rows, kept_out)
    # In the order of the corpus, so that a block reads neighbouring pages of the vectors.
    there = rows[rows["dropped"] != "not_collected"].sort_values("row")
    unlike = pd.Series(False, rows.index)
    for start in range(0, len(there), BLOCK_ROWS):
        block = there.iloc[start : start + BLOCK_ROWS]
        vectors = images.vectors(block["row"].to_numpy())
        rows.loc[block.index, "evaluation_similarity"] = kept_out.similarity(vectors)
        if means is not None:
            of_class = np.stack([means[class_id] for class_id in block["class_id"]])
            unlike[block.index] = np.einsum("nd,nd->n", vectors, of_class) < floor
    _drop(rows, "evaluation_image_near", rows["evaluation_similarity"] >= kept_out.near)
    _drop(rows, "below_filter", unlike)
    return rows


def _take(rows: pd.DataFrame, images: Images, settings: RetrievalConfig) -> pd.Series:
    """Return why each row (N,) is not taken, or "": the best come first, and a row is taken as long
    as its class lacks pairs and no image like its own was taken.
    """
    near, most = settings.duplicate_similarity, settings.max_per_class
    names = [name for name in ("url", "image_sha256") if name in rows]  # "" is unknown
    used: set[tuple[str, str]] = set()
    sizes = Counter[int]()
    earlier: list[Vectors] = []
    reasons: list[str] = []
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows.iloc[start : start + BLOCK_ROWS]
        inside, is_near = np.zeros((2, len(block)), bool)
        if near <= 1:
            has_room = np.array([sizes[class_id] < most for class_id in block["class_id"]])
            vectors = images.vectors(block["row"].to_numpy())
            within = vectors @ vectors.T >= near
            for taken in earlier:
                is_near[has_room] |= (vectors[has_room] @ taken.T >= near).any(axis=1)
        columns = [block[name] for name in ("class_id", *names)]
        for number, (class_id, *values) in enumerate(zip(*columns, strict=True)):
            keys = {key for key in zip(names, values, strict=True) if key[1]}
            if keys & used:
                reasons.append("exact_duplicate")
            elif sizes[class_id] >= most:
                reasons.append("cap")
            elif near <= 1 and (is_near[number] or (within[number] & inside).any()):
                reasons.append("near_duplicate")
            else:
                used |= keys
                sizes[class_id] += 1
                inside[number] = True
                reasons.append("")
        if near <= 1:
            earlier.append(vectors[inside])
    return pd.Series(reasons, rows.index, object)

"""Ranking: of a list of candidates, each one is kept or dropped for one reason.

Does not belong here: the order of the candidates (`fusion`), fetching and encoding images
(`images`). Shapes: N rows, D width.

A candidate is a class and a row of the corpus; a row that several classes want is kept once, for
one of them, and the pair lists all of them (`classes_of`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from react_pipeline.embedding import Vectors
from react_pipeline.retrieval.decontamination import EvaluationImages
from react_pipeline.retrieval.images import REFILL_ROUNDS, Images
from react_pipeline.retrieval.review import Review
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
"""Why a row is not kept, in the order in which it is tried; each row is counted once, for the class
it fits best.

Near duplicates are the exception to the order: what is left when a class has enough is `cap` and
not looked at.
"""

_BEFORE_CHOICE = ("below_similarity", "below_filter", "filtered", "rejected")

SHARED = "several_classes"
"""Marks a candidate whose row is decided on, kept or dropped, for another class; if kept, the pair
names both.
"""

NO_REVIEW = Review()

BLOCK_ROWS = 1_024
"""Rows that are compared with those taken before, at a time."""


def choose(
    candidates: pd.DataFrame,
    images: Images,
    evaluation: EvaluationImages,
    settings: RetrievalConfig,
    *,
    review: Review = NO_REVIEW,
    means: Mapping[int, Vectors] | None = None,
) -> None:
    """Fill `dropped` of the candidates: "" where kept, `SHARED`, or one of `DROP_REASONS`.

    A row wanted by several classes counts for the class that holds its best hit (equal ones take
    turns). Rows are taken one after the other, the best first, until each class has enough; one is
    dropped as a duplicate only if an image of its URL, of its bytes, or one that looks like it was
    taken before, for whichever class.

    Only rows that would be taken are looked at, so the cost follows what is kept and not what was
    found. Each round looks at the best rows of each class that lacks pairs: as many as it lacks,
    then twice, then four times as many. After `REFILL_ROUNDS` further rounds nothing more is
    fetched.

    Args:
        candidates: The best first: columns class_id, row, similarity, image_sha256 ("" where it is
            not known yet), dropped (of `fusion`); `url` counts where it is there. Digests and
            `evaluation_similarity` of the rows that were looked at are filled in.
        evaluation: What must be kept out.
        review: What people rejected.
        means: Unit vectors (D,) by class, which images are compared with for
            `min_similarity.filter`; None where candidates were filtered before.
    """
    alive = candidates[~candidates["dropped"].isin(_BEFORE_CHOICE)]
    rows = _one_class_each(alive).assign(
        dropped="", looked=False, taken=False, evaluation_similarity=np.float32(np.nan)
    )
    _refuse(rows, evaluation, review)
    if images.fetches:
        _drop(rows, "not_collected", ~images.source.fetchable(rows))
    rounds = 0
    while len(wanted := _wanted(rows, settings.max_per_class, 2**rounds)):
        if images.fetches and rounds > REFILL_ROUNDS:
            # What was not fetched by now is given up.
            lacking = rows["class_id"].isin(rows.loc[wanted, "class_id"])
            _drop(rows, "not_collected", ~rows["looked"] & lacking)
            break
        seen = _look(rows.loc[wanted], images, evaluation, review, means)
        if means is not None:
            _drop(seen, "below_filter", seen["likeness"] < settings.min_similarity["filter"])
        rows.loc[wanted] = seen[rows.columns]
        looked = rows[rows["looked"] & (rows["dropped"] == "")]
        reasons = pd.Series(list(_take(looked, images, settings)), looked.index, object)
        rows["taken"] = (reasons == "").reindex(rows.index, fill_value=False)
        rounds += 1
    if rounds:
        rows.loc[reasons.index, "dropped"] = reasons
    is_open = ~rows["looked"] & (rows["dropped"] == "")
    rows.loc[is_open, "dropped"] = np.where(_repeats(rows[is_open], rows), "exact_duplicate", "cap")
    # The worst of the largest classes go, so that what is left is as even as it can be.
    ranks = rows[rows["taken"]].groupby("class_id").cumcount().sort_values(kind="stable")
    rows.loc[ranks.index[settings.max_pairs or len(ranks) :], "dropped"] = "total"
    _record(candidates, alive, rows)


def _record(candidates: pd.DataFrame, alive: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Write into the candidates what became of their rows. A row that is dropped counts for the
    class that it fits best.
    """
    candidates.loc[alive.index, "dropped"] = SHARED
    first = alive.drop_duplicates("row")["row"]
    reasons = first.map(rows.set_index("row")["dropped"])
    candidates.loc[first.index, "dropped"] = reasons.where(reasons != "", SHARED)
    candidates.loc[rows.index[rows["dropped"] == ""], "dropped"] = ""
    shown = rows[rows["looked"]].set_index("row")
    digests = candidates["row"].map(shown["image_sha256"])
    candidates["image_sha256"] = digests.where(digests.notna(), candidates["image_sha256"])
    similarity = candidates["row"].map(shown["evaluation_similarity"])
    candidates["evaluation_similarity"] = similarity.astype("float32")


def of_kept_rows(candidates: pd.DataFrame) -> pd.Series:
    """Return whether each candidate's row is kept, for its own class or for another one."""
    kept = candidates.loc[candidates["dropped"] == "", "row"]
    return candidates["dropped"].isin(("", SHARED)) & candidates["row"].isin(kept)


def classes_of(candidates: pd.DataFrame, class_names: Sequence[str]) -> pd.Series:
    """Return for each kept row all the classes that want it, its own first, then by fit; a list of
    names, indexed by row.
    """
    kept = candidates[of_kept_rows(candidates)]
    kept = kept.assign(kept=kept["dropped"] != "").sort_values("kept", kind="stable")
    names = pd.Series(
        np.asarray(class_names, object)[kept["class_id"]], index=kept["row"].to_numpy()
    )
    return names.groupby(level=0, sort=False).agg(list)


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


def _refuse(rows: pd.DataFrame, evaluation: EvaluationImages, review: Review) -> None:
    """Drop the rows that nothing else can save."""
    _drop(rows, "evaluation_image_hash", evaluation.holds(rows["image_sha256"]))
    _drop(rows, "evaluation_subject", evaluation.shows_same_subject(rows))
    _drop(rows, "rejected", review.refuses(rows))


def _identities(rows: pd.DataFrame) -> list[str]:
    """Return the columns by which equal images are known; "" is unknown."""
    return [name for name in ("url", "image_sha256") if name in rows]


def _repeats(some: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """Return whether the bytes or the URL of some rows were taken."""
    repeats = pd.Series(False, some.index)
    for name in _identities(rows):
        taken = rows.loc[rows["taken"], name]
        repeats |= some[name].isin(taken[taken != ""])
    return repeats


def _wanted(rows: pd.DataFrame, most: int, times: int) -> pd.Index:
    """Return the rows to look at next: for each class the best that were not looked at, `times` as
    many as it lacks.
    """
    unseen = rows[~rows["looked"] & (rows["dropped"] == "")]
    unseen = unseen[~_repeats(unseen, rows)]
    lacking = most - rows.loc[rows["taken"], "class_id"].value_counts()
    wanted = times * unseen["class_id"].map(lacking).fillna(most)
    chosen = unseen[unseen.groupby("class_id").cumcount() < wanted]
    for name in _identities(chosen):
        chosen = chosen[~chosen[name].duplicated() | (chosen[name] == "")]
    return chosen.index


def _look(
    rows: pd.DataFrame,
    images: Images,
    evaluation: EvaluationImages,
    review: Review,
    means: Mapping[int, Vectors] | None,
) -> pd.DataFrame:
    """Return rows with what their images show, dropped where they must not be taken."""
    rows = rows.assign(looked=True, likeness=np.nan)
    images.look(rows["row"].to_numpy())
    if images.fetches:
        rows["image_sha256"] = [images.sha256.get(row, "") for row in rows["row"].tolist()]
        _drop(rows, "not_collected", rows["image_sha256"] == "")
    _refuse(rows, evaluation, review)
    there = rows[rows["dropped"] != "not_collected"]
    for start in range(0, len(there), BLOCK_ROWS):
        block = there.iloc[start : start + BLOCK_ROWS]
        if (vectors := images.vectors(block["row"].to_numpy())) is None:
            break
        rows.loc[block.index, "evaluation_similarity"] = evaluation.similarity(vectors)
        if means is not None:
            of_class = np.stack([means[class_id] for class_id in block["class_id"]])
            rows.loc[block.index, "likeness"] = np.einsum("nd,nd->n", vectors, of_class)
    _drop(rows, "evaluation_image_near", rows["evaluation_similarity"] >= evaluation.near)
    return rows


def _take(rows: pd.DataFrame, images: Images, settings: RetrievalConfig) -> Iterator[str]:
    """Yield why each row is not taken, or "": the best come first, and a row is taken as long as
    its class lacks pairs and no image like its own was taken.
    """
    near, names = settings.duplicate_similarity, _identities(rows)
    used: set[tuple[str, str]] = set()
    sizes = Counter[int]()
    earlier: list[Vectors] = []
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows.iloc[start : start + BLOCK_ROWS]
        vectors = images.vectors(block["row"].to_numpy()) if near <= 1 else None
        inside, is_near = np.zeros((2, len(block)), bool)
        if vectors is not None:
            within = vectors @ vectors.T >= near
            for taken in earlier:
                is_near |= (vectors @ taken.T >= near).any(axis=1)
        columns = [block[name] for name in ("class_id", *names)]
        for number, (class_id, *values) in enumerate(zip(*columns, strict=True)):
            keys = {key for key in zip(names, values, strict=True) if key[1]}
            if keys & used:
                yield "exact_duplicate"
            elif sizes[class_id] >= settings.max_per_class:
                yield "cap"
            elif vectors is not None and (is_near[number] or (within[number] & inside).any()):
                yield "near_duplicate"
            else:
                used |= keys
                sizes[class_id] += 1
                inside[number] = True
                yield ""
        if vectors is not None:
            earlier.append(vectors[inside])

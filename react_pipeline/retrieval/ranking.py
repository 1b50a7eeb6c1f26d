"""Ranking: of a list of candidates, each one is kept or dropped for one reason.

Does not belong here: the order of the candidates (`fusion`), fetching and encoding images
(`images`). Shapes: N rows, D width.

A candidate is a class and a row of the corpus; a row that several classes want is kept once, for
one of them, and the pair lists all of them (`classes_of`).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
_OF_CHOICE = ("exact_duplicate", "near_duplicate", "cap")

SHARED = "several_classes"
"""Marks a candidate whose row is decided on, kept or dropped, for another class; if kept, the pair
names both.
"""

_OUTCOMES = ("", *DROP_REASONS, SHARED)
_CODES_OF_CHOICE = [_OUTCOMES.index(reason) for reason in _OF_CHOICE]
_LOOKED_AT = ("similarity", "image_sha256", "url", "subject")

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
    alive = ~candidates["dropped"].isin(_BEFORE_CHOICE).to_numpy()
    looked_at = ["class_id", "row", *(name for name in _LOOKED_AT if name in candidates)]
    table = candidates.loc[alive, looked_at]
    # Rows by number, the best first; what becomes of each is a position in `_OUTCOMES`.
    number, _ = pd.factorize(table["row"])
    again = table["row"].duplicated().to_numpy()
    best = table[~again]
    outcomes = np.zeros(len(best), np.int8)
    _refuse(outcomes, best, evaluation, review)
    if images.fetches:
        _drop(outcomes, "not_collected", ~images.source.fetchable(best))
    usable = table[outcomes[number] == 0]
    first = usable[~usable["row"].duplicated()]
    as_good = again & (table["similarity"].to_numpy() == best["similarity"].to_numpy()[number])
    if as_good.any():
        first = _in_turns(first, table[as_good])
    choice = _Choice(first, images, settings, evaluation, review, means)
    choice.run()
    chosen = choice.chosen()
    numbers = pd.Index(best["row"])
    outcomes[numbers.get_indexer(first["row"])] = choice.outcomes
    outcomes[numbers.get_indexer(table.loc[chosen, "row"])] = _OUTCOMES.index(SHARED)
    decided = pd.Series(
        np.where(again, _OUTCOMES.index(SHARED), outcomes[number]), index=table.index
    )
    decided.loc[chosen] = 0
    # One object a reason, to which all rows point.
    candidates.loc[alive, "dropped"] = np.array(_OUTCOMES, object)[decided]
    choice.describe(candidates)


def of_kept_rows(candidates: pd.DataFrame) -> pd.Series:
    """Whether each candidate's row is kept, for its own class or for another one."""
    kept = candidates.loc[candidates["dropped"] == "", "row"]
    return candidates["dropped"].isin(("", SHARED)) & candidates["row"].isin(kept)


def classes_of(candidates: pd.DataFrame, class_names: Sequence[str]) -> pd.Series:
    """For each kept row all the classes that want it, its own first, then by fit; a list of names,
    indexed by row.
    """
    kept = candidates[of_kept_rows(candidates)]
    kept = kept.assign(kept=kept["dropped"] != "").sort_values("kept", kind="stable")
    names = pd.Series(
        np.asarray(class_names, object)[kept["class_id"]], index=kept["row"].to_numpy()
    )
    return names.groupby(level=0, sort=False).agg(list)


def _refuse(
    outcomes: NDArray[np.int8], rows: pd.DataFrame, evaluation: EvaluationImages, review: Review
) -> None:
    """Set the reason to drop each row whatever else is chosen, where it has none yet."""
    _drop(outcomes, "evaluation_image_hash", evaluation.holds(rows["image_sha256"]))
    _drop(outcomes, "evaluation_subject", evaluation.shows_same_subject(rows))
    _drop(outcomes, "rejected", review.removes(rows))


def _drop(outcomes: NDArray[np.int8], reason: str, wrong: pd.Series | NDArray[np.bool_]) -> None:
    outcomes[np.asarray(wrong, bool) & (outcomes == 0)] = _OUTCOMES.index(reason)


def _in_turns(first: pd.DataFrame, as_good: pd.DataFrame) -> pd.DataFrame:
    """Give every other row that several classes want equally, such as classes of one name, to the
    last of them.
    """
    every_other = pd.factorize(as_good["row"])[0] % 2 == 1
    others = as_good[every_other & as_good["row"].isin(first["row"])]
    others = others.drop_duplicates("row", keep="last")
    return pd.concat([first[~first["row"].isin(others["row"])], others]).sort_index()


def _twins(first: pd.DataFrame) -> dict[int, list[Hashable]]:
    """What each row that shares its URL or its bytes with another one shares; rows that share
    nothing are left out.
    """
    twins: dict[int, list[Hashable]] = {}
    for identity in [name for name in ("url", "image_sha256") if name in first]:
        values = first[identity]
        shared = first[(values != "") & values.duplicated(keep=False)]
        for row, value in zip(shared["row"].tolist(), shared[identity].tolist(), strict=True):
            twins.setdefault(row, []).append((identity, value))
    return twins


@dataclass
class _Choice:
    """The rows that are still open, the best first, and what looking at some of them has shown.

    Attributes:
        first: Columns row, class_id and what identifies equal images; one line a row.
        looked: Which of them were looked at.
        outcomes: Position in `_OUTCOMES` of the reason to drop each; 0 where there is none.
        taken: Which of them are taken.
    """

    first: pd.DataFrame
    images: Images
    settings: RetrievalConfig
    evaluation: EvaluationImages
    review: Review
    means: Mapping[int, Vectors] | None

    def __post_init__(self) -> None:
        count = len(self.first)
        self.first = self.first.assign(place=np.arange(count))
        self.looked = np.zeros(count, bool)
        self.taken = np.zeros(count, bool)
        self.outcomes = np.zeros(count, np.int8)
        self._rows = self.first["row"].to_numpy()
        self._classes = self.first["class_id"].to_numpy()
        self._similarity = np.full(count, np.nan, np.float32)
        self._used: set[Hashable] = set()

    def run(self) -> None:
        """Look at rows and take the best of them, until no class can get more."""
        rounds = 0
        while len(places := self._wanted(2**rounds)):
            if self.images.fetches and rounds > REFILL_ROUNDS:
                # What was not fetched by now is given up.
                lacking = np.isin(self._classes, self._classes[places])
                _drop(self.outcomes, "not_collected", ~self.looked & lacking)
                break
            self._look(places)
            self._take()
            rounds += 1
        self._close()

    def chosen(self) -> pd.Index:
        """Return the positions of the pairs that are kept, `max_pairs` at the most: the worst of
        the largest classes go, so that what is left is as even as it can be.
        """
        chosen, most = self.first.index[self.taken], self.settings.max_pairs
        if most is None or len(chosen) <= most:
            return chosen
        ranks = self.first.loc[chosen].groupby("class_id").cumcount().sort_values(kind="stable")
        _drop(self.outcomes, "total", self.first.index.isin(ranks.index[most:]))
        return ranks.index[:most]

    def describe(self, candidates: pd.DataFrame) -> None:
        """Fill in the digests and similarities of the rows that were looked at."""
        looked = self.first[self.looked].set_index("row")
        similarity = pd.Series(self._similarity[self.looked], looked.index)
        candidates["evaluation_similarity"] = candidates["row"].map(similarity).astype("float32")
        digests = candidates["row"].map(looked["image_sha256"])
        candidates["image_sha256"] = digests.where(digests.notna(), candidates["image_sha256"])

    def _wanted(self, times: int) -> NDArray[np.int64]:
        """Return the places of the rows to look at next: for each class the best that were not
        looked at, `times` as many as it lacks.
        """
        lacking = self.settings.max_per_class - pd.Series(self._classes[self.taken]).value_counts()
        unseen = self.first[~self.looked & (self.outcomes == 0)]
        unseen = unseen[~self._repeats(unseen["row"].tolist())]
        wanted = times * unseen["class_id"].map(lacking).fillna(self.settings.max_per_class)
        chosen = unseen[unseen.groupby("class_id").cumcount() < wanted]
        for identity in (name for name in ("url", "image_sha256") if name in chosen):
            chosen = chosen[~chosen[identity].duplicated() | (chosen[identity] == "")]
        return np.asarray(chosen["place"].to_numpy(), np.int64)

    def _look(self, places: NDArray[np.int64]) -> None:
        """Look at the rows at some places, and drop those that must not be taken."""
        rows = self._rows[places]
        self.images.look(rows)
        self.looked[places] = True
        outcomes = self.outcomes[places]
        if self.images.fetches:
            digests = [self.images.sha256.get(row, "") for row in rows.tolist()]
            self.first.iloc[places, self.first.columns.get_loc("image_sha256")] = digests
            _drop(outcomes, "not_collected", np.array(digests) == "")
        seen = self.first.iloc[places]
        _refuse(outcomes, seen, self.evaluation, self.review)
        there = np.flatnonzero(outcomes != _OUTCOMES.index("not_collected"))
        for start in range(0, len(there), BLOCK_ROWS):
            part = there[start : start + BLOCK_ROWS]
            if (vectors := self.images.vectors(rows[part])) is not None:
                outcomes[part] = self._compared(outcomes[part], seen.iloc[part], vectors)
        self.outcomes[places] = outcomes

    def _compared(
        self, outcomes: NDArray[np.int8], seen: pd.DataFrame, vectors: Vectors
    ) -> NDArray[np.int8]:
        """Return the outcomes (N,) of images (N, D) after a comparison with the evaluation images
        and with their class.
        """
        similarity = self.evaluation.similarity(vectors)
        self._similarity[seen["place"]] = similarity
        _drop(outcomes, "evaluation_image_near", similarity >= self.evaluation.near)
        if self.means is not None:
            of_class = np.stack([self.means[class_id] for class_id in seen["class_id"]])
            likeness = np.einsum("nd,nd->n", vectors, of_class)
            _drop(outcomes, "below_filter", likeness < self.settings.min_similarity["filter"])
        return outcomes

    def _take(self) -> None:
        """Take rows that were looked at, the best first, as long as their class lacks pairs and no
        image like theirs was taken.
        """
        twins = _twins(self.first)
        self._used = set()
        self.taken[:] = False
        self.outcomes[np.isin(self.outcomes, _CODES_OF_CHOICE)] = 0
        kept: dict[int, int] = {}
        earlier: list[Vectors] = []
        order = np.flatnonzero(self.looked & (self.outcomes == 0))
        for start in range(0, len(order), BLOCK_ROWS):
            block = order[start : start + BLOCK_ROWS]
            vectors, is_near, within = self._alike(self._rows[block], earlier)
            inside: list[int] = []
            for number, place in enumerate(block.tolist()):
                class_id = int(self._classes[place])
                keys = twins.get(int(self._rows[place]), ())
                reason = ""
                if not self._used.isdisjoint(keys):
                    reason = "exact_duplicate"
                elif kept.get(class_id, 0) >= self.settings.max_per_class:
                    reason = "cap"
                elif is_near[number] or within[number, inside].any():
                    reason = "near_duplicate"
                self.outcomes[place] = _OUTCOMES.index(reason)
                if not reason:
                    self.taken[place] = True
                    self._used.update(keys)
                    kept[class_id] = kept.get(class_id, 0) + 1
                    inside.append(number)
            earlier.append(vectors[inside])

    def _alike(
        self, rows: NDArray[np.int64], earlier: list[Vectors]
    ) -> tuple[Vectors, NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the vectors (N, D) of some rows, which of these are like one that was taken
        earlier (N,), and which are like each other (N, N).
        """
        near = self.settings.duplicate_similarity
        vectors = self.images.vectors(rows) if near <= 1 else None
        if vectors is None:
            vectors = np.empty((len(rows), 0), np.float32)
            return vectors, np.zeros(len(rows), bool), np.zeros((len(rows),) * 2, bool)
        is_near = np.zeros(len(rows), bool)
        for taken in earlier:
            is_near |= (vectors @ taken.T >= near).any(axis=1)
        return vectors, is_near, vectors @ vectors.T >= near

    def _close(self) -> None:
        """Say why each row was not looked at."""
        unseen = np.flatnonzero(~self.looked & (self.outcomes == 0))
        repeats = self._repeats(self._rows[unseen].tolist())
        reasons = _OUTCOMES.index("cap"), _OUTCOMES.index("exact_duplicate")
        self.outcomes[unseen] = np.where(repeats, reasons[1], reasons[0])

    def _repeats(self, rows: Sequence[int]) -> NDArray[np.bool_]:
        """Return whether the bytes or the URL of each row were taken with another one."""
        twins = _twins(self.first)
        return np.array([not self._used.isdisjoint(twins.get(row, ())) for row in rows], bool)

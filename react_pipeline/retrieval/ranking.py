"""Ranking: of a list of candidates, each one is kept or dropped for one reason.

Does not belong here: the order of the candidates (`fusion`), which images are alike
(`NearFilter`), what is learned of images that are fetched (`examination`).

A candidate is a class and a row of the corpus; a row that several classes want is kept once, for
one of them, and the pair lists all of them (`classes_of`).
"""

import heapq
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.retrieval.decontamination import EvaluationImages
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
_LOOKED_AT = (
    "similarity",
    "image_sha256",
    "url",
    "subject",
    "evaluation_similarity",
)

NO_REVIEW = Review()

BLOCK_ROWS = 1_024
"""Rows that a filter looks at together, at most."""
FIRST_LOOK_ROWS = 128
"""Rows of a class that are compared together at first; more where few of them are taken."""


ReadVectors = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Gives the unit vectors (N, D) of row numbers (N,)."""


class NearFilter(Protocol):
    """Answers for one row after the other whether it is like one that was taken."""

    def begin(self) -> None:
        """Start a new choice: nothing is taken yet."""

    def knows(self, row: int) -> bool:
        """Whether `is_near` can answer without a further `look`."""

    def look(self, rows: Iterable[int]) -> None:
        """Read rows that will be asked about next."""

    def is_near(self, row: int) -> bool:
        """Whether a row that `knows` is like a taken one."""

    def take(self, row: int) -> None:
        """Keep a row of which `is_near` has just said that it is like no other."""


def mark_drops(
    candidates: pd.DataFrame,
    evaluation: EvaluationImages,
    settings: RetrievalConfig,
    *,
    failed: Set[int] = frozenset(),
    near: NearFilter | None = None,
    review: Review = NO_REVIEW,
) -> None:
    """Fill `dropped` of the candidates: "" where kept, `SHARED`, or one of `DROP_REASONS`.

    A row wanted by several classes counts for the class that holds its best hit (equal ones take
    turns), or with `balance: even` for the one that has fewest pairs. Rows are taken one after the
    other, the best first (`even`: the class with fewest pairs takes its best), until each class has
    enough; one is dropped as a duplicate only if an image of its URL, of its bytes, or one that
    looks like it was taken before, for whichever class.

    Args:
        candidates: The best first: columns class_id, row, similarity, image_sha256 ("" where it is
            not known yet), evaluation_similarity, dropped (of `fusion`; other reasons are found
            again); `url` counts where it is there.
        evaluation: What must be kept out.
        failed: Rows whose image is not available.
        near: Finds near duplicates among the rows taken so far. None: near duplicates are not
            looked for.
        review: What people rejected.
    """
    alive = ~candidates["dropped"].isin(_BEFORE_CHOICE).to_numpy()
    looked_at = ["class_id", "row", *(name for name in _LOOKED_AT if name in candidates)]
    table = candidates.loc[alive, looked_at]
    # Rows by number, the best first; what becomes of each is a position in `_OUTCOMES`.
    number, _ = pd.factorize(table["row"])
    again = table["row"].duplicated().to_numpy()
    best = table[~again]
    outcomes = _reasons_of_rows(best, evaluation, settings, failed, review)
    usable = table[outcomes[number] == 0]
    first = usable[~usable["row"].duplicated()]
    as_good = again & (table["similarity"].to_numpy() == best["similarity"].to_numpy()[number])
    if as_good.any():
        first = _in_turns(first, table[as_good])
    choice = _Choice(settings.max_per_class, _twins(first), near)
    if settings.balance == "even":
        chosen, lost = _fewest_first(usable, choice)
    else:
        chosen, lost = _best_first(first, choice)
    if settings.max_pairs is not None and len(chosen) > settings.max_pairs:
        # The worst pairs of the largest classes go, so that what is left is as even as it can be.
        ranks = table.loc[chosen].groupby("class_id").cumcount().sort_values(kind="stable")
        lost["total"] = table.loc[ranks.index[settings.max_pairs :], "row"]
        chosen = ranks.index[: settings.max_pairs]
    numbers = pd.Index(best["row"])
    for reason, rows in {**lost, SHARED: table.loc[chosen, "row"]}.items():
        outcomes[numbers.get_indexer(rows)] = _OUTCOMES.index(reason)
    decided = pd.Series(
        np.where(again, _OUTCOMES.index(SHARED), outcomes[number]), index=table.index
    )
    decided.loc[chosen] = 0
    # One object a reason, to which all rows point.
    candidates.loc[alive, "dropped"] = np.array(_OUTCOMES, object)[decided]


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


def _reasons_of_rows(
    best: pd.DataFrame,
    evaluation: EvaluationImages,
    settings: RetrievalConfig,
    failed: Set[int],
    review: Review,
) -> NDArray[np.int8]:
    """The reason to drop each row regardless of the other choices, as a position in `_OUTCOMES`; 0:
    none.
    """
    reasons = np.zeros(len(best), np.int8)

    def drop(reason: str, wrong: pd.Series) -> None:
        reasons[wrong.to_numpy(bool) & (reasons == 0)] = _OUTCOMES.index(reason)

    drop("evaluation_image_hash", evaluation.holds(best["image_sha256"]))
    drop("evaluation_image_near", best["evaluation_similarity"] >= evaluation.near)
    drop("evaluation_subject", evaluation.shows_same_subject(best))
    drop("rejected", review.removes(best))
    if failed:
        drop("not_collected", best["row"].isin(failed))
    return reasons


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
class _Queue:
    """The rows that a class wants, best first, their positions in the table, and how far the class
    has got.
    """

    positions: NDArray[np.int64]
    rows: NDArray[np.int64]
    next: int = 0
    kept: int = 0
    _looked: int = 0
    _kept_before: int = 0
    _multiple: int = 1

    def ahead(self, missing: int, is_open: Callable[[int], bool]) -> list[int]:
        """The next rows, as many as are missing; twice as many, and twice again, while few of the
        last were taken.
        """
        if 2 * (self.kept - self._kept_before) < self._looked:
            self._multiple *= 2
        self._looked = min(self._multiple * min(missing, FIRST_LOOK_ROWS), BLOCK_ROWS)
        self._kept_before = self.kept
        return list(islice(filter(is_open, map(int, self.rows[self.next :])), self._looked))


@dataclass
class _Choice:
    """The rows taken so far, and the reasons against the others."""

    cap: int
    twins: dict[int, list[Hashable]]
    near: NearFilter | None
    chosen: list[int] = field(default_factory=list)
    lost: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in _OF_CHOICE})
    _used: set[Hashable] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.near is not None:
            self.near.begin()

    def ask(self, queue: _Queue) -> bool:
        """Whether a class gets the next row of its queue, which is taken or lost by that."""
        row = int(queue.rows[queue.next])
        position = int(queue.positions[queue.next])
        if reason := self._refusal(row, queue):
            self.lost[reason].append(row)
        else:
            self._used.update(self.twins.get(row, ()))
            if self.near is not None:
                self.near.take(row)
            self.chosen.append(position)
            queue.kept += 1
        queue.next += 1
        return not reason

    def repeats(self, row: int) -> bool:
        """Whether the bytes or the URL of a row were taken with another one."""
        return not self._used.isdisjoint(self.twins.get(row, ()))

    def _refusal(self, row: int, queue: _Queue) -> str:
        if self.repeats(row):
            return "exact_duplicate"
        if queue.kept >= self.cap:
            return "cap"
        if self.near is None:
            return ""
        if not self.near.knows(row):
            self.near.look(queue.ahead(self.cap - queue.kept, self._is_open))
        return "near_duplicate" if self.near.is_near(row) else ""

    def _is_open(self, row: int) -> bool:
        return not (self.repeats(row) or (self.near is not None and self.near.knows(row)))


def _queues(candidates: pd.DataFrame) -> dict[int, _Queue]:
    groups = candidates.groupby("class_id", sort=True)
    return {
        int(name): _Queue(of_class.index.to_numpy(), of_class["row"].to_numpy())
        for name, of_class in groups
    }


def _best_first(first: pd.DataFrame, choice: _Choice) -> tuple[pd.Index, dict[str, Any]]:
    """Ask for the rows in their order, each for the class it fits best."""
    queues = _queues(first)
    for class_id in first["class_id"].tolist():
        choice.ask(queues[class_id])
    return pd.Index(choice.chosen, dtype="int64"), choice.lost


def _fewest_first(usable: pd.DataFrame, choice: _Choice) -> tuple[pd.Index, dict[str, Any]]:
    """The class with fewest pairs takes its best row that is free, again and again; equal ones in
    their order.
    """
    queues = _queues(usable)
    waiting = [(0, class_id) for class_id in queues]
    decided: set[int] = set()
    while waiting:
        _, class_id = heapq.heappop(waiting)
        queue = queues[class_id]
        while queue.next < len(queue.rows):
            row = queue.rows[queue.next]
            if row in decided:
                queue.next += 1
                continue
            decided.add(row)
            if choice.ask(queue):
                if queue.kept < choice.cap:
                    heapq.heappush(waiting, (queue.kept, class_id))
                break
    for row in usable["row"].drop_duplicates().tolist():
        if row not in decided:
            choice.lost["exact_duplicate" if choice.repeats(row) else "cap"].append(row)
    return pd.Index(sorted(choice.chosen), dtype="int64"), choice.lost

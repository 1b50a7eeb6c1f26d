"""Examination: what only looking at a chosen pair shows, and choosing again until nothing new is
found.

Does not belong here: the rules of choosing (`ranking`), getting images (`corpus`).

Only pairs that would be kept are looked at, so the cost follows what is kept and not what was
found. Where images must be fetched, each round chooses with all that is known, fetches what is new
among the chosen, and ends when there is nothing new. A class that still lacks pairs asks for twice
as many, in the next round for four times as many, so that rounds are few; after `REFILL_ROUNDS`
further rounds only pairs that were fetched are chosen.
"""

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.corpus import ImageSource
from react_pipeline.embedding import row_metadata, vectors_of
from react_pipeline.retrieval.decontamination import EvaluationImages
from react_pipeline.retrieval.ranking import NO_REVIEW, NearFilter, mark_drops
from react_pipeline.retrieval.review import Review
from react_pipeline.settings import RetrievalConfig
from react_pipeline.store import Artifact
from react_pipeline.web_policy import REFUSED_URL, plain_url

REFILL_ROUNDS = 3
"""How often the next best pairs are fetched in place of chosen ones whose image is not available.
"""


class Examination:
    """The facts about rows that rounds have found so far.

    Attributes:
        sha256: Digest of each fetched image, by row.
        failed: Rows that are not available, with the reason.
        near: Near duplicates among the rows that would be taken; None where they are not looked
            for.
    """

    def __init__(
        self,
        source: ImageSource,
        embeddings: Artifact,
        settings: RetrievalConfig,
        review: Review = NO_REVIEW,
    ) -> None:
        """Start with nothing known."""
        self.sha256: dict[int, str] = {}
        self.failed: dict[int, str] = {}
        self.near: NearFilter | None = None
        if settings.duplicate_similarity <= 1:
            from react_pipeline.extensions.near_duplicates import NearDuplicates

            self.near = NearDuplicates(
                partial(vectors_of, embeddings, "image"), settings.duplicate_similarity
            )
        self.rounds = 0
        self._source = source
        self._embeddings = embeddings
        self._settings = settings
        self._review = review
        self._seen: set[int] = set()

    def choose(self, candidates: pd.DataFrame, evaluation: EvaluationImages) -> None:
        """Fill `dropped` of the candidates (`ranking.mark_drops`) with what is learned from the
        chosen images.
        """
        if self._source.identity == "url":
            # No round of fetching is spent on what cannot be fetched.
            refused = [plain_url(url) is None for url in candidates["url"]]
            self.failed.update(dict.fromkeys(candidates.loc[refused, "row"].tolist(), REFUSED_URL))
        while True:
            self.rank(candidates, evaluation)
            new = self._to_fetch(candidates) if self._source.fetches else []
            if not new:
                return
            self._seen.update(new)
            self._fetch(np.array(new, np.int64))
            digests = candidates["row"].map(self.sha256)
            candidates["image_sha256"] = digests.where(digests.notna(), candidates["image_sha256"])

    def rank(self, candidates: pd.DataFrame, evaluation: EvaluationImages) -> None:
        """Fill `dropped` by what is known so far; nothing is fetched."""
        failed = set(self.failed)
        if self.rounds > REFILL_ROUNDS:
            # What could not be fetched by now is given up: choose among what was.
            failed |= set(candidates["row"]) - self.sha256.keys()
        mark_drops(
            candidates,
            evaluation,
            self._settings,
            failed=failed,
            near=self.near,
            review=self._review,
        )

    def counts(self) -> dict[str, Any]:
        """The counts of the manifest: rounds of fetching, and why images were not available."""
        if not self.rounds:
            return {}
        reasons = Counter(self.failed.values())
        return {"fetch_rounds": self.rounds, "not_collected": dict(sorted(reasons.items()))}

    def _to_fetch(self, candidates: pd.DataFrame) -> list[int]:
        """Rows that were chosen and not asked for yet, and from the second round on more of the
        classes they are of.
        """
        unseen = candidates[~candidates["row"].isin(self._seen)]
        chosen = unseen[unseen["dropped"] == ""]
        spare = unseen[unseen["dropped"] == "cap"].drop_duplicates(self._source.identity)
        more = (2**self.rounds - 1) * spare["class_id"].map(chosen["class_id"].value_counts())
        next_best = spare[spare.groupby("class_id").cumcount() < more.fillna(0)]
        return [*chosen["row"].tolist(), *next_best["row"].tolist()]

    def _fetch(self, rows: NDArray[np.int64]) -> None:
        self.rounds += 1
        located = row_metadata(self._embeddings, rows, self._source.columns)
        for pair, _ in self._source.fetch(located.assign(row=rows)):
            self.sha256[int(pair.row)] = str(pair.image_sha256)
        for row in rows.tolist():
            if row not in self.sha256:
                self.failed.setdefault(row, self._source.failed.get(row, "unknown"))

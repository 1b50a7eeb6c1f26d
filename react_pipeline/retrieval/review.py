"""Review: what the decisions of people do to the candidates of a domain.

A refused image is dropped for every class, and the next best candidate takes its place. A moved
image counts for one class alone. A pinned one is chosen first, whatever its similarity. No decision
brings an evaluation image back. Does not belong here: the file of decisions (`project.review`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.embedding import read_metadata, row_metadata
from react_pipeline.project import (
    Project,
    current_decisions,
    review_file,
    takedown_file,
    taken_down,
)
from react_pipeline.retrieval.row_filter import passes
from react_pipeline.store import Artifact, InputError, RetrievalError


@dataclass(frozen=True)
class Review:
    """Decisions by image: keys are SHA-256 and URLs.

    Attributes:
        refused: Images that no class may have.
        forced: The class id of images that a person gave one.
        pinned: Those of them that are chosen first.
        decided: Images on which a person decided, other than to keep them.
        source: The file of the decisions, for messages.
    """

    refused: frozenset[str] = frozenset()
    forced: Mapping[str, int] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()
    decided: frozenset[str] = frozenset()
    source: str = ""

    @classmethod
    def of(cls, project: Project, slug: str) -> Review:
        """Return the review of a domain, with what is taken down in all of them."""
        names = project.domain(slug).class_names
        rejected: set[str] = set()
        forced: dict[str, int] = {}
        pinned: set[str] = set()
        for decision in current_decisions(project, slug).values():
            keys = [key for key in (decision.image, decision.url) if key]
            if decision.verdict == "reject":
                rejected.update(keys)
            elif decision.verdict in ("move", "pin"):
                forced.update(dict.fromkeys(keys, names.index(decision.target)))
            if decision.verdict == "pin":
                pinned.update(keys)
        decided = frozenset(rejected | forced.keys())
        refused = taken_down(project) | rejected
        return cls(refused, forced, frozenset(pinned), decided, str(review_file(project, slug)))

    def refuses(self, rows: pd.DataFrame) -> pd.Series:
        """Return which rows (N,) show an image that no class may have."""
        refused = pd.Series(False, rows.index)
        for column in _key_columns(rows):
            refused |= rows[column].isin(self.refused)
        return refused

    def refused_rows(self, embeddings: Artifact, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows (N,) of the corpus show such an image, by the digest and URL that the
        corpus brings.
        """
        return self.refuses(row_metadata(embeddings, rows, ["image_sha256", "url"])).to_numpy(bool)

    def place(self, candidates: pd.DataFrame) -> pd.DataFrame:
        """Return candidates with reviewed images in the classes that a person gave them, pinned
        ones first.
        """
        keys = pd.Series("", candidates.index)
        for column in _key_columns(candidates):
            keys = keys.where(~candidates[column].isin(self.forced.keys()), candidates[column])
        has_class = keys != ""
        candidates.loc[has_class, "class_id"] = keys[has_class].map(self.forced)
        pinned = keys.isin(self.pinned)
        candidates.loc[pinned, "dropped"] = ""
        # One candidate of an image is enough now: its best.
        once = ~(has_class & candidates["row"].duplicated())
        order = np.argsort(~pinned[once].to_numpy(), kind="stable")
        return candidates[once].iloc[order].reset_index(drop=True)

    def missing_pins(self, pairs: pd.DataFrame) -> int:
        """Return how many pinned images are not among the chosen pairs (N,): the search does not
        find them any more, or they are test images.
        """
        return sum(map(_is_digest, self.pinned.difference(pairs["image_sha256"])))

    def require_corpus(self, candidates: pd.DataFrame, embeddings: Artifact, identity: str) -> None:
        """Refuse decisions of which none is on an image of this corpus.

        Args:
            identity: The column that identifies images before they are fetched.

        Raises:
            InputError: Naming the file.
        """
        decided = {key for key in self.decided if _is_digest(key) == (identity == "image_sha256")}
        if not decided or candidates[identity].isin(decided).any():
            return
        # The whole corpus is only read if no candidate answers the question.
        if not read_metadata(embeddings, [identity])[identity].isin(decided).any():
            raise InputError(
                f"{self.source}: none of its images is in this corpus; it was made for another "
                "one: remove or rename it"
            )


def refuse_rows(
    candidates: pd.DataFrame, review: Review, embeddings: Artifact, where: str | None
) -> None:
    """Drop the candidates that people refused, and those of which `where` is not true."""

    def drop(reason: str, wrong: Callable[[NDArray[np.int64]], NDArray[np.bool_]]) -> None:
        is_open = candidates["dropped"] == ""
        rows = candidates.loc[is_open, "row"].unique()
        candidates.loc[is_open & candidates["row"].isin(rows[wrong(rows)]), "dropped"] = reason

    if review.refused:
        drop("rejected", partial(review.refused_rows, embeddings))
    if where is not None:
        drop("filtered", lambda rows: ~passes(embeddings, rows, where))


def require_none_taken_down(project: Project, embeddings: Artifact, pairs: pd.DataFrame) -> None:
    """Refuse to publish pairs of which one was taken down while they were chosen and collected.

    Raises:
        RetrievalError: If there is one.
    """
    review = Review(taken_down(project))
    late = review.refuses(pairs) | review.refused_rows(embeddings, pairs["row"].to_numpy())
    if late.any():
        raise RetrievalError(
            f"{takedown_file(project)}: {int(late.sum())} of these pairs were taken down while the "
            "set was made, so nothing was published; run it again"
        )


def _is_digest(key: str) -> bool:
    """Return whether a decision names an image by its SHA-256, and not by its address."""
    return re.fullmatch("[0-9a-f]{64}", key) is not None


def _key_columns(rows: pd.DataFrame) -> list[str]:
    return [name for name in ("image_sha256", "url") if name in rows]

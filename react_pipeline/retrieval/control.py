"""The control set: as many random pairs of the corpus as were retrieved, in the same form."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.embedding import read_metadata, row_metadata
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, cluster, taken_down
from react_pipeline.retrieval.chosen_pairs import write_pairs
from react_pipeline.retrieval.decontamination import EvaluationImages, kept_out
from react_pipeline.retrieval.images import REFILL_ROUNDS, Images
from react_pipeline.retrieval.ranking import NO_REVIEW
from react_pipeline.retrieval.review import Review, refusals, require_none_taken_down
from react_pipeline.settings import draw_folder
from react_pipeline.stage import (
    CONTROL_SET,
    CORPUS_EMBEDDINGS,
    EVALUATION_SET,
    RETRIEVED_SET,
    encoder_in,
)
from react_pipeline.store import Artifact, RetrievalError, Scratch

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

FILTERED_ROWS = 10_000
"""Rows that are drawn together where some are not allowed."""

LISTED_ROWS = 5_000_000
"""Up to here the digests of all rows are read, so that each distinct image is equally likely. In a
larger corpus rows are drawn first and looked at then, in bounded memory; an image that occurs in
several rows is then likelier."""


def draw_control(project: Project, slug: str) -> Artifact:
    """Publish as many pairs as the domain's retrieved set has, drawn at random from the corpus.

    Drawn uniformly, without replacement, from the distinct images of the whole corpus less the
    evaluation images (and less what `same_subject: exclude` excludes). The seed of the training and
    the domain decide the draw, so that controls of several seeds or domains are independent: of
    `seeds`, each but the first has its pairs in a folder of its own (`draws` in the counts). Rows
    of the retrieved set may be drawn: they are part of the corpus too. Captions are kept, so that
    the control differs from the retrieved set in nothing but the choice of pairs.

    Raises:
        RetrievalError: If the corpus holds nothing but evaluation images.
    """
    inputs = resolve(project, CONTROL_SET, slug)
    parents = inputs.parents
    settings = project.retrieval(slug)
    size = parents[RETRIEVED_SET].counts["pairs"]
    seed = project.seed(slug)
    further = {draw_folder(other): other for other in project.config.seeds[1:]}

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        started = time.monotonic()
        clip = load_encoder(project, parents[encoder_in(parents)])
        labelled = parents[EVALUATION_SET]
        evaluation = kept_out(project, slug, labelled, settings.decontaminate, clip)
        images = Images(project, parents, clip)

        def draw(seed: int, folder: Path) -> tuple[int, dict[str, int]]:
            drawing = Draw(
                evaluation,
                parents[CORPUS_EMBEDDINGS],
                images,
                random_of(seed, slug),
                Review(taken_down(project)),
                settings.where,
            )
            pairs = _write_draw(project, slug, drawing, folder, size)
            images.require(project, slug)
            require_none_taken_down(project, parents[CORPUS_EMBEDDINGS], pairs)
            return len(pairs), drawing.dropped

        pairs, dropped = draw(seed, directory)
        draws = {name: draw(other, directory / name)[0] for name, other in further.items()}
        return {
            "pairs": pairs,
            **({"draws": draws} if draws else {}),
            "shortfall": size - pairs,
            "dropped": dropped,
            "evaluation_images": len(evaluation.vectors),
            "evaluation_sets": dict(evaluation.sets),
            "seed": seed,
            "seconds": round(time.monotonic() - started, 2),
        }

    with cluster(project.config.distributor):
        return project.store.build(inputs, write)


def _write_draw(
    project: Project, slug: str, drawing: Draw, folder: Path, size: int
) -> pd.DataFrame:
    """Draw the pairs of one seed and write them."""
    drawn = drawing.take(size)
    if drawn.empty:
        raise RetrievalError(
            f"{slug}: no image of the corpus can be drawn: {drawing.dropped}; use a larger corpus, "
            "or other `where`"
        )
    return write_pairs(
        folder,
        drawn,
        drawing.images,
        drawing.embeddings,
        shard_pairs=project.retrieval(slug).shard_pairs,
        max_pixels=project.config.corpus.max_pixels,
    )


def random_of(seed: int, slug: str) -> np.random.Generator:
    """The random numbers of one domain and seed."""
    digest = hashlib.sha256(slug.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:4], "big")])


def load_encoder(project: Project, checkpoint: Artifact) -> Clip:
    """The encoder that retrieves, on the configured device."""
    from react_pipeline.clip import choose_device, loaded_base

    return loaded_base(checkpoint.path, choose_device(project.config.device))


class Draw:
    """A draw of random rows whose images are distinct, available, and not evaluation images.

    Attributes:
        dropped: How many rows were passed over, by reason; of all rows of the corpus where those
            are listed.
    """

    def __init__(
        self,
        evaluation: EvaluationImages,
        embeddings: Artifact,
        images: Images,
        random: np.random.Generator,
        review: Review = NO_REVIEW,
        where: str | None = None,
    ) -> None:
        """Draw from the rows of `corpus_embeddings`; `random` decides their order."""
        reasons = ["evaluation_image_hash", "evaluation_image_near", "exact_duplicate"]
        if evaluation.subjects:
            reasons.append("evaluation_subject")
        self._refusals = refusals(review, embeddings, where)
        reasons += self._refusals
        if images.fetches:
            reasons.append("not_collected")
        self.dropped = dict.fromkeys(reasons, 0)
        self._evaluation = evaluation
        self._random = random
        self._review = review
        self.embeddings = embeddings
        self.images = images
        self._seen: set[str] = set()
        rows = int(embeddings.counts["rows"])
        self._next: Callable[[int], NDArray[np.int64]] = RandomRows(rows, random).take
        if rows <= LISTED_ROWS and not images.fetches:
            listed = iter(self._distinct())
            self._next = lambda count: np.fromiter(islice(listed, count), np.int64)
        if self._refusals:
            self._next = self._allowed(self._next)

    def take(self, size: int) -> pd.DataFrame:
        """Draw `size` pairs for `chosen_pairs.write_pairs`, or as many as there are.

        What must be fetched is asked for `REFILL_ROUNDS` times more at most, in place of images
        that are not available.
        """
        parts: list[pd.DataFrame] = []
        have = 0
        rounds = 0
        while have < size and len(rows := self._next((size - have) * 2**rounds)):
            parts.append(self._usable(rows).head(size - have))
            have += len(parts[-1])
            rounds += self.images.fetches
            if rounds > REFILL_ROUNDS:
                break
        if not have:
            return pd.DataFrame()
        pairs = pd.concat(parts, ignore_index=True)
        pairs = pairs.assign(**{"class": ""}, prompt="", mode="random")
        pairs = pairs.assign(similarity=np.nan, score=np.nan)
        return pairs.assign(rank=np.arange(have), classes=[[] for _ in range(have)])

    def _allowed(
        self, draw: Callable[[int], NDArray[np.int64]]
    ) -> Callable[[int], NDArray[np.int64]]:
        """Draws rows of which `where` is true and that were not taken down; a round of fetching is
        spent on no other.
        """
        spare = np.empty(0, np.int64)

        def take(count: int) -> NDArray[np.int64]:
            nonlocal spare
            while len(spare) < count and len(rows := draw(FILTERED_ROWS)):
                for reason, refuses in self._refusals.items():
                    refused = refuses(rows)
                    self.dropped[reason] += int(refused.sum())
                    rows = rows[~refused]
                spare = np.concatenate([spare, rows])
            taken = spare[:count]
            spare = spare[count:]
            return taken

        return take

    def _distinct(self) -> NDArray[np.int64]:
        """The rows of all distinct images but the evaluation's, in random order."""
        sha256 = read_metadata(self.embeddings, ["image_sha256"])["image_sha256"]
        same = self._evaluation.holds(sha256)
        repeated = sha256.duplicated()
        self.dropped["evaluation_image_hash"] = int(same.sum())
        self.dropped["exact_duplicate"] = int((repeated & ~same).sum())
        pool = sha256.index[~(same | repeated)].to_numpy()
        return self._random.permutation(pool)

    def _usable(self, rows: NDArray[np.int64]) -> pd.DataFrame:
        images, evaluation = self.images, self._evaluation
        columns = [*images.source.columns, *evaluation.row_columns]
        pairs = row_metadata(self.embeddings, rows, columns).assign(row=rows)
        pairs = pairs.reset_index(drop=True)
        if evaluation.subjects:
            shown = evaluation.shows_same_subject(pairs)
            pairs = self._without(pairs, "evaluation_subject", shown)
        pairs = self._new(pairs, images.source.identity)
        if images.fetches:
            images.look(pairs["row"].to_numpy())
            missing = ~pairs["row"].isin(images.sha256)
            pairs = self._without(pairs, "not_collected", missing)
            pairs["image_sha256"] = pairs["row"].map(images.sha256)
        pairs["evaluation_similarity"] = np.nan
        vectors = images.vectors(pairs["row"].to_numpy())
        if vectors is not None and len(evaluation.vectors):
            pairs["evaluation_similarity"] = evaluation.similarity(vectors)
        is_near = pairs["evaluation_similarity"] >= evaluation.near
        pairs = self._without(pairs, "evaluation_image_near", is_near)
        is_same = evaluation.holds(pairs["image_sha256"])
        pairs = self._without(pairs, "evaluation_image_hash", is_same)
        if self._review.removed:
            pairs = self._without(pairs, "rejected", self._review.removes(pairs))
        return self._new(pairs, "image_sha256") if images.fetches else pairs

    def _new(self, pairs: pd.DataFrame, identity: str) -> pd.DataFrame:
        """Without the images that were drawn before."""
        is_known = pairs[identity].isin(self._seen) | pairs[identity].duplicated()
        kept = self._without(pairs, "exact_duplicate", is_known)
        self._seen.update(kept[identity])
        return kept

    def _without(self, pairs: pd.DataFrame, reason: str, wrong: pd.Series) -> pd.DataFrame:
        self.dropped[reason] += int(wrong.sum())
        return pairs[~wrong].copy()


class RandomRows:
    """Random rows of a corpus, each once, in memory that follows what was drawn."""

    def __init__(self, rows: int, random: np.random.Generator) -> None:
        """Draw from `range(rows)`."""
        self._rows = rows
        self._random = random
        self._drawn: set[int] = set()

    def take(self, count: int) -> NDArray[np.int64]:
        """The next `count` rows, or those that are left."""
        count = min(count, self._rows - len(self._drawn))
        if 2 * (count + len(self._drawn)) > self._rows:
            # Most tries would hit a row that was drawn; what is left is at most twice what is
            # wanted.
            drawn = np.fromiter(self._drawn, np.int64, len(self._drawn))
            left = np.setdiff1d(np.arange(self._rows), drawn)
            new = self._random.permutation(left)[:count].tolist()
            self._drawn.update(new)
            return np.array(new, np.int64)
        new = []
        while len(new) < count:
            for row in self._random.integers(self._rows, size=count - len(new)).tolist():
                if row not in self._drawn:
                    self._drawn.add(row)
                    new.append(row)
        return np.array(new, np.int64)

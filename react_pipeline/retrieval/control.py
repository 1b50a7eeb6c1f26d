"""The control set: as many random pairs of the corpus as were retrieved, in the same form."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from react_pipeline.embedding import Rows, read_metadata, row_metadata
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, cluster, taken_down
from react_pipeline.retrieval.chosen_pairs import write_pairs
from react_pipeline.retrieval.decontamination import EvaluationImages, kept_out
from react_pipeline.retrieval.images import REFILL_ROUNDS, Images, load_encoder
from react_pipeline.retrieval.ranking import NO_REVIEW, choose
from react_pipeline.retrieval.review import Review, refuse_rows, require_none_taken_down
from react_pipeline.settings import RetrievalConfig, draw_folder
from react_pipeline.stage import (
    CONTROL_SET,
    CORPUS_EMBEDDINGS,
    EVALUATION_SET,
    RETRIEVED_SET,
    encoder_in,
)
from react_pipeline.store import Artifact, RetrievalError, Scratch

LISTED_ROWS = 5_000_000
"""Up to here the digests of all rows are read, so that each distinct image is equally likely. In a
larger corpus an image that occurs in several rows is likelier."""

LEAST_ROWS = 10_000
"""Rows that are read together, at least."""


def draw_control(project: Project, slug: str) -> Artifact:
    """Publish as many pairs as the domain's retrieved set has, drawn at random from the corpus.

    Drawn uniformly, without replacement, from the distinct images of the whole corpus less the
    evaluation images (and less what `same_subject: exclude` excludes). The seed of the training and
    the domain decide the draw, so that controls of several seeds or domains are independent: of
    `seeds`, each but the first has its pairs in a folder of its own (`draws` in the counts). Rows
    of the retrieved set may be drawn: they are part of the corpus too. Captions are kept, so that
    the control differs from the retrieved set in nothing but the choice of pairs. How many of them
    name a class, and so teach it all the same, is counted (`naming_a_class`).

    Raises:
        RetrievalError: If the corpus holds nothing but evaluation images.
    """
    inputs = resolve(project, CONTROL_SET, slug)

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        return _draw(project, slug, inputs.parents, directory)

    with cluster(project.config.distributor):
        return project.store.build(inputs, write)


def _draw(
    project: Project, slug: str, parents: Mapping[str, Artifact], directory: Path
) -> dict[str, Any]:
    """Draw for each seed, write the pairs, and return the counts."""
    from react_pipeline.extensions.names import count_naming

    started = time.monotonic()
    embeddings, settings = parents[CORPUS_EMBEDDINGS], project.retrieval(slug)
    size, first = parents[RETRIEVED_SET].counts["pairs"], project.seed(slug)
    clip = load_encoder(project, parents[encoder_in(parents)])
    evaluation = kept_out(project, slug, parents[EVALUATION_SET], settings.decontaminate, clip)
    images = Images(project, parents, clip)
    review = Review(taken_down(project))

    def draw(seed: int, folder: Path) -> tuple[pd.DataFrame, dict[str, int]]:
        random = seeded_random(seed, slug)
        pairs, dropped = draw_pairs(embeddings, images, evaluation, settings, random, size, review)
        if pairs.empty:
            raise RetrievalError(
                f"{slug}: no image of the corpus can be drawn: {dropped}; use a larger corpus, or "
                "other `where`"
            )
        pixels = project.config.corpus.max_pixels
        pairs = write_pairs(folder, pairs, images, embeddings, settings.shard_pairs, pixels)
        images.require(project, slug)
        require_none_taken_down(project, embeddings, pairs)
        return pairs, dropped

    pairs, dropped = draw(first, directory)
    further = {draw_folder(seed): seed for seed in project.config.seeds[1:]}
    draws = {name: len(draw(seed, directory / name)[0]) for name, seed in further.items()}
    return {
        "pairs": len(pairs),
        **({"draws": draws} if draws else {}),
        "shortfall": size - len(pairs),
        "naming_a_class": count_naming(project.domain(slug), pairs["caption"].to_list()),
        "dropped": dropped,
        "evaluation_images": len(evaluation.vectors),
        "evaluation_sets": dict(evaluation.sets),
        "seed": first,
        "seconds": round(time.monotonic() - started, 2),
    }


def seeded_random(seed: int, slug: str) -> np.random.Generator:
    """Return the random numbers of one domain and seed."""
    digest = hashlib.sha256(slug.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:4], "big")])


def draw_pairs(
    embeddings: Artifact,
    images: Images,
    evaluation: EvaluationImages,
    settings: RetrievalConfig,
    random: np.random.Generator,
    size: int,
    review: Review = NO_REVIEW,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Draw `size` random pairs for `write_pairs`, or as many as there are: the candidates of one
    class, in random order.

    Returns:
        The pairs, and how many rows were passed over, by reason; of all rows of the corpus where
        those are listed.
    """
    enough = 2 * size * (2**REFILL_ROUNDS if images.fetches else 1)
    order, dropped = _shuffled(embeddings, images, evaluation, random, max(enough, LISTED_ROWS))
    columns = [*images.source.columns, images.source.identity, *evaluation.row_columns]
    parts: list[pd.DataFrame] = []
    count, allowed = max(enough, LEAST_ROWS), 0
    while not parts or (len(order) and allowed < enough):
        rows, order = order[:count], order[count:]
        part = row_metadata(embeddings, rows, list(dict.fromkeys(columns))).assign(row=rows)
        part = part.assign(class_id=0, similarity=np.nan, dropped="")
        refuse_rows(part, review, embeddings, settings.where)
        parts.append(part)
        allowed += int((part["dropped"] == "").sum())
    candidates = pd.concat(parts, ignore_index=True)
    if "image_sha256" not in candidates:
        candidates["image_sha256"] = ""
    one_class = {"max_per_class": max(size, 1), "max_pairs": None, "duplicate_similarity": 1.01}
    settings = settings.model_copy(update=one_class)
    choose(candidates, images, evaluation, settings, review=review)
    reasons = candidates["dropped"].value_counts()
    for reason, number in reasons.drop(["", "cap", "not_collected"], errors="ignore").items():
        dropped[str(reason)] = dropped.get(str(reason), 0) + int(number)
    if images.fetches:
        dropped["not_collected"] = int(candidates["row"].isin(images.source.failed).sum())
    pairs = candidates[candidates["dropped"] == ""].drop(columns=["dropped", "class_id"])
    pairs = pairs.assign(**{"class": ""}, prompt="", mode="random", score=np.nan)
    have = len(pairs)
    return pairs.assign(rank=np.arange(have), classes=[[] for _ in range(have)]), dropped


def _shuffled(
    embeddings: Artifact,
    images: Images,
    evaluation: EvaluationImages,
    random: np.random.Generator,
    most: int,
) -> tuple[Rows, dict[str, int]]:
    """Return rows in random order, and how many were left out by reason: one row of each distinct
    image but the evaluation's where the digests of all can be read, else `most` of all rows.
    """
    total = int(embeddings.counts["rows"])
    dropped = dict.fromkeys(
        ("evaluation_image_hash", "evaluation_image_near", "exact_duplicate"), 0
    )
    if images.fetches or total > LISTED_ROWS:
        return random.choice(total, min(total, most), replace=False), dropped
    sha256 = read_metadata(embeddings, ["image_sha256"])["image_sha256"]
    same, repeated = evaluation.holds(sha256), sha256.duplicated()
    dropped["evaluation_image_hash"] = int(same.sum())
    dropped["exact_duplicate"] = int((repeated & ~same).sum())
    return random.permutation(sha256.index[~(same | repeated)].to_numpy()), dropped

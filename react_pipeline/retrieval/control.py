"""The control set: as many random pairs of the corpus as were retrieved, in the same form."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from react_pipeline.lineage import resolve
from react_pipeline.project import Project, cluster
from react_pipeline.retrieval.chosen_pairs import write_pairs
from react_pipeline.retrieval.decontamination import KeptOut, read_kept_out
from react_pipeline.retrieval.images import REFILL_ROUNDS, Images, load_encoder
from react_pipeline.retrieval.ranking import choose
from react_pipeline.retrieval.review import refuse_rows, require_none_taken_down
from react_pipeline.settings import RetrievalConfig, draw_folder
from react_pipeline.stage import CONTROL_SET, EVALUATION_SET, RETRIEVED_SET, encoder_in
from react_pipeline.store import Artifact, RetrievalError, Scratch

DRAWN_ROWS = 5_000_000
"""Rows of which pairs are drawn, at least; more if more may be needed."""

LEAST_ROWS = 10_000
"""Rows that are read together, at least."""

_COUNTED = ("evaluation_image_hash", "evaluation_image_near", "exact_duplicate")
"""Reasons that are counted in every control, also where no row was dropped for them."""


def draw_control(project: Project, slug: str) -> Artifact:
    """Publish as many pairs as the domain's retrieved set has, drawn at random from the corpus.

    Drawn uniformly, without replacement, from the rows of the whole corpus, each image once, less
    the evaluation images (and less what `same_subject: exclude` excludes). The seed of the training
    and the domain decide the draw, so that controls of several seeds or domains are independent: of
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
    settings = project.retrieval(slug)
    size, first = parents[RETRIEVED_SET].counts["pairs"], project.seed(slug)
    clip = load_encoder(project, parents[encoder_in(parents)])
    kept_out = read_kept_out(project, slug, parents[EVALUATION_SET], clip)
    images = Images(project, parents, clip)

    def draw(seed: int, folder: Path) -> tuple[pd.DataFrame, dict[str, int]]:
        random = seeded_random(seed, slug)
        pairs, dropped = draw_pairs(images, kept_out, settings, random, size)
        if pairs.empty:
            raise RetrievalError(
                f"{slug}: no image of the corpus can be drawn: {dropped}; use a larger corpus, or "
                "other `where`"
            )
        pairs = write_pairs(folder, pairs, images, settings)
        images.require(slug)
        require_none_taken_down(project, images, kept_out, pairs)
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
        "evaluation_images": len(kept_out.vectors),
        "evaluation_sets": dict(kept_out.sets),
        "seed": first,
        "seconds": round(time.monotonic() - started, 2),
    }


def seeded_random(seed: int, slug: str) -> np.random.Generator:
    """Return the random numbers of one domain and seed."""
    digest = hashlib.sha256(slug.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:4], "big")])


def draw_pairs(
    images: Images,
    kept_out: KeptOut,
    settings: RetrievalConfig,
    random: np.random.Generator,
    size: int,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Draw `size` random pairs for `write_pairs`, or as many as there are: the candidates of one
    class, in random order.

    Returns:
        The pairs, and how many of the rows that were drawn were passed over, by reason.
    """
    total = int(images.embeddings.counts["rows"])
    enough = 2 * size * (2**REFILL_ROUNDS if images.fetches else 1)
    order = random.choice(total, min(total, max(enough, DRAWN_ROWS)), replace=False)
    parts: list[pd.DataFrame] = []
    count, allowed = max(enough, LEAST_ROWS), 0
    while not parts or (len(order) and allowed < enough):
        rows, order = order[:count], order[count:]
        part = pd.DataFrame({"row": rows, "class_id": 0, "similarity": np.nan, "dropped": ""})
        part = refuse_rows(part, images, kept_out, settings.where)
        parts.append(part)
        allowed += part.loc[part["dropped"] == "", images.source.identity].nunique()
    candidates = pd.concat(parts, ignore_index=True)
    one_class = {"max_per_class": max(size, 1), "max_pairs": None, "duplicate_similarity": 1.01}
    choose(candidates, images, kept_out, settings.model_copy(update=one_class))
    reasons = candidates["dropped"].value_counts()
    dropped = {name: int(reasons.get(name, 0)) for name in _COUNTED}
    dropped |= reasons.drop(["", "cap", "not_collected"], errors="ignore").to_dict()
    if images.fetches:
        dropped["not_collected"] = int(candidates["row"].isin(images.source.failed).sum())
    pairs = candidates[candidates["dropped"] == ""].drop(columns=["dropped", "class_id"])
    pairs = pairs.assign(**{"class": ""}, prompt="", mode="random", score=np.nan)
    have = len(pairs)
    return pairs.assign(rank=np.arange(have), classes=[[] for _ in range(have)]), dropped

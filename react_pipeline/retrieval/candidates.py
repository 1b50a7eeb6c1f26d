"""Candidates: the hits of all prompts and seed images of a domain, as one list.

Belongs here: the queries, the search, the likeness of images to their class. Does not belong here:
which hit is better (`fusion`), which candidate is dropped (`ranking`). Shapes: S seeds, D width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from react_pipeline.clip import class_prompts, prompt_vectors
from react_pipeline.embedding import Rows, Side, Vectors, sides
from react_pipeline.indexing import Index, StoredVectors, hits_table, search_all
from react_pipeline.project import Project
from react_pipeline.retrieval.decontamination import EvaluationImages
from react_pipeline.retrieval.fusion import apply_filter, fuse
from react_pipeline.retrieval.rows import likeness, mean_vectors
from react_pipeline.retrieval.seeds import encode_apart, read_seeds
from react_pipeline.settings import Mode, RetrievalConfig
from react_pipeline.store import Artifact, Scratch

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

SEARCH = "search"
"""Folder of a scratch that holds the results of a search."""

MODE_SIDES: dict[Mode, Side] = {"t2t": "text", "t2i": "image", "i2i": "image"}
"""Which vectors each mode searches."""

PROMPTS = "prompts.npy"
"""The vectors of all prompts, in the scratch of a search."""


@dataclass(frozen=True)
class Queries:
    """All queries of a domain.

    Attributes:
        prompts: From `prompts.class_prompts`.
        prompt_vectors: From `encode_prompts` (Q, D).
        seeds: From `seeds.read_seeds`.
        seed_vectors: (S, D).
    """

    prompts: pd.DataFrame
    prompt_vectors: Vectors
    seeds: pd.DataFrame
    seed_vectors: Vectors

    @property
    def texts(self) -> pd.Series:
        """The query of each number: the prompts, then the seeds' names."""
        return pd.concat(
            [self.prompts["prompt"], "seed: " + self.seeds["name"].astype(str)], ignore_index=True
        )

    def means(self, settings: RetrievalConfig) -> dict[int, Vectors]:
        """The unit mean (D,) of each class's prompts or seeds, as `filter_by` says."""
        if settings.filter_by == "seeds":
            return mean_vectors(self.seeds["class_id"], self.seed_vectors)
        return mean_vectors(self.prompts["class_id"], self.prompt_vectors)

    def of_modes(self, settings: RetrievalConfig) -> dict[Mode, Vectors]:
        """The vectors (n, D) that each mode searches the index with; where all pairs are taken,
        none does.
        """
        modes = [mode for mode in settings.modes if settings.choose != "all" and mode in MODE_SIDES]
        vectors = {m: self.seed_vectors if m == "i2i" else self.prompt_vectors for m in modes}
        return {mode: of_mode for mode, of_mode in vectors.items() if len(of_mode)}


@dataclass(frozen=True)
class Candidates:
    """The result of a search.

    Attributes:
        table: The best hit of each class and row, of `fusion.fuse`.
        hits: Number of hits by class id and mode.
        searches: By mode, how it was searched (`indexing.search_all`).
    """

    table: pd.DataFrame
    hits: pd.DataFrame
    searches: dict[str, dict[str, Any]]


def read_queries(
    project: Project, slug: str, evaluation: EvaluationImages, clip: Clip, scratch: Scratch
) -> Queries:
    """Return the prompts and seeds of a domain, and their vectors."""
    seeds = read_seeds(project, slug)
    seed_vectors = encode_apart(project, seeds, evaluation, clip, f"{slug}.yaml, classes.seeds")
    prompts = class_prompts(project.domain(slug))
    return Queries(prompts, encode_prompts(clip, prompts, scratch), seeds, seed_vectors)


def encode_prompts(clip: Clip, prompts: pd.DataFrame, scratch: Scratch) -> Vectors:
    """Unit vectors (Q, D) of the prompts, which are kept in `scratch`, and may be already."""
    texts = prompts["prompt"].tolist()
    kept = scratch.keep(PROMPTS, lambda path: np.save(path, prompt_vectors(clip, texts).numpy()))
    return np.load(kept)


def find_candidates(
    index: Index,
    embeddings: Artifact,
    queries: Queries,
    settings: RetrievalConfig,
    scratch: Scratch,
) -> Candidates:
    """Search every prompt and seed, and fuse the hits.

    Args:
        embeddings: The vectors of images, for `fusion: filter`.
        scratch: As of `search_all`.
    """
    prompt_vectors = queries.prompt_vectors
    if settings.choose == "all":
        captions = StoredVectors(embeddings, "text")
        return _every_pair(queries.prompts, prompt_vectors, captions, settings)
    tables: list[pd.DataFrame] = []
    searches: dict[str, dict[str, Any]] = {}
    vectors = queries.of_modes(settings)
    for mode in settings.modes:
        if mode not in MODE_SIDES:
            from react_pipeline.extensions.names import lexical_hits

            tables.append(
                lexical_hits(embeddings, queries.prompts, prompt_vectors, settings, scratch)
            )
            continue
        side = MODE_SIDES[mode]
        started = time.perf_counter()
        k = settings.k_per_prompt
        similarities, rows, record = search_all(
            index, side, vectors[mode], k, scratch, requested=settings.search
        )
        seconds = round(time.perf_counter() - started, 1)
        searches[mode] = {**record, "measured_seconds": seconds}
        tables.append(_hits(mode, similarities, rows, queries, settings))
    hits = pd.concat(tables, ignore_index=True)
    candidates = fuse(hits, settings)
    if settings.filters and "image" in sides(embeddings):
        similarity = likeness(embeddings, candidates, queries.means(settings))
        candidates = apply_filter(candidates, similarity, settings)
    return Candidates(candidates, _count_hits(hits, settings), searches)


def _every_pair(
    prompts: pd.DataFrame, vectors: Vectors, captions: StoredVectors, settings: RetrievalConfig
) -> Candidates:
    """Each pair of the corpus, for the class whose prompts its caption is nearest to."""
    means = mean_vectors(prompts["class_id"], vectors)
    table = np.stack(list(means.values()))
    class_ids = np.array(list(means))
    nearest = np.empty(captions.rows, np.int64)
    similarities = np.empty(captions.rows, np.float32)
    for start, block in captions.chunks():
        cosines = block @ table.T
        nearest[start : start + len(block)] = cosines.argmax(axis=1)
        similarities[start : start + len(block)] = cosines.max(axis=1)
    first_queries = np.flatnonzero(~prompts["class_id"].duplicated())
    hits = pd.DataFrame(
        {
            "query": first_queries[nearest],
            "row": np.arange(captions.rows),
            "similarity": similarities,
            "rank": 0,
            "mode": pd.Categorical(["t2t"] * captions.rows, list(settings.modes)),
            "class_id": class_ids[nearest],
        }
    )
    return Candidates(fuse(hits, settings), _count_hits(hits, settings), {})


def _hits(
    mode: str, similarities: Vectors, rows: Rows, queries: Queries, settings: RetrievalConfig
) -> pd.DataFrame:
    """The hits (Q, k) of one mode as a table."""
    hits = hits_table(similarities, rows)
    of_seeds = mode == "i2i"
    class_ids = (queries.seeds if of_seeds else queries.prompts)["class_id"].to_numpy()
    codes = np.full(len(hits), settings.modes.index(mode), np.int8)
    return hits.assign(
        query=hits["query"] + (len(queries.prompts) if of_seeds else 0),
        mode=pd.Categorical.from_codes(codes, list(settings.modes)),
        class_id=class_ids[hits["query"]],
    )


def _count_hits(hits: pd.DataFrame, settings: RetrievalConfig) -> pd.DataFrame:
    counts = hits.groupby(["class_id", "mode"], observed=True).size().unstack(fill_value=0)
    return counts.reindex(columns=list(settings.modes), fill_value=0)

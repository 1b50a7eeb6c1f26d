"""Candidates: the hits of all prompts and seed images of a domain, as one list.

Belongs here: the queries, the search in batches of whole classes, the likeness of images to their class. Does not
belong here: which hit is better (`fusion`), which candidate is dropped (`ranking`).

A batch keeps only the best hit of each class and row, so memory follows the candidates and not the hits: 80,000 prompts
with 50 hits in two modes are 8 million hits, of which a batch holds `BATCH_HITS`. Shapes: S seeds, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from react_pipeline.embedding import image_vectors
from react_pipeline.retrieval.fusion import apply_filter, best_hits, in_order
from react_pipeline.settings import RetrievalConfig
from react_pipeline.store import Artifact

if TYPE_CHECKING:
    from react_pipeline.clip import Clip
    from react_pipeline.embedding import Side
    from react_pipeline.indexing import Index

SIDES: dict[str, Side] = {"t2t": "text", "t2i": "image", "i2i": "image"}
"""Which vectors each mode searches."""

BATCH_HITS = 4_000_000
_CHUNK_ROWS = 32_768

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Queries:
    """All queries of a domain.

    Attributes:
        prompts: Of `prompts.class_prompts`.
        seeds: Of `seeds.read_seeds`.
        seed_vectors: (S, D).
    """

    prompts: pd.DataFrame
    seeds: pd.DataFrame
    seed_vectors: Vectors

    @property
    def texts(self) -> pd.Series:
        """The query of each number: the prompts, then the seeds' names."""
        return pd.concat([self.prompts["prompt"], "seed: " + self.seeds["name"].astype(str)], ignore_index=True)


@dataclass(frozen=True)
class Found:
    """What a search gave.

    Attributes:
        candidates: Of `fusion.best_hits`, over all classes.
        hits: Number of hits by class id and mode.
    """

    candidates: pd.DataFrame
    hits: pd.DataFrame


def find_candidates(
    clip: Clip, index: Index, embeddings: Artifact, queries: Queries, settings: RetrievalConfig
) -> Found:
    """Search every prompt and seed, and fuse the hits.

    Args:
        embeddings: The vectors of images, for `fusion: filter`.
    """
    parts, counts = [], []
    batches = list(_batches(queries.prompts, settings))
    for batch in tqdm(batches, desc="searching prompts", disable=None, leave=False):
        prompts = queries.prompts.iloc[batch]
        seeded = queries.seeds["class_id"].isin(prompts["class_id"]).to_numpy()
        vectors = clip.encode_texts(prompts["prompt"].tolist()).numpy()
        hits = _search(index, prompts, vectors, queries, seeded, settings)
        counts.append(hits.groupby(["class_id", "mode"]).size())
        candidates = best_hits(hits, settings)
        if settings.fusion == "filter":
            if settings.filter_by == "seeds":
                means = mean_vectors(queries.seeds.loc[seeded, "class_id"], queries.seed_vectors[seeded])
            else:
                means = mean_vectors(prompts["class_id"], vectors)
            candidates = apply_filter(candidates, likeness(embeddings, candidates, means), settings)
        parts.append(candidates)
    # A batch without any hit has no types that the others could be joined with.
    parts = [part for part in parts if len(part)] or parts[:1]
    candidates = parts[0] if len(parts) == 1 else in_order(pd.concat(parts, ignore_index=True), settings)
    return Found(
        candidates, pd.concat(counts).unstack(fill_value=0).reindex(columns=list(settings.modes), fill_value=0)
    )


def mean_vectors(class_ids: pd.Series, vectors: Vectors) -> dict[int, Vectors]:
    """The unit mean (D,) of each class's vectors."""
    means = {}
    for class_id in class_ids.unique():
        mean = vectors[(class_ids == class_id).to_numpy()].mean(axis=0)
        means[int(class_id)] = mean / np.linalg.norm(mean)
    return means


def likeness(embeddings: Artifact, candidates: pd.DataFrame, means: dict[int, Vectors]) -> Vectors:
    """Cosine of each candidate's image with the mean vector of its class, (N,)."""
    ids = list(means)
    table = np.stack([means[class_id] for class_id in ids])
    position = pd.Series(range(len(ids)), index=ids)[candidates["class_id"]].to_numpy()
    rows = candidates["row"].to_numpy()
    cosines = np.empty(len(candidates), np.float32)
    # In the order of the rows, so that a chunk reads neighbouring pages of the vectors.
    order = np.argsort(rows, kind="stable")
    for start in range(0, len(order), _CHUNK_ROWS):
        chunk = order[start : start + _CHUNK_ROWS]
        images = image_vectors(embeddings, pd.Series(rows[chunk]))
        cosines[chunk] = np.einsum("nd,nd->n", images, table[position[chunk]])
    return cosines


def _batches(prompts: pd.DataFrame, settings: RetrievalConfig) -> Iterator[slice]:
    """Positions of prompts, whole classes at a time."""
    room = max(BATCH_HITS // (settings.k_per_prompt * len(settings.modes)), 1)
    ends = np.flatnonzero(np.diff(prompts["class_id"].to_numpy(), append=-1)) + 1
    start = 0
    for position, end in enumerate(ends):
        following = ends[position + 1] if position + 1 < len(ends) else None
        if following is None or following - start > room:
            yield slice(start, int(end))
            start = int(end)


def _search(
    index: Index,
    prompts: pd.DataFrame,
    vectors: Vectors,
    queries: Queries,
    seeded: NDArray[np.bool_],
    settings: RetrievalConfig,
) -> pd.DataFrame:
    seeds = queries.seeds[seeded]
    found = []
    for mode in settings.modes:
        of_mode, asked = (seeds, queries.seed_vectors[seeded]) if mode == "i2i" else (prompts, vectors)
        if not len(asked):
            continue
        numbers = of_mode.index.to_numpy() + (len(queries.prompts) if mode == "i2i" else 0)
        hits = index.search(SIDES[mode], asked, settings.k_per_prompt).assign(mode=mode)
        hits["class_id"] = of_mode["class_id"].to_numpy()[hits["query"]]
        hits["query"] = numbers[hits["query"]]
        found.append(hits)
    if not found:
        columns = ["query", "row", "similarity", "rank", "mode", "class_id"]
        return pd.DataFrame({name: pd.Series(dtype="float64" if name == "similarity" else "int64") for name in columns})
    return pd.concat(found, ignore_index=True)

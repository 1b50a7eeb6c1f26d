"""Candidates: the hits of all prompts and seed images of a domain, as one list.

Belongs here: the queries, the search in batches of whole classes, the likeness of images to their
class. Does not belong here: which hit is better (`fusion`), which candidate is dropped (`ranking`).
Shapes: S seeds, D width.

All prompts are searched at once, which gives two numbers a hit. A batch makes a table of its hits
and keeps the best of each class and row: 80,000 prompts with 50 hits in two modes are 8 million
hits, of which `BATCH_HITS` are in a table.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from react_pipeline.embedding import Rows, Side, Vectors
from react_pipeline.indexing import Index, StoredVectors, cut, search_all
from react_pipeline.retrieval.fusion import apply_filter, best_hits, in_order
from react_pipeline.retrieval.row_values import values_of_rows
from react_pipeline.settings import DistributorConfig, RetrievalConfig
from react_pipeline.store import Artifact

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

SIDES: dict[str, Side] = {"t2t": "text", "t2i": "image", "i2i": "image"}
"""Which vectors each mode searches."""

BATCH_HITS = 4_000_000


@dataclass(frozen=True)
class Queries:
    """All queries of a domain.

    Attributes:
        prompts: Of `prompts.class_prompts`.
        seeds: Of `seeds.read_seeds`.
        seed_vectors: (S, D).
        templates: Prompts of each name.
    """

    prompts: pd.DataFrame
    seeds: pd.DataFrame
    seed_vectors: Vectors
    templates: int = 1

    @property
    def texts(self) -> pd.Series:
        """The query of each number: the prompts, then the seeds' names."""
        return pd.concat(
            [self.prompts["prompt"], "seed: " + self.seeds["name"].astype(str)], ignore_index=True
        )


@dataclass(frozen=True)
class Found:
    """What a search gave.

    Attributes:
        candidates: Of `fusion.best_hits`, over all classes.
        hits: Number of hits by class id and mode.
        search: By mode, how it was searched (`indexing.Choice.record`).
    """

    candidates: pd.DataFrame
    hits: pd.DataFrame
    search: dict[str, dict[str, Any]]


def find_candidates(
    clip: Clip,
    index: Index,
    embeddings: Artifact,
    queries: Queries,
    settings: RetrievalConfig,
    scratch: Path,
    distributor: DistributorConfig,
) -> Found:
    """Search every prompt and seed, and fuse the hits.

    Args:
        embeddings: The vectors of images, for `fusion: filter`.
        scratch: As of `search_all`.
        distributor: Where vectors are compared.
    """
    parts, counts = [], []
    prompt_vectors = clip.encode_texts(queries.prompts["prompt"].tolist()).numpy()
    if settings.choose == "all":
        return _every_pair(
            queries.prompts, prompt_vectors, StoredVectors(embeddings, "text"), settings
        )
    searched: dict[str, tuple[Vectors, Rows]] = {}
    choices: dict[str, dict[str, Any]] = {}
    for mode in settings.modes:
        asked, templates = (
            (queries.seed_vectors, 1) if mode == "i2i" else (prompt_vectors, queries.templates)
        )
        if not len(asked):
            continue
        side, started = SIDES[mode], time.perf_counter()
        similarities, rows, choice = search_all(
            index,
            side,
            asked,
            settings.k_per_prompt,
            scratch,
            wanted=settings.search,
            distributor=distributor,
            templates=templates,
        )
        searched[mode] = similarities, rows
        seconds = round(time.perf_counter() - started, 1)
        choices[mode] = {**choice.record(index.artifact, side), "measured_seconds": seconds}
    # Whole classes at a time.
    starts = np.flatnonzero(~queries.prompts["class_id"].duplicated()).tolist()
    size = max(BATCH_HITS // (settings.k_per_prompt * len(settings.modes)), 1)
    batches = [slice(*ends) for ends in cut(starts, size, len(queries.prompts))]
    for batch in tqdm(batches, desc="fusing hits", disable=None, leave=False):
        prompts = queries.prompts.iloc[batch]
        seeded = queries.seeds["class_id"].isin(prompts["class_id"]).to_numpy()
        hits = _hits(searched, prompts, batch, queries, seeded)
        counts.append(hits.groupby(["class_id", "mode"], observed=True).size())
        candidates = best_hits(hits, settings)
        if settings.fusion == "filter":
            if settings.filter_by == "seeds":
                means = mean_vectors(
                    queries.seeds.loc[seeded, "class_id"], queries.seed_vectors[seeded]
                )
            else:
                means = mean_vectors(prompts["class_id"], prompt_vectors[batch])
            candidates = apply_filter(
                candidates, likeness(embeddings, candidates, means, distributor), settings
            )
        parts.append(candidates)
    candidates = (
        parts[0] if len(parts) == 1 else in_order(pd.concat(parts, ignore_index=True), settings)
    )
    by_class = (
        pd.concat(counts).unstack(fill_value=0).reindex(columns=list(settings.modes), fill_value=0)
    )
    return Found(candidates, by_class, choices)


def mean_vectors(class_ids: pd.Series, vectors: Vectors) -> dict[int, Vectors]:
    """The unit mean (D,) of each class's vectors."""
    means = {}
    for class_id in class_ids.unique():
        mean = vectors[(class_ids == class_id).to_numpy()].mean(axis=0)
        means[int(class_id)] = mean / np.linalg.norm(mean)
    return means


def likeness(
    embeddings: Artifact,
    candidates: pd.DataFrame,
    means: dict[int, Vectors],
    distributor: DistributorConfig | None = None,
) -> Vectors:
    """Cosine of each candidate's image with the mean vector of its class, (N,)."""
    table = np.stack(list(means.values()))
    position = pd.Series(range(len(means)), index=list(means))[candidates["class_id"]].to_numpy()

    def cosines(images: Vectors, class_positions: NDArray[Any]) -> Vectors:
        found: Vectors = np.einsum("nd,nd->n", images, table[class_positions])
        return found

    return values_of_rows(embeddings, candidates["row"].to_numpy(), cosines, position, distributor)


def _every_pair(
    prompts: pd.DataFrame, vectors: Vectors, captions: StoredVectors, settings: RetrievalConfig
) -> Found:
    """Each pair of the corpus, for the class whose prompts its caption is nearest to."""
    means, first_query = (
        mean_vectors(prompts["class_id"], vectors),
        ~prompts["class_id"].duplicated(),
    )
    table, class_ids = np.stack(list(means.values())), np.array(list(means))
    queries = np.flatnonzero(first_query)
    nearest, similarities = np.empty(captions.rows, np.int64), np.empty(captions.rows, np.float32)
    for start, block in captions.chunks():
        cosines = block @ table.T
        nearest[start : start + len(block)] = cosines.argmax(axis=1)
        similarities[start : start + len(block)] = cosines.max(axis=1)
    hits = pd.DataFrame(
        {
            "query": queries[nearest],
            "row": np.arange(captions.rows),
            "similarity": similarities,
            "rank": 0,
            "mode": pd.Categorical(["t2t"] * captions.rows, list(settings.modes)),
            "class_id": class_ids[nearest],
        }
    )
    counts = hits.groupby(["class_id", "mode"], observed=True).size().unstack(fill_value=0)
    return Found(
        best_hits(hits, settings), counts.reindex(columns=list(settings.modes), fill_value=0), {}
    )


def _hits(
    searched: dict[str, tuple[Vectors, Rows]],
    prompts: pd.DataFrame,
    batch: slice,
    queries: Queries,
    seeded: NDArray[np.bool_],
) -> pd.DataFrame:
    """The hits of a batch in all modes."""
    found = []
    for mode, (similarities, rows) in searched.items():
        of_seeds = mode == "i2i"
        asked = np.flatnonzero(seeded) if of_seeds else np.arange(batch.start, batch.stop)
        class_ids = (queries.seeds[seeded] if of_seeds else prompts)["class_id"].to_numpy()
        query, rank = np.nonzero(rows[asked] >= 0)
        hits = {
            "query": asked[query] + (len(queries.prompts) if of_seeds else 0),
            "row": rows[asked[query], rank],
            "similarity": similarities[asked[query], rank],
            "rank": rank,
            "mode": pd.Categorical.from_codes(
                np.full(len(query), list(searched).index(mode), np.int8), list(searched)
            ),
            "class_id": class_ids[query],
        }
        found.append(pd.DataFrame(hits))
    return pd.concat(found, ignore_index=True)

"""Queries: the prompts and seed images of a domain, and what a search finds with them.

Belongs here: what is asked, asking it. Does not belong here: which hit is better (`fusion`), which
one is dropped (`ranking`). Shapes: Q queries, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from react_pipeline.clip import class_prompts, prompt_vectors
from react_pipeline.embedding import Rows, Side, StoredVectors, Vectors
from react_pipeline.indexing import Index, search_all
from react_pipeline.retrieval.fusion import mean_vectors
from react_pipeline.settings import DomainConfig, Mode, RetrievalConfig
from react_pipeline.store import Artifact, Scratch

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

SEARCH = "search"
"""Folder of a scratch that holds the results of a search."""

MODE_SIDES: dict[Mode, Side] = {"t2t": "text", "t2i": "image", "i2i": "image"}
"""Which vectors each mode searches."""

_PROMPTS = "prompts.npy"
"""The vectors of all prompts, in the scratch of a search."""


class Queries(NamedTuple):
    """All queries of a domain.

    Attributes:
        prompts: From `class_prompts`; they are the first queries.
        seeds: From `read_seeds`; they follow.
        vectors: Unit rows (Q, D) of both.
    """

    prompts: pd.DataFrame
    seeds: pd.DataFrame
    vectors: Vectors

    @property
    def texts(self) -> pd.Series:
        """The query of each number: the prompts, then the seeds' names."""
        names = "seed: " + self.seeds["name"].astype(str)
        return pd.concat([self.prompts["prompt"], names], ignore_index=True)

    @property
    def class_ids(self) -> Rows:
        """The class of each query (Q,)."""
        return np.concatenate([self.prompts["class_id"], self.seeds["class_id"]]).astype(np.int64)

    def numbers(self, mode: Mode) -> slice:
        """Return which queries a mode searches with."""
        first = len(self.prompts)
        return slice(first, None) if mode == "i2i" else slice(0, first)

    def means(self) -> dict[int, Vectors]:
        """Return the unit mean (D,) of each class's prompts."""
        return mean_vectors(self.prompts["class_id"], self.vectors[self.numbers("t2t")])


def encode_queries(
    clip: Clip, domain: DomainConfig, seeds: pd.DataFrame, seed_vectors: Vectors, scratch: Scratch
) -> Queries:
    """Return the queries of a domain; the vectors of prompts are kept in `scratch`, and may be
    already.
    """
    prompts = class_prompts(domain)
    texts = prompts["prompt"].tolist()
    kept = scratch.keep(_PROMPTS, lambda path: np.save(path, prompt_vectors(clip, texts).numpy()))
    return Queries(prompts, seeds, np.concatenate([np.load(kept), seed_vectors]))


def index_modes(settings: RetrievalConfig) -> list[Mode]:
    """Return the modes that search the index; none where all pairs are taken."""
    return [mode for mode in settings.modes if settings.choose != "all" and mode in MODE_SIDES]


def find_hits(
    index: Index,
    embeddings: Artifact,
    queries: Queries,
    settings: RetrievalConfig,
    scratch: Scratch,
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Search with every prompt and seed.

    Args:
        scratch: As of `search_all`.

    Returns:
        Hits: columns query, class_id, mode, row, similarity, rank. And by mode how it was searched.
    """
    prompts, vectors = queries.prompts, queries.vectors[queries.numbers("t2t")]
    if settings.choose == "all":
        hits = _every_pair(prompts, queries.means(), StoredVectors(embeddings, "text"))
        return _in_mode(hits, "t2t", queries, settings), {}
    tables: list[pd.DataFrame] = []
    searches: dict[str, dict[str, Any]] = {}
    for mode in settings.modes:
        if mode == "lexical":
            from react_pipeline.extensions.names import lexical_hits

            tables.append(lexical_hits(embeddings, prompts, vectors, settings, scratch))
            continue
        numbers, k = queries.numbers(mode), settings.k_per_prompt
        hits, searches[mode] = search_all(
            index, MODE_SIDES[mode], queries.vectors[numbers], k, scratch, requested=settings.search
        )
        hits["query"] += numbers.start
        tables.append(_in_mode(hits, mode, queries, settings))
    return pd.concat(tables, ignore_index=True), searches


def _every_pair(
    prompts: pd.DataFrame, means: dict[int, Vectors], captions: StoredVectors
) -> pd.DataFrame:
    """Return a hit for each pair of the corpus: the first prompt of the class whose prompts its
    caption is nearest to.
    """
    table = np.stack(list(means.values()))
    first_queries = np.flatnonzero(~prompts["class_id"].duplicated())
    blocks = []
    for _, block in captions.blocks():
        cosines = block.astype(np.float32) @ table.T
        nearest = first_queries[cosines.argmax(axis=1)]
        blocks.append(pd.DataFrame({"query": nearest, "similarity": cosines.max(axis=1)}))
    hits = pd.concat(blocks, ignore_index=True).assign(rank=0)
    return hits.rename_axis("row").reset_index()


def _in_mode(
    hits: pd.DataFrame, mode: Mode, queries: Queries, settings: RetrievalConfig
) -> pd.DataFrame:
    """Return hits with the class of their query and their mode."""
    codes = np.full(len(hits), settings.modes.index(mode), np.int8)
    return hits.assign(
        mode=pd.Categorical.from_codes(codes, list(settings.modes)),
        class_id=queries.class_ids[hits["query"]],
    )

"""The artifact `faiss_index`, one index over image vectors and one over caption vectors: publishing
and searching it.

Does not belong here: how an index is built (`indexing.build`), how rows are compared
(`indexing.search`). Vectors are unit rows; similarity is their inner product, the cosine. Shapes: Q
queries, D width.
"""

from __future__ import annotations

import hashlib
import os
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from react_pipeline.embedding import Rows, Side, StoredVectors, Vectors
from react_pipeline.embedding import sides as embedded_sides
from react_pipeline.indexing.build import Measured, build_side, draw_queries
from react_pipeline.indexing.keys import choose_key
from react_pipeline.indexing.ready import link_side, ready_digests
from react_pipeline.indexing.search import (
    FEW_QUERIES,
    cell_hits,
    exact_hits,
    find_rows,
    has_whole_cells,
    read_index,
    set_parameters,
)
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.stage import CORPUS_EMBEDDINGS, FAISS_INDEX, encoder_in
from react_pipeline.store import Artifact, InputError, Scratch

CORE_COMPARISONS = 6e10
"""Comparisons of a prompt with a row, a core: about ten minutes in bf16. Up to here `auto` searches
exactly, which finds what an index misses.
"""


def build_index(project: Project) -> Artifact:
    """Publish the artifact `faiss_index`: `image.index` and `text.index`, as far as there are
    vectors, rows numbered as in the embeddings.

    Small corpora are searched exactly. For others the configured key is built, or one that suits
    rows and memory, and tuned to `target_recall`; `reason` in the counts says why it is that key,
    and what fell short. A side that a killed build had finished is kept. If the corpus brings its
    own indices, they are linked instead.

    Raises:
        InputError: If the key fits neither the vectors nor the machine, or as from `link_side`.
    """
    config = project.config.index
    ready = project.config.corpus.ready_indices
    content = ready_digests(project.store.root, ready) if ready is not None else None
    inputs = resolve(project, FAISS_INDEX, content=content)
    embeddings = inputs.parents[CORPUS_EMBEDDINGS]

    def write(staging: Path, scratch: Scratch) -> dict[str, Any]:
        rows, dimension = (int(embeddings.counts[name]) for name in ("rows", "dimension"))
        key, reason = "", f"taken over from {ready}"
        if ready is None:
            key, reason = choose_key(config, rows, dimension)
        queries = draw_queries(embeddings, 2 * config.recall_queries)
        sides: dict[Side, Measured] = {}
        for side in embedded_sides(embeddings):
            stored = StoredVectors(embeddings, side)
            if ready is not None:
                sides[side] = link_side(config, ready, stored, queries, staging)
            else:
                write_side = partial(build_side, config, key, stored, queries)
                sides[side] = scratch.build(f"{side}-{key}", staging, write_side)
            if (tuned := sides[side]["tuned_recall"]) < config.target_recall:
                reason += (
                    f"; {side}: recall@10 is {tuned:.3f} at most with this key, target_recall "
                    f"{config.target_recall} is not reached"
                )
        names = ("parameters", "rerank", "tuned_recall", "recall_at_10", "recall_at_100")
        return {
            "rows": rows,
            "dimension": dimension,
            "encoder": embeddings.parents[encoder_in(embeddings.parents)],
            "key": next(iter(sides.values()))["key"],
            "exact": all(one["key"] == "Flat" for one in sides.values()),
            "reason": reason,
            **{
                name: {side: one[name] for side, one in sides.items() if one[name] is not None}
                for name in names
            },
            "recall_queries": len(queries.rows[::2]),
            "target_recall": config.target_recall,
            "seconds": round(sum(measured["seconds"] for measured in sides.values()), 2),
            "bytes": sum((staging / f"{side}.index").stat().st_size for side in sides),
        }

    return project.store.build(inputs, write)


class Index:
    """A published index, opened; each side is mapped from disk when it is first searched."""

    def __init__(self, artifact: Artifact, encoder: str | None = None, device: str = "cpu") -> None:
        """Take a verified artifact.

        Args:
            encoder: Fingerprint of the checkpoint that makes the queries, if it is to be checked.
            device: Where all prompts are compared (`search_all`): `auto`, `cpu` or `cuda`.

        Raises:
            InputError: If the index was built with another encoder.
        """
        if encoder is not None and encoder != (built_with := artifact.counts["encoder"]):
            raise InputError(
                f"`faiss_index` {artifact.fingerprint} holds vectors of the encoder {built_with}, "
                f"and the queries come from {encoder}: their similarities mean nothing; "
                "rematerialize `corpus_embeddings` and `faiss_index`"
            )
        self.artifact = artifact
        self.rows = int(artifact.counts["rows"])
        self.dimension = int(artifact.counts["dimension"])
        self.device = device
        self._sides: dict[Side, Any] = {}

    def search(self, side: Side, queries: Vectors, k: int) -> pd.DataFrame:
        """Find the k most similar rows for each query in the index.

        Args:
            side: Search among `image` or `text` vectors.
            queries: Unit rows (Q, D).
            k: Hits wanted per query; fewer come back where the index holds or finds fewer.

        Returns:
            Columns query, row (int64), similarity (float32), rank (int64, from 0); by query, best
            first.

        Raises:
            InputError: If the queries are of another dimension than the index, or not finite, or
                `k` is below 1.
            CorruptArtifact: If the index cannot be read.
        """
        if k < 1:
            raise InputError(f"k is {k}; ask for at least 1 hit per query")
        return _hits_table(*self.hits(side, self.checked(queries), k))

    def hits(self, side: Side, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """Search as `find_rows` does, with queries that were `checked`; many of them cell by cell,
        if the index has whole cells.
        """
        if side not in self._sides:
            self._sides[side] = read_index(self.artifact.file(f"{side}.index"))
            set_parameters(self._sides[side], self.artifact.counts["parameters"].get(side, ""))
        index, rerank = self._sides[side], int(self.artifact.counts["rerank"].get(side, 1))
        if len(queries) > FEW_QUERIES and has_whole_cells(index):
            return cell_hits(index, queries, min(k, self.rows), rerank, self.stored_vectors(side))
        stored = self.stored_vectors(side) if rerank > 1 else None
        return find_rows(index, queries, k, rerank, stored)

    def checked(self, queries: Vectors) -> Vectors:
        """Return the queries as FAISS takes them; errors as from `search`."""
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise InputError(
                f"queries of shape {queries.shape} do not fit `faiss_index` "
                f"{self.artifact.fingerprint}, whose vectors have {self.dimension} dimensions: "
                "queries and corpus must come from one encoder"
            )
        if not np.isfinite(queries).all():
            raise InputError("a query holds NaN or infinity; check the checkpoint that encoded it")
        return queries

    def stored_vectors(self, side: Side) -> StoredVectors:
        """Return the vectors of a side."""
        return StoredVectors(self._embeddings, side)

    @cached_property
    def _embeddings(self) -> Artifact:
        # Its manifest names every part: of many, reading it takes longer than a search.
        return self.artifact.open_parent(CORPUS_EMBEDDINGS)

    def choose_way(self, requested: str, queries: int) -> tuple[str, str]:
        """Return how `search_all` searches so many queries, and why.

        Args:
            requested: `retrieval.search`.
        """
        from react_pipeline.clip import choose_device

        if requested != "auto":
            return requested, "configured"
        # A GPU compares all rows while they are read.
        if not self.artifact.counts["parameters"] or choose_device(self.device) != "cpu":
            return "exact", "the index would save no comparisons that take time"
        comparisons, limit = queries * self.rows, CORE_COMPARISONS * (os.cpu_count() or 1)
        reason = f"{comparisons:.1e} comparisons of prompts with rows; exact up to {limit:.1e}"
        return "exact" if comparisons <= limit else "index", reason


def search_all(
    index: Index,
    side: Side,
    queries: Vectors,
    k: int,
    scratch: Scratch,
    *,
    requested: str = "auto",
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the k rows most similar to each of many queries.

    Args:
        index: Of the corpus; its files are opened only if they are searched.
        side: Search among `image` or `text` vectors.
        queries: Unit rows (Q, D).
        k: Hits per query.
        scratch: Keeps the hits of exact search for a later call with the same queries.
        requested: `retrieval.search`.

    Returns:
        Hits with the columns of `Index.search`, equal ones by row. And what the manifest keeps: the
        `way` taken, its `reason` and its recall.

    Raises:
        InputError: As from `Index.search`.
    """
    queries, k = index.checked(queries), min(k, index.rows)
    way, reason = index.choose_way(requested, len(queries))
    record: dict[str, Any] = {"way": way, "reason": reason}
    for name in ("recall_at_10", "recall_at_100"):
        record[name] = 1.0 if way == "exact" else float(index.artifact.counts[name][side])
    if way == "index":
        return _hits_table(*index.hits(side, queries, k)), record
    return _hits_table(*exact_hits_in(scratch, index, side, queries, k)), record


def exact_hits_in(
    scratch: Scratch,
    index: Index,
    side: Side,
    queries: Vectors,
    k: int,
    found: tuple[Vectors, Rows] | None = None,
) -> tuple[Vectors, Rows]:
    """Return the hits (Q, k) of checked queries by exact search; they are kept in a scratch, and
    may be already.

    Args:
        found: What is to be kept, if it is known.
    """
    from react_pipeline.clip import choose_device

    stored = index.stored_vectors(side)
    identity = f"{stored.artifact.fingerprint} {side} {k} {queries.shape}".encode()
    digest = hashlib.sha256(identity + queries.tobytes()).hexdigest()

    def write(path: Path) -> None:
        hits = found or exact_hits(stored, queries, k, choose_device(index.device))
        np.save(path, np.stack(hits))

    similarities, rows = np.load(scratch.keep(f"{digest[:16]}.hits.npy", write))
    return similarities.astype(np.float32), rows.astype(np.int64)


def _hits_table(similarities: Vectors, rows: Rows) -> pd.DataFrame:
    """Return hits (Q, K) as a table, with the columns of `Index.search`."""
    query, rank = np.nonzero(rows >= 0)
    found = {"row": rows[query, rank], "similarity": similarities[query, rank]}
    return pd.DataFrame({"query": query, **found, "rank": rank})

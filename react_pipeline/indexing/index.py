"""The artifact `faiss_index`, one index over image vectors and one over caption vectors: publishing
and searching it.

Does not belong here: how an index is built (`indexing.build`), comparing all rows
(`indexing.exact`). Vectors are unit rows; similarity is their inner product, the cosine. Shapes: Q
queries, D width.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from react_pipeline.embedding import Rows, Side, Vectors
from react_pipeline.embedding import sides as embedded_sides
from react_pipeline.indexing.build import Measured, build_side, draw_queries, index_counts
from react_pipeline.indexing.exact import FEW_QUERIES, exact_hits
from react_pipeline.indexing.files import (
    cell_hits,
    find_rows,
    has_whole_cells,
    read_index,
    set_parameters,
)
from react_pipeline.indexing.keys import choose_key
from react_pipeline.indexing.vectors import StoredVectors
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.store import Artifact, InputError, Scratch

CORE_COMPARISONS = 6e10
"""Comparisons of a prompt with a row, a core: about ten minutes in bf16. Up to here `auto` searches
exactly, which finds what an index misses.
"""

Way = Literal["exact", "index"]
Requested = Literal["auto", "exact", "index"]


def build_index(project: Project) -> Artifact:
    """Publish the artifact `faiss_index`: `image.index` and `text.index`, as far as there are
    vectors, rows numbered as in the embeddings.

    Small corpora are searched exactly. For others the configured key is built, or one that suits
    rows and memory, and tuned to `target_recall`; `reason` in the counts says why it is that key,
    and what fell short. A kind of corpus may bring indices instead (`adopt_index`).

    A side that a killed build had finished is kept.

    Raises:
        InputError: If a vector is not finite or not of unit length: FAISS would silently never find
            it; if the key fits neither the vectors nor the machine.
    """
    if (adopted := project.config.corpus.adopt_index(project)) is not None:
        return adopted
    config = project.config.index
    inputs = resolve(project, "faiss_index")
    embeddings = inputs.parents["corpus_embeddings"]

    def write(staging: Path, scratch: Scratch) -> dict[str, Any]:
        counts = embeddings.counts
        key, reason = choose_key(config, int(counts["rows"]), int(counts["dimension"]))
        queries = draw_queries(embeddings, 2 * config.recall_queries)
        sides: dict[Side, Measured] = {}
        for side in embedded_sides(embeddings):

            def write_side(folder: Path, side: Side = side) -> Measured:
                path = folder / f"{side}.index"
                return build_side(config, key, embeddings, side, path, queries)

            sides[side] = scratch.build(f"{side}-{key}", staging, write_side)
        return index_counts(embeddings, config, sides, reason, queries, staging)

    return project.store.build(inputs, write)


class Index:
    """A published index, opened; each side is mapped from disk when it is first searched."""

    def __init__(
        self,
        artifact: Artifact,
        encoder: str | None = None,
        *,
        embeddings: Artifact | None = None,
        device: str = "cpu",
    ) -> None:
        """Take a verified artifact.

        Args:
            encoder: Fingerprint of the checkpoint that makes the queries, if it is to be checked.
            embeddings: Those it was built of, for ranking again; None: found in the same store when
                they are needed.
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
        self._embeddings = embeddings
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
            InputError: If the queries are of another dimension than the index, or not finite, or k
                is below 1.
            CorruptArtifact: If the index cannot be read.
        """
        return hits_table(*self.hits(side, self.checked(queries, k), k))

    def hits(self, side: Side, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """Search as `find_rows` does, with queries that were `checked`; many of them cell by cell,
        if the index has whole cells.
        """
        index, k = self.opened(side), min(k, self.rows)
        rerank = int(self.artifact.counts["rerank"].get(side, 1))
        if len(queries) > FEW_QUERIES and has_whole_cells(index):
            return cell_hits(index, queries, k, rerank, self.stored_vectors(side))
        stored = self.stored_vectors(side) if rerank > 1 else None
        return find_rows(index, queries, k, rerank, stored)

    def checked(self, queries: Vectors, k: int) -> Vectors:
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
        if k < 1:
            raise InputError(f"k is {k}; ask for at least 1 hit per query")
        return queries

    def opened(self, side: Side) -> Any:
        """Return the index of a side, mapped from disk, its parameters set.

        Raises:
            CorruptArtifact: If it cannot be read.
        """
        if side not in self._sides:
            path = self.artifact.file(f"{side}.index")
            index = read_index(path, mapped=True)
            set_parameters(index, self.artifact.counts["parameters"].get(side, ""))
            self._sides[side] = index
        return self._sides[side]

    def stored_vectors(self, side: Side) -> StoredVectors:
        """Return the vectors of a side."""
        if self._embeddings is None:
            self._embeddings = self.artifact.open_parent("corpus_embeddings")
        return StoredVectors(self._embeddings, side)


def search_all(
    index: Index,
    side: Side,
    queries: Vectors,
    k: int,
    scratch: Scratch,
    *,
    requested: Requested = "auto",
) -> tuple[Vectors, Rows, dict[str, Any]]:
    """Return the k rows most similar to each of many queries.

    Args:
        index: Of the corpus; its files are opened only if they are searched.
        side: Search among `image` or `text` vectors.
        queries: Unit rows (Q, D).
        k: Hits per query.
        scratch: Keeps the hits of exact search for a later call with the same queries.
        requested: `retrieval.search`.

    Returns:
        Similarities and rows (Q, k), best first, equal ones by row; minus infinity and -1 where
        there are fewer. And what the manifest keeps: the `way` taken, its `reason` and its recall.

    Raises:
        InputError: As from `Index.search`; or if a stored vector is not finite or not of unit
            length.
    """
    queries, k = index.checked(queries, k), min(k, index.rows)
    way, reason = way_of_index(index, requested, len(queries))
    record: dict[str, Any] = {"way": way, "reason": reason}
    for name in ("recall_at_10", "recall_at_100"):
        record[name] = 1.0 if way == "exact" else float(index.artifact.counts[name][side])
    if way == "index":
        return *index.hits(side, queries, k), record
    return *exact_hits_in(scratch, index, side, queries, k), record


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


def way_of_index(index: Index, requested: Requested, queries: int) -> tuple[Way, str]:
    """Return how `search_all` searches so many queries, and why."""
    from react_pipeline.clip import choose_device

    on_gpu = choose_device(index.device) != "cpu"
    # A GPU compares all rows while they are read.
    approximate = bool(index.artifact.counts["parameters"]) and not on_gpu
    return choose_way(requested, queries, index.rows, approximate)


def choose_way(
    requested: Requested, queries: int, rows: int, approximate: bool, cores: int | None = None
) -> tuple[Way, str]:
    """Return how processors search, and why.

    Args:
        requested: `retrieval.search`.
        approximate: Whether the index would save comparisons: it has cells or a graph.
        cores: By default those of this machine.
    """
    if requested != "auto":
        return requested, "configured"
    if not approximate:
        return "exact", "the index would save no comparisons that take time"
    limit = CORE_COMPARISONS * (cores or os.cpu_count() or 1)
    way: Way = "exact" if queries * rows <= limit else "index"
    return way, f"{queries * rows:.1e} comparisons of prompts with rows; exact up to {limit:.1e}"


def hits_table(similarities: Vectors, rows: Rows) -> pd.DataFrame:
    """Return hits (Q, K) as a table, with the columns of `Index.search`."""
    query, rank = np.nonzero(rows >= 0)
    found = {"row": rows[query, rank], "similarity": similarities[query, rank]}
    return pd.DataFrame({"query": query, **found, "rank": rank})

"""All queries of a domain against the corpus; a killed search is resumed.

Does not belong here: comparing (`indexing.exact`). A part is a run of rows, and its k best hits of
each query are a file; the k best of all are among these, and are a file too. Shapes: Q queries, D
width.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from react_pipeline.embedding import Rows, Side, Vectors
from react_pipeline.indexing.exact import exact_hits
from react_pipeline.indexing.index import Index
from react_pipeline.indexing.vectors import StoredVectors
from react_pipeline.store import Scratch

PART_ROWS = 4_000_000
"""4 GB of vectors of 512 numbers in half precision."""
_HIT = np.dtype([("similarity", "<f4"), ("row", "<i8")])
CORE_COMPARISONS = 6e10
"""Comparisons of a prompt with a row, a core: about ten minutes in bf16. Up to here `auto` searches
exactly, which finds what an index misses.
"""

Way = Literal["exact", "index"]
Requested = Literal["auto", "exact", "index"]

Hits = np.ndarray[Any, np.dtype[np.void]]
"""Tables (Q, k) of similarities and rows, of type `_HIT`."""


class Search(NamedTuple):
    """Queries (Q, D), hits per query, and the `scratch` of `search_all`."""

    queries: Vectors
    k: int
    scratch: Scratch


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
        scratch: Keeps parts of the result, which a later call with the same queries resumes.
        requested: `retrieval.search`.

    Returns:
        Similarities and rows (Q, k), best first, equal ones by row; minus infinity and -1 where
        there are fewer. And what the manifest keeps: the `way` taken, its `reason` and its recall.

    Raises:
        InputError: As from `Index.search`; or if a stored vector is not finite or not of unit
            length.
    """
    queries = index.checked(queries, k)
    k = min(k, index.rows)
    way, reason = way_of_index(index, requested, len(queries))
    record: dict[str, Any] = {"way": way, "reason": reason}
    for name in ("recall_at_10", "recall_at_100"):
        record[name] = 1.0 if way == "exact" else float(index.artifact.counts[name][side])
    if way == "index":
        return *index.hits(side, queries, k), record
    hits = scan_exactly(index, side, Search(queries, k, scratch))
    return hits["similarity"].copy(), hits["row"].copy(), record


def way_of_index(index: Index, requested: Requested, queries: int) -> tuple[Way, str]:
    """Return how `search_all` searches so many queries, and why."""
    from react_pipeline.clip import choose_device

    if requested == "auto" and choose_device(index.device) != "cpu":
        return "exact", "a GPU compares all rows while they are read"
    return choose_way(requested, queries, index.rows, bool(index.artifact.counts["parameters"]))


def choose_way(
    requested: Requested, queries: int, rows: int, approximate: bool, cores: int | None = None
) -> tuple[Way, str]:
    """Return how processors search, and why.

    Args:
        requested: `retrieval.search`.
        approximate: Whether the index has cells or a graph.
        cores: By default those of this machine.
    """
    if requested != "auto":
        return requested, "configured"
    if not approximate:
        return "exact", "the index has no cells or graph that would save comparisons"
    limit = CORE_COMPARISONS * (cores or os.cpu_count() or 1)
    way: Way = "exact" if queries * rows <= limit else "index"
    return way, f"{queries * rows:.1e} comparisons of prompts with rows; exact up to {limit:.1e}"


def hits_file(stored: StoredVectors, queries: Vectors, k: int) -> str:
    """Return the name in a scratch of the hits of queries that are checked."""
    identity = f"{stored.artifact.fingerprint} {stored.side} {k} {queries.shape}".encode()
    return f"{hashlib.sha256(identity + queries.tobytes()).hexdigest()[:16]}.hits.npy"


def scan_exactly(index: Index, side: Side, search: Search) -> Hits:
    """Return the hits (Q, k) of a search whose queries are checked."""
    from react_pipeline.clip import choose_device

    stored, device = index.stored_vectors(side), choose_device(index.device)
    queries, k, scratch = search
    name = hits_file(stored, queries, k)

    def scan(path: Path) -> None:
        merged = np.empty((len(queries), 0), _HIT)
        for first in range(0, stored.rows, PART_ROWS):
            rows = (first, min(first + PART_ROWS, stored.rows))

            def search_part(path: Path, rows: tuple[int, int] = rows) -> None:
                hits = exact_hits(stored, queries, k, device=device, rows=rows)
                np.save(path, np.rec.fromarrays(hits, _HIT))

            part = np.load(scratch.keep(name.replace("hits", str(first)), search_part))
            merged = np.concatenate([merged, part], axis=1)
            # Parts are in the order of rows, so equal hits stay in it.
            order = np.argsort(-merged["similarity"], axis=1, kind="stable")[:, :k]
            merged = np.take_along_axis(merged, order, axis=1)
        np.save(path, merged)

    return np.load(scratch.keep(name, scan))

"""All queries of a domain against the corpus: here or on a cluster; a killed search is resumed.

Does not belong here: comparing (`indexing.exact`). A part is a run of rows, and its k best hits of
each query are a file; the k best of all are among these, and are a file too. Tasks need the vectors
and the file of queries, and no index. Shapes: Q queries, D width.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from react_pipeline.embedding import Rows, Side, Vectors
from react_pipeline.indexing.exact import exact_hits, ranked_hits
from react_pipeline.indexing.files import cell_hits, has_whole_cells
from react_pipeline.indexing.index import Index
from react_pipeline.indexing.vectors import StoredVectors
from react_pipeline.project import on_cluster, require_shared, spread
from react_pipeline.store import Artifact, Scratch

logger = logging.getLogger(__name__)

PART_ROWS = 4_000_000
"""Rows of a task: 4 GB of vectors of 512 numbers in half precision."""
_HIT = np.dtype([("similarity", "<f4"), ("row", "<i8")])
_MERGED_QUERIES = 8_192
CORE_COMPARISONS = 6e10
"""Comparisons of a prompt with a row, a core: about ten minutes in bf16. Up to here `auto` searches
exactly, which finds what an index misses.
"""

Way = Literal["exact", "index"]

Hits = np.ndarray[Any, np.dtype[np.void]]
"""Tables (Q, k) of similarities and rows, of type `_HIT`."""


def search_all(
    index: Index,
    side: Side,
    queries: Vectors,
    k: int,
    scratch: Scratch,
    *,
    requested: Literal["auto", "exact", "index"] = "auto",
) -> tuple[Vectors, Rows, dict[str, Any]]:
    """The k rows most similar to each of many queries.

    Args:
        index: Of the corpus; its files are opened only if they are searched.
        side: Search among `image` or `text` vectors.
        queries: Unit rows (Q, D).
        k: Hits per query.
        scratch: Keeps parts of the result, which a later call with the same queries resumes. On a
            cluster all machines must see it.
        requested: `retrieval.search`.

    Returns:
        Similarities and rows (Q, k), best first, equal ones by row; minus infinity and -1 where
        there are fewer. And what the manifest keeps: the `way` taken, its `reason` and its recall.

    Raises:
        InputError: As of `Index.search`; or if a stored vector is not finite or not of unit length.
    """
    queries = index.checked(queries, k)
    k = min(k, index.rows)
    way, reason = way_of_index(index, requested, len(queries))
    work = f"{len(queries):,} queries against {index.rows:,} rows"
    logger.info("%s: %s (%s)", work, way, reason)
    record: dict[str, Any] = {"way": way, "reason": reason}
    for name in ("recall_at_10", "recall_at_100"):
        record[name] = 1.0 if way == "exact" else float(index.artifact.counts[name][side])
    if way == "exact":
        kept = scan_exactly(index, side, Search(queries, k, scratch))
        hits = np.ascontiguousarray(kept["similarity"]), np.ascontiguousarray(kept["row"])
    elif has_whole_cells(opened := index.opened(side)):
        hits = cell_hits(opened, queries, k, index.rerank(side), index.stored_vectors(side))
    else:
        hits = index.hits(side, queries, k)
    return *hits, record


def way_of_index(
    index: Index, requested: Literal["auto", "exact", "index"], queries: int
) -> tuple[Way, str]:
    """Return how `search_all` searches so many queries, and why."""
    from react_pipeline.clip import choose_device

    if requested == "auto" and on_cluster():
        return "exact", "tasks of a cluster read the vectors and need no index"
    if requested == "auto" and choose_device(index.device) != "cpu":
        return "exact", "a GPU compares all rows while they are read"
    return choose_way(requested, queries, index.rows, bool(index.artifact.counts["parameters"]))


def choose_way(
    requested: Literal["auto", "exact", "index"],
    queries: int,
    rows: int,
    approximate: bool,
    cores: int | None = None,
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
    comparisons = f"{queries * rows:.1e} comparisons of prompts with rows are"
    if queries * rows <= limit:
        return "exact", f"{comparisons} at most {limit:.1e}"
    return "index", f"{comparisons} more than {limit:.1e}"


class Search(NamedTuple):
    """Queries (Q, D), hits per query, and the `scratch` of `search_all`."""

    queries: Vectors
    k: int
    scratch: Scratch


def hits_file(stored: StoredVectors, queries: Vectors, k: int) -> str:
    """Name in a scratch of the hits of queries that are checked."""
    identity = f"{stored.artifact.fingerprint} {stored.side} {k} {queries.shape}".encode()
    name = hashlib.sha256(identity + queries.tobytes()).hexdigest()[:16]
    return f"{name}.hits.npy"


def scan_exactly(index: Index, side: Side, search: Search) -> Hits:
    """The hits (Q, k) of a search whose queries are checked."""
    stored = index.stored_vectors(side)
    queries, k, scratch = search
    name = hits_file(stored, queries, k)

    def scan(path: Path) -> None:
        kept = scratch.keep(name.replace(".hits", ""), lambda path: np.save(path, queries))
        task = ScanTask(stored.artifact, side, kept, k, index.device)
        starts = range(0, stored.rows, PART_ROWS)
        parts = [(first, min(first + PART_ROWS, stored.rows)) for first in starts]
        spread(task, parts, f"searching the {side} vectors")
        np.save(path, merge_parts([task.file(first) for first, _ in parts], k))

    return np.load(scratch.keep(name, scan))


@dataclass(frozen=True)
class ScanTask:
    """Searches a part exactly; an item is the start and stop of its rows."""

    embeddings: Artifact
    side: Side
    queries: Path
    k: int
    device: str

    def file(self, first: int) -> Path:
        """The file with the hits of the part that begins with this row."""
        return self.queries.with_suffix(f".{first}.npy")

    def __call__(self, rows: tuple[int, int]) -> None:
        """Write the hits, unless they were written before.

        Raises:
            InputError: If this machine does not see the folder.
        """
        from react_pipeline.clip import choose_device

        require_shared(self.queries.parent)

        def write(path: Path) -> None:
            stored = StoredVectors(self.embeddings, self.side)
            device = choose_device(self.device)
            queries = np.load(self.queries)
            values = exact_hits(stored, queries, self.k, device=device, rows=rows)
            hits = np.empty(values[0].shape, _HIT)
            hits["similarity"], hits["row"] = values
            np.save(path, hits)

        Scratch(self.queries.parent).keep(self.file(rows[0]).name, write)


def merge_parts(paths: list[Path], k: int) -> Hits:
    """The k best hits (Q, k) of all parts."""
    parts = [np.load(path, mmap_mode="r") for path in paths]
    merged = np.empty((len(parts[0]), k), _HIT)
    for start in range(0, len(merged), _MERGED_QUERIES):
        some = slice(start, start + _MERGED_QUERIES)
        hits = np.concatenate([part[some] for part in parts], axis=1)
        query, place = np.nonzero(hits["row"] >= 0)
        best = hits[query, place]
        merged["similarity"][some], merged["row"][some] = ranked_hits(
            query, best["row"], best["similarity"], len(hits), k
        )
    return merged

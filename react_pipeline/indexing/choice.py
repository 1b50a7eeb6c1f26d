"""Which way all queries are searched: `exact` or `index`, by sums of operations and bytes.

Belongs here: the estimates and the choice. Does not belong here: searching (`indexing.batch`). The
sums are rough: what they decide between usually differs by a factor and not by a third. `plan` and
benchmarks/results.md use the same.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from react_pipeline.embedding import Side
from react_pipeline.indexing.batch import product_precision
from react_pipeline.indexing.keys import Key
from react_pipeline.store import Artifact

Way = Literal["exact", "index"]

OPERATIONS_PER_SECOND = {"fp32": 7e10, "bf16": 2.3e11, "cuda": 1e14}
"""Multiplications and additions of a core by type, and of a GPU (assumed)."""
CELL_OPERATIONS_PER_SECOND = 4e10
"""Likewise of a core, in the cells of an index. Both by `benchmarks.retrieval` with a million rows
and 96 of 2,048 cells on one core of an AMD EPYC with bf16 instructions."""
SEARCH_OPERATIONS_PER_SECOND = 2e9
"""Rate of a core that walks a graph row by row: it waits for memory."""
BYTES_PER_SECOND = 5e8
RANDOM_READS_PER_SECOND = 2e5
EXACT_IS_WORTH_SECONDS = 600
"""Exact search finds what an index misses; an index is taken only where it saves more than this."""


@dataclass(frozen=True)
class Choice:
    """The way taken, and the estimates for both."""

    way: Way
    reason: str
    exact_operations: float
    exact_seconds: float
    index_operations: float
    index_seconds: float

    @property
    def seconds(self) -> float:
        """Of the way taken."""
        return self.exact_seconds if self.way == "exact" else self.index_seconds

    def record(self, artifact: Artifact, side: Side) -> dict[str, Any]:
        """The fields that the manifest keeps, with the recall of the chosen way."""
        record = asdict(self)
        for name in ("exact_seconds", "index_seconds"):
            record[name] = round(record[name], 1)
        for name in ("recall_at_10", "recall_at_100"):
            record[name] = 1.0 if self.way == "exact" else float(artifact.counts[name][side])
        return record


@dataclass(frozen=True)
class Searched:
    """The properties that decide the cost of searching one side of an index.

    Attributes:
        probed: Cells that a query is compared with; 0 without cells.
        walked: Rows that a query keeps while it walks a graph; 0 without one.
        rerank: How many times the hits requested are ranked again by the stored vectors.
    """

    rows: int
    width: int
    bytes: int
    cells: int = 1
    links: int = 0
    probed: int = 0
    walked: int = 0
    rerank: int = 1

    @classmethod
    def built(cls, artifact: Artifact, side: Side) -> Searched:
        """Read them from a published `faiss_index` and its search parameters."""
        counts = artifact.counts
        text = f"{counts['key']} {counts['parameters'].get(side, '')}"

        def number(pattern: str, otherwise: int = 0) -> int:
            return int(match[0]) if (match := re.search(pattern, text)) else otherwise

        return cls(
            int(counts["rows"]),
            int(counts["dimension"]),
            int(counts["bytes"]) // 2,  # of both sides
            cells=number(r"(?<=IVF)\d+|\d+(?= cells)", 1),
            links=number(r"(?<=HNSW)\d+", 32),
            probed=number(r"(?<=nprobe=)\d+"),
            walked=number(r"(?<=\befSearch=)\d+"),
            rerank=int(counts["rerank"].get(side, 1)),
        )

    @classmethod
    def planned(cls, key: Key, rows: int, width: int) -> Searched:
        """Estimate them before the index is built, with parameters as tuning usually finds."""
        probed = -(-key.cells // 20)
        walked = 128 if key.links else 0
        size = key.bytes(rows, width)
        return cls(rows, width, size, key.cells or 1, key.links, probed, walked, key.rerank)


def estimate(
    requested: Literal["auto", "exact", "index"],
    built: Searched,
    queries: int,
    k: int,
    *,
    device: str = "cpu",
    spreads: bool = False,
    cores: int | None = None,
    precision: str | None = None,
) -> Choice:
    """Choose how all queries are searched, by the sums alone.

    Args:
        requested: `retrieval.search`.
        queries: How many.
        k: Hits per query.
        device: `cpu` or `cuda`.
        spreads: Whether a cluster runs the search.
        cores: None: those of this machine; likewise the precision.
    """
    cores = cores or os.cpu_count() or 1
    rows = built.rows
    width = built.width
    precision = precision or product_precision(queries, device)
    exact = 2.0 * queries * rows * width
    rate = OPERATIONS_PER_SECOND["cuda"]
    if device == "cpu":
        rate = cores * OPERATIONS_PER_SECOND[precision]
    exact_seconds = exact / rate + reading_seconds(rows, width)
    index = exact
    index_seconds = exact_seconds
    if built.probed:
        index = 2.0 * queries * width * (built.cells + rows * min(built.probed / built.cells, 1))
        index_seconds = index / (cores * CELL_OPERATIONS_PER_SECOND)
        index_seconds += built.bytes / BYTES_PER_SECOND
    elif built.walked:
        index = 2.0 * queries * width * built.walked * built.links
        index_seconds = index / (cores * SEARCH_OPERATIONS_PER_SECOND)
    if built.rerank > 1:
        index_seconds += min(queries * k * built.rerank, rows) / RANDOM_READS_PER_SECOND
    approximate = bool(built.probed or built.walked)
    way, reason = _choose(requested, exact_seconds, index_seconds, approximate, spreads)
    return Choice(way, reason, exact, exact_seconds, index, index_seconds)


def reading_seconds(rows: int, width: int) -> float:
    """Of the vectors of one side."""
    return 2 * rows * width / BYTES_PER_SECOND


def _choose(
    requested: str, exact: float, index: float, approximate: bool, spreads: bool
) -> tuple[Way, str]:
    if requested == "index":
        return "index", "configured"
    if requested == "exact":
        return "exact", "configured"
    if spreads:
        return "exact", "tasks of a cluster read the vectors and need no index"
    if not approximate:
        return "exact", "the index has no cells or graph that would save comparisons"
    if exact - index <= EXACT_IS_WORTH_SECONDS:
        return "exact", f"the index would save {max(exact - index, 0):,.0f} s at most and miss rows"
    return "index", f"it saves {exact - index:,.0f} s"

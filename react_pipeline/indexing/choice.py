"""Which way all queries are searched: `exact` or `index`, by sums of operations and bytes.

Belongs here: the estimates and the choice. Does not belong here: searching (`indexing.batch`). The sums are rough, and
meant to be: what they decide between usually differs by a factor and not by a third.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from react_pipeline.embedding import Side
from react_pipeline.indexing.batch import product_precision
from react_pipeline.store import Artifact

Way = Literal["exact", "index"]

OPERATIONS_PER_SECOND = {"fp32": 5e10, "bf16": 5e11, "cuda": 1e14}
"""Of matrix products, additions counted too: of a core by type, and of a GPU."""
SEARCH_OPERATIONS_PER_SECOND = 2e9
"""Of comparisons one by one along a graph, per core: they wait for memory."""
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

    def record(self, artifact: Artifact, side: Side) -> dict[str, Any]:
        """What the manifest keeps, with the recall of the way taken."""
        recall = {f"recall_at_{k}": float(artifact.counts[f"recall_at_{k}"][side]) for k in (10, 100)}
        return {**asdict(self), **(dict.fromkeys(recall, 1.0) if self.way == "exact" else recall)}


def choose_way(
    wanted: Literal["auto", "exact", "index"],
    artifact: Artifact,
    side: Side,
    queries: int,
    k: int,
    *,
    device: str = "cpu",
    spreads: bool = False,
) -> Choice:
    """Choose how all queries are searched.

    Args:
        wanted: `retrieval.search`.
        artifact: The `faiss_index`.
        side: Which of its sides.
        queries: How many.
        k: Hits per query.
        device: `cpu` or `cuda`.
        spreads: Whether a cluster does the work.
    """
    counts, cores = artifact.counts, os.cpu_count() or 1
    rows, width = int(counts["rows"]), int(counts["dimension"])
    precision = product_precision(queries, device)
    rate = OPERATIONS_PER_SECOND["cuda"] if device != "cpu" else cores * OPERATIONS_PER_SECOND[precision]
    exact = 2.0 * queries * rows * width
    exact_seconds = exact / rate + 2 * rows * width / BYTES_PER_SECOND
    index, index_seconds = exact, exact_seconds
    parameters = str(counts["parameters"].get(side, ""))
    if found := re.search(r"nprobe=(\d+)", parameters):
        cells = int((re.search(r"(?<=IVF)\d+|\d+(?= cells)", counts["key"]) or "1")[0])
        index = 2.0 * queries * width * (cells + rows * min(int(found[1]) / cells, 1))
        index_seconds = index / rate + counts["bytes"] / BYTES_PER_SECOND
    elif found := re.search(r"efSearch=(\d+)", parameters):
        links = int((re.search(r"(?<=HNSW)\d+", counts["key"]) or ["32"])[0])
        index = 2.0 * queries * width * int(found[1]) * links
        index_seconds = index / (cores * SEARCH_OPERATIONS_PER_SECOND)
    if (rerank := int(counts.get("rerank", {}).get(side, 1))) > 1:
        index_seconds += min(queries * k * rerank, rows) / RANDOM_READS_PER_SECOND
    way, reason = _choose(wanted, exact_seconds, index_seconds, bool(parameters), spreads)
    return Choice(way, reason, exact, round(exact_seconds, 1), index, round(index_seconds, 1))


def _choose(wanted: str, exact: float, index: float, approximate: bool, spreads: bool) -> tuple[Way, str]:
    if wanted == "index":
        return "index", "configured"
    if wanted == "exact":
        return "exact", "configured"
    if spreads:
        return "exact", "tasks of a cluster read the vectors and need no index"
    if not approximate:
        return "exact", "the index has no cells or graph that would save comparisons"
    if exact - index <= EXACT_IS_WORTH_SECONDS:
        return "exact", f"the index would save {max(exact - index, 0):,.0f} s at most and miss rows"
    return "index", f"it saves {exact - index:,.0f} s"

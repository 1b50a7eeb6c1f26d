"""Losses: what an artifact says of the files and samples that were skipped, as a line and as a
table.

Does not belong here: counting them (`react_pipeline.corpus`, `react_pipeline.embedding`).
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import islice

import pyarrow.parquet as pq

from react_pipeline.corpus import FAILED_FILE, SKIPPED_FILE
from react_pipeline.embedding import LEDGER_FILE
from react_pipeline.pages import markdown_table
from react_pipeline.store import Artifact

MAX_NAMES = 3
_BATCHES = 2
"""Parts of a file, of 65,536 rows each, that are searched for names."""


@dataclass
class Loss:
    """How many files or samples were skipped for a reason, and the first names of them."""

    reason: str
    count: int
    names: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """The reason, the count and the names."""
        more = ", ..." if self.names and self.count > len(self.names) else ""
        return f"{self.reason} {self.count:,}" + (
            f" ({', '.join(self.names)}{more})" if self.names else ""
        )


def losses(artifact: Artifact) -> list[Loss]:
    """What was skipped on the way to a corpus or its embeddings, the most frequent reason first."""
    if artifact.stage not in ("corpus", "corpus_embeddings"):
        return []
    counts, names = Counter[str](), _names(artifact)
    for field_name in ("reasons", "skipped"):
        by_reason = artifact.counts.get(field_name)
        counts.update(by_reason if isinstance(by_reason, dict) else {})
    skipped = [Loss(reason, count, names[reason]) for reason, count in counts.items() if count]
    return sorted(skipped, key=lambda loss: -loss.count)


def loss_line(artifact: Artifact) -> str:
    """`; skipped: REASON COUNT (NAMES), ...`, or "" if nothing was."""
    listed = ", ".join(map(str, losses(artifact)))
    return f"; skipped: {listed}" if listed else ""


def loss_table(artifact: Artifact) -> str:
    """The same as Markdown; "" if nothing was."""
    rows = [(loss.reason, loss.count, ", ".join(loss.names)) for loss in losses(artifact)]
    return markdown_table(["skipped", "count", "first of them"], rows) if rows else ""


def _names(artifact: Artifact) -> dict[str, list[str]]:
    names: dict[str, list[str]] = defaultdict(list)
    for file in {SKIPPED_FILE, FAILED_FILE, LEDGER_FILE} & set(artifact.manifest["files"]):
        with pq.ParquetFile(artifact.file(file)) as table:
            columns = [
                name
                for name in ("reason", "source", "url", "key")
                if name in table.schema_arrow.names
            ]
            for batch in islice(table.iter_batches(columns=columns), _BATCHES):
                for row in batch.to_pylist():
                    if len(names[row["reason"]]) < MAX_NAMES:
                        names[row["reason"]].append(
                            row.get("source") or row.get("url") or row["key"]
                        )
    return names

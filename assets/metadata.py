"""Metadata: an artifact as Dagster shows it: small pictures, tables, and numbers that make plots
over time.

Belongs here: turning manifests and files into metadata values, and their order. File names,
captions and class names come from outside, so everything that goes into Markdown is escaped;
`table.md` already is, by its writer.
"""

import base64
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from react_pipeline.store import Artifact
from react_pipeline.tracking import flatten

MAX_PICTURE_BYTES = 100_000
MAX_TEXT_CHARS = 2_000

TABLES = ("pairs.parquet", "images.parquet", "predictions.parquet", "table.parquet")
"""The table of an artifact is the first of these that it has."""


def describe(artifact: Artifact, links: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return everything worth looking at, in the order in which Dagster shows it: pictures, tables,
    counts, links, address and fingerprint.

    Args:
        links: Entries that lead elsewhere, such as to MLflow.
    """
    shown = _pictures(artifact)
    files = artifact.files
    if "table.md" in files:
        table = artifact.file("table.md").read_text(encoding="utf-8")
        shown["table"] = dg.MetadataValue.md(table)
    shown |= {name: _value(value) for name, value in flatten(artifact.counts)}
    shown["bytes"] = sum(entry["bytes"] for entry in files.values())
    shown["reused"] = artifact.reused
    if "dashboard.html" in files:
        shown["dashboard"] = dg.MetadataValue.path(str(artifact.file("dashboard.html")))
    shown |= links or {}
    shown |= _columns(artifact)
    shown["dagster/uri"] = artifact.address
    shown["fingerprint"] = artifact.fingerprint
    return shown


def _columns(artifact: Artifact) -> dict[str, Any]:
    """Return rows and columns of the artifact's table, as Dagster's catalog shows them."""
    name = next((name for name in TABLES if name in artifact.files), None)
    if name is None:
        return {}
    table = pq.ParquetFile(artifact.file(name))
    columns = [dg.TableColumn(field.name, str(field.type)) for field in table.schema_arrow]
    return {
        "dagster/row_count": table.metadata.num_rows,
        "dagster/column_schema": dg.TableSchema(columns),
    }


def loss_line(artifact: Artifact) -> str:
    """Return `; skipped: REASON COUNT, ...` of a corpus or its embeddings, the most frequent reason
    first; "" if nothing was.
    """
    counts: Counter[str] = Counter()
    if artifact.stage in ("corpus", "corpus_embeddings"):
        for name in ("reasons", "skipped"):
            by_reason = artifact.counts.get(name)
            if isinstance(by_reason, dict):
                counts.update(by_reason)
    listed = ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common() if count)
    return f"; skipped: {listed}" if listed else ""


def _pictures(artifact: Artifact) -> dict[str, Any]:
    pictures = {}
    for file in artifact.files:
        name, _, suffix = file.partition(".")
        # Of several sheets the first.
        if suffix == "png" and name.isidentifier() and not name[-1].isdigit():
            uri = data_uri(artifact.file(file))
            pictures[name] = dg.MetadataValue.md(f"![{name}]({uri})")
    return pictures


def data_uri(file: Path) -> str:
    """Return a picture as a data URI, made smaller until it is below `MAX_PICTURE_BYTES`.

    So any webserver shows it, from the event log: none needs to read the store.
    """
    from PIL import Image

    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    for pixels in (900, 700, 500, 350, 200):
        picture.thumbnail((pixels, 2 * pixels))
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=80)
        if 4 * buffer.tell() / 3 < MAX_PICTURE_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _value(value: Any) -> Any:
    if isinstance(value, (int, float)):
        return value
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text[:MAX_TEXT_CHARS] or "none"

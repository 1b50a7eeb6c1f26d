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
import pandas as pd
import pyarrow.parquet as pq

from react_pipeline.pages import markdown_table
from react_pipeline.store import Artifact
from react_pipeline.tracking import flatten

MAX_PICTURE_BYTES = 100_000
MAX_TABLE_ROWS = 20
MAX_TEXT_CHARS = 2_000
MAX_BARS = 30

TABLES = ("pairs.parquet", "images.parquet", "predictions.parquet", "table.parquet")
"""The table of an artifact is the first of these that it has."""


def describe(artifact: Artifact, links: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return everything worth looking at, in the order in which Dagster shows it: pictures, tables,
    counts, links, address and fingerprint.

    Args:
        links: Entries that lead elsewhere, such as to MLflow.
    """
    shown = _pictures(artifact)
    if table := _table(artifact):
        shown["table"] = dg.MetadataValue.md(table)
    files = artifact.manifest["files"]
    shown |= {name: _value(value) for name, value in flatten(artifact.counts)}
    shown["bytes"] = sum(entry["bytes"] for entry in files.values())
    shown["reused"] = dg.MetadataValue.bool(artifact.reused)
    if "dashboard.html" in files:
        shown["dashboard"] = dg.MetadataValue.path(str(artifact.file("dashboard.html")))
    shown |= links or {}
    shown |= _columns(artifact)
    shown["dagster/uri"] = artifact.address
    shown["fingerprint"] = artifact.fingerprint
    return shown


def _columns(artifact: Artifact) -> dict[str, Any]:
    """Return rows and columns of the artifact's table, as Dagster's catalog shows them."""
    name = next((name for name in TABLES if name in artifact.manifest["files"]), None)
    if name is None:
        return {}
    table = pq.ParquetFile(artifact.file(name))
    columns = [dg.TableColumn(field.name, str(field.type)) for field in table.schema_arrow]
    return {
        "dagster/row_count": table.metadata.num_rows,
        "dagster/column_schema": dg.TableSchema(columns),
    }


def loss_line(artifact: Artifact) -> str:
    """`; skipped: REASON COUNT, ...`, or "" if nothing was."""
    listed = ", ".join(f"{reason} {count:,}" for reason, count in _losses(artifact))
    return f"; skipped: {listed}" if listed else ""


def _losses(artifact: Artifact) -> list[tuple[str, int]]:
    """What was skipped on the way to a corpus or its embeddings, the most frequent reason first."""
    if artifact.stage not in ("corpus", "corpus_embeddings"):
        return []
    counts: Counter[str] = Counter()
    for name in ("reasons", "skipped"):
        by_reason = artifact.counts.get(name)
        if isinstance(by_reason, dict):
            counts.update(by_reason)
    return [(reason, count) for reason, count in counts.most_common() if count]


def _pictures(artifact: Artifact) -> dict[str, Any]:
    pictures = {}
    for file in artifact.manifest["files"]:
        name, _, suffix = file.partition(".")
        # Of several sheets the first.
        if suffix == "png" and name.isidentifier() and not name[-1].isdigit():
            pictures[name] = data_uri(artifact.file(file))
    if bars := _accuracy_bars(artifact):
        pictures["accuracy"] = bars
    return {name: dg.MetadataValue.md(f"![{name}]({uri})") for name, uri in pictures.items()}


def data_uri(file: Path | io.BytesIO) -> str:
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


def _table(artifact: Artifact) -> str:
    files = artifact.manifest["files"]
    if losses := _losses(artifact):
        return markdown_table(["skipped", "count"], losses)
    if "table.md" in files:
        return artifact.file("table.md").read_text(encoding="utf-8")
    if artifact.stage == "retrieved_set" and "classes.parquet" in files:
        classes = pd.read_parquet(artifact.file("classes.parquet"))
        return _head(
            classes.drop(columns=["prompts"], errors="ignore"),
            "kept",
            "classes with the fewest pairs",
        )
    if artifact.stage == "customized_checkpoint":
        return _held_out(artifact)
    if artifact.stage == "domain_results" and "per_class.parquet" in files:
        return _head(
            pd.read_parquet(artifact.file("per_class.parquet")),
            "accuracy",
            "least accurate classes",
        )
    return ""


def _accuracy_bars(artifact: Artifact) -> str:
    """The accuracy of each class as a picture, the lowest and the highest where there are many."""
    if artifact.stage != "domain_results" or "per_class.parquet" not in artifact.manifest["files"]:
        return ""
    classes = pd.read_parquet(artifact.file("per_class.parquet")).dropna(subset=["accuracy"])
    classes = classes.sort_values("accuracy", ascending=False, kind="stable")
    if classes.empty:
        return ""
    shown = classes
    title = f"{len(classes)} classes"
    if len(classes) > MAX_BARS:
        shown = pd.concat([classes.head(MAX_BARS // 2), classes.tail(MAX_BARS // 2)])
        title = f"{MAX_BARS} of {len(classes)} classes: the highest and the lowest"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.1 + 0.22 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(shown)), 100 * shown["accuracy"], color="#1f5fa8")
    # Names come from outside: a dollar sign in one does not start a formula.
    names = [str(name)[:40] for name in shown["class"]]
    axes.set_yticks(range(len(shown)), names, parse_math=False, fontsize=8)
    axes.axvline(100 * classes["accuracy"].mean(), color="#6b7280", linestyle=":")
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="right at rank 1, %; dotted: mean of all classes", title=title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return data_uri(buffer)


def _held_out(artifact: Artifact) -> str:
    before = artifact.counts.get("held_out_before") or {}
    after = artifact.counts.get("held_out_after") or {}
    rows = [
        (name, before[name], after[name], after[name] - before[name])
        for name in before
        if name in after
    ]
    columns = ["on held-out pairs", "base", "customized", "difference"]
    return markdown_table(columns, rows) if rows else ""


def _head(table: pd.DataFrame, column: str, title: str) -> str:
    worst = table.sort_values(column, kind="stable").head(MAX_TABLE_ROWS)
    rows = markdown_table(list(worst.columns), worst.itertuples(index=False))
    return f"{min(len(table), MAX_TABLE_ROWS)} of {len(table)}: {title}\n\n{rows}"


def _value(value: Any) -> Any:
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, (int, float)):
        return value
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return dg.MetadataValue.text(text[:MAX_TEXT_CHARS] or "none")

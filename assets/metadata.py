"""Metadata: an artifact as Dagster shows it: small pictures, tables, and numbers that make plots
over time.

Belongs here: turning manifests and files into metadata values, and their order. Does not belong
here: how a picture reaches the page (`pictures`). File names, captions and class names come from
outside, so everything that goes into Markdown is escaped; `table.md` already is, by its writer.
"""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from react_pipeline.assets.losses import loss_table
from react_pipeline.assets.pictures import PICTURES
from react_pipeline.pages import markdown_table
from react_pipeline.store import Artifact
from react_pipeline.tracking import METRICS_FILE, flatten

MAX_IMAGE_BYTES = 100_000
MAX_TABLE_ROWS = 20
MAX_TEXT_CHARS = 2_000

ATTENTION_GATE, DENSE_GATE = "gate_attn_", "gate_dense_"
"""How a training's records name the gates of a layer."""

MAX_BARS = 30


_AFTER_COUNTS = (
    "registry",
    "dashboard",
    "mlflow",
    "mlflow_run_id",
    "path",
    "fingerprint",
    PICTURES,
)
"""Entries in the order in which they end the metadata."""


def describe(artifact: Artifact) -> dict[str, Any]:
    """Everything worth looking at: pictures, tables, counts, path and fingerprint, in any order."""
    shown: dict[str, Any] = {
        "fingerprint": artifact.fingerprint,
        "path": dg.MetadataValue.path(str(artifact.path)),
    }
    shown |= {name: _value(value) for name, value in flatten(artifact.counts)}
    shown["bytes"] = sum(recorded["bytes"] for recorded in artifact.manifest["files"].values())
    shown["reused"] = dg.MetadataValue.bool(artifact.reused)
    for file in artifact.manifest["files"]:
        name, _, suffix = file.partition(".")
        if (
            suffix == "png" and name.isidentifier() and not name[-1].isdigit()
        ):  # of several sheets the first
            shown[name] = dg.MetadataValue.md(f"![{name}]({data_uri(artifact.file(file))})")
    if bars := _accuracy_bars(artifact):
        shown["accuracy"] = dg.MetadataValue.md(f"![accuracy]({bars})")
    if "dashboard.html" in artifact.manifest["files"]:
        shown["dashboard"] = dg.MetadataValue.path(str(artifact.file("dashboard.html")))
    if table := _table(artifact):
        shown["table"] = dg.MetadataValue.md(table)
    if gates := _gates(artifact):
        shown["gates"] = dg.MetadataValue.md(gates)
    return shown


def in_order(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Pictures, tables, counts, links, path and fingerprint: Dagster shows metadata in the order
    given.
    """

    def rank(name: str) -> int:
        if name in _AFTER_COUNTS:
            return 3 + _AFTER_COUNTS.index(name)
        value = shown[name]
        if isinstance(value, dg.MarkdownMetadataValue):
            return 0 if str(value.value).lstrip("[").startswith("![") else 1
        return 2

    return {name: shown[name] for name in sorted(shown, key=rank)}


def data_uri(file: Path | io.BytesIO) -> str:
    """A picture as a data URI, made smaller until it is below `MAX_IMAGE_BYTES`."""
    from PIL import Image

    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    for pixels in (900, 700, 500, 350, 200):
        picture.thumbnail((pixels, 2 * pixels))
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=80)
        if 4 * buffer.tell() / 3 < MAX_IMAGE_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _table(artifact: Artifact) -> str:
    files = artifact.manifest["files"]
    if skipped := loss_table(artifact):
        return skipped
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
    many = len(classes) > MAX_BARS
    shown = (
        pd.concat([classes.head(MAX_BARS // 2), classes.tail(MAX_BARS // 2)]) if many else classes
    )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.1 + 0.22 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(shown)), 100 * shown["accuracy"], color="#1f5fa8")
    # Names come from outside: a dollar sign in one does not start a formula.
    axes.set_yticks(
        range(len(shown)), [str(name)[:40] for name in shown["class"]], parse_math=False, fontsize=8
    )
    axes.axvline(100 * classes["accuracy"].mean(), color="#6b7280", linestyle=":")
    axes.invert_yaxis()
    title = (
        f"{len(shown)} of {len(classes)} classes: the highest and the lowest"
        if many
        else f"{len(classes)} classes"
    )
    axes.set(xlim=(0, 100), xlabel="right at rank 1, %; dotted: mean of all classes", title=title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return data_uri(buffer)


def _held_out(artifact: Artifact) -> str:
    before, after = (artifact.counts.get(f"held_out_{when}") or {} for when in ("before", "after"))
    rows = [
        (name, before[name], after[name], after[name] - before[name])
        for name in before
        if name in after
    ]
    return (
        markdown_table(["recall of held-out pairs", "base", "customized", "difference"], rows)
        if rows
        else ""
    )


def _gates(artifact: Artifact) -> str:
    """How far the gated blocks had opened at the last step: tanh(gate), 0 is closed."""
    if METRICS_FILE not in artifact.manifest["files"]:
        return ""
    *_, last = artifact.file(METRICS_FILE).read_text(encoding="utf-8").splitlines() or ["{}"]
    record = json.loads(last)
    layers = sorted(
        int(name.removeprefix(ATTENTION_GATE)) for name in record if name.startswith(ATTENTION_GATE)
    )
    rows = [
        (layer, record[f"{ATTENTION_GATE}{layer}"], record[f"{DENSE_GATE}{layer}"])
        for layer in layers
    ]
    return markdown_table(["before layer", "attention gate", "dense gate"], rows) if rows else ""


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

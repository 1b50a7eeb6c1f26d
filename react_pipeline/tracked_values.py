"""The values of an artifact as MLflow takes them: flat names of allowed letters, finite numbers, bounded texts.

Belongs here: flattening and MLflow's limits. Does not belong here: talking to MLflow (`tracking`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from react_pipeline.artifacts import MANIFEST, Artifact
from react_pipeline.lineage import ALL

MAX_PARAM_CHARS = 500
MAX_TAG_CHARS = 5_000
METRICS_FILE = "metrics.jsonl"

LOGGED_SUFFIXES = (".png", ".md", ".csv", ".json")
MAX_LOGGED_BYTES = 5_000_000
"""Files of an artifact's top level are copied to MLflow up to this size; the rest stays in the store."""


def params_of(artifact: Artifact) -> dict[str, str]:
    """The configuration that decided the artifact, flat; long values are cut at `MAX_PARAM_CHARS`."""
    return {name: _text(value)[:MAX_PARAM_CHARS] for name, value in flatten(artifact.manifest["config"])}


def _texts_of(artifact: Artifact) -> dict[str, str]:
    """The counts that are not numbers (a device, a reason, the starving classes), as tags `count.<name>`."""
    texts = {name: _text(value) for name, value in flatten(artifact.counts) if not _is_number(value)}
    return {f"count.{name}": text[:MAX_TAG_CHARS] for name, text in texts.items()}


def metrics_of(artifact: Artifact) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of every finite number: the counts at step 0, then the lines of `metrics.jsonl`.

    MLflow stores a NaN or an infinity as 1.8e308, so these are left out.
    """
    for name, value in flatten(artifact.counts):
        if _is_number(value):
            yield name, float(value), 0
    if METRICS_FILE in artifact.manifest["files"]:
        for line in artifact.file(METRICS_FILE).read_text().splitlines():
            row = json.loads(line)
            for name, value in flatten({name: value for name, value in row.items() if name != "step"}):
                if _is_number(value):
                    yield f"training/{name}", float(value), int(row["step"])


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings, their names joined by dots and spelled in the letters that MLflow allows."""
    for name, value in values.items():
        path = prefix + re.sub(r"[^A-Za-z0-9_.-]", "_", str(name))
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}.")
        else:
            yield path[:250], value


def tags_of(artifact: Artifact, dagster_run_id: str) -> dict[str, str]:
    """Where the artifact stands in the lineage, and its counts that are not numbers; empty tags are left out."""
    domain, _, method = ("", "", "") if artifact.key == ALL else artifact.key.partition("/")
    tags = {
        "asset": artifact.stage,
        "domain": domain,
        "method": method,
        "fingerprint": artifact.fingerprint,
        "parents": json.dumps(artifact.parents, sort_keys=True),
        "path": str(artifact.path),
        "code_version": str(artifact.manifest["code_version"]),
        "dagster.run_id": dagster_run_id,
    }
    return {name: value for name, value in {**tags, **_texts_of(artifact)}.items() if value}


def files_of(artifact: Artifact) -> Iterator[Path]:
    """The small files of the top level that a person may want to see, and the manifest."""
    for name, recorded in artifact.manifest["files"].items():
        if "/" not in name and name.endswith(LOGGED_SUFFIXES) and recorded["bytes"] <= MAX_LOGGED_BYTES:
            yield artifact.path / name
    if (artifact.path / MANIFEST).stat().st_size <= MAX_LOGGED_BYTES:
        yield artifact.path / MANIFEST


def created_ms(artifact: Artifact) -> int:
    """When the artifact was published, in milliseconds since 1970."""
    return round(datetime.fromisoformat(artifact.manifest["created"]).timestamp() * 1000)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

"""The values of an artifact as MLflow takes them: flat names of allowed letters, finite numbers, bounded texts.

Belongs here: flattening and MLflow's limits. Does not belong here: talking to MLflow (`tracking_runs`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from react_pipeline.artifacts import MANIFEST, Artifact, Inputs
from react_pipeline.lineage import ALL

MAX_PARAM_CHARS = 500
MAX_TAG_CHARS = 5_000
METRICS_FILE = "metrics.jsonl"
TRAINING_PREFIX = "training/"

LOGGED_SUFFIXES = (".png", ".md", ".csv", ".json")
MAX_LOGGED_BYTES = 5_000_000
"""Files of an artifact's top level are copied to MLflow up to this size; the rest stays in the store."""


class Row(NamedTuple):
    """One point of a metric; `time_ms` is since 1970."""

    name: str
    value: float
    step: int
    time_ms: int


def params_of(made: Artifact | Inputs) -> dict[str, str]:
    """The configuration that decides an artifact, flat; long values are cut at `MAX_PARAM_CHARS`."""
    config = made.config if isinstance(made, Inputs) else made.manifest["config"]
    return {name: _text(value)[:MAX_PARAM_CHARS] for name, value in flatten(config)}


def _texts_of(artifact: Artifact) -> dict[str, str]:
    """The counts that are not numbers (a device, a reason, the starving classes), as tags `count.<name>`."""
    texts = {name: _text(value) for name, value in flatten(artifact.counts) if not _is_number(value)}
    return {f"count.{name}": text[:MAX_TAG_CHARS] for name, text in texts.items()}


def metrics_of(artifact: Artifact) -> Iterator[Row]:
    """Every finite number: the counts at step 0, then the records of `metrics.jsonl`."""
    created = created_ms(artifact)
    for name, value in flatten(artifact.counts):
        if _is_number(value):
            yield Row(name, float(value), 0, created)
    if METRICS_FILE in artifact.manifest["files"]:
        for line in artifact.file(METRICS_FILE).read_text(encoding="utf-8").splitlines():
            yield from rows_of_record(json.loads(line), created)


def rows_of_record(record: Mapping[str, Any], time_ms: int = 0) -> Iterator[Row]:
    """The finite numbers of one step of a training, as `training/<name>`.

    The record's own time counts, so that a step has the same time whoever logs it; `time_ms` holds where it has none.
    MLflow stores a NaN or an infinity as 1.8e308, so these are left out.
    """
    time_ms = int(record.get("time_ms", time_ms))
    for name, value in flatten({name: value for name, value in record.items() if name not in ("step", "time_ms")}):
        if _is_number(value):
            yield Row(TRAINING_PREFIX + name, float(value), int(record["step"]), time_ms)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings, their names joined by dots and spelled in the letters that MLflow allows."""
    for name, value in values.items():
        path = prefix + re.sub(r"[^A-Za-z0-9_.-]", "_", str(name))
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}.")
        else:
            yield path[:250], value


def tags_of_inputs(inputs: Inputs, dagster_run_id: str) -> dict[str, str]:
    """Where an artifact that is still being made will stand in the lineage; empty tags are left out."""
    parents = {name: parent.fingerprint for name, parent in inputs.parents.items()}
    tags = _lineage_tags(inputs.stage, inputs.key, inputs.fingerprint, parents, inputs.code_version)
    return _filled({**tags, "dagster.run_id": dagster_run_id})


def tags_of(artifact: Artifact, dagster_run_id: str) -> dict[str, str]:
    """Where the artifact stands in the lineage, and its counts that are not numbers; empty tags are left out."""
    code_version = str(artifact.manifest["code_version"])
    tags = _lineage_tags(artifact.stage, artifact.key, artifact.fingerprint, artifact.parents, code_version)
    return _filled({**tags, "dagster.run_id": dagster_run_id, "path": str(artifact.path), **_texts_of(artifact)})


def _lineage_tags(
    stage: str, key: str, fingerprint: str, parents: Mapping[str, str], code_version: str
) -> dict[str, str]:
    domain, _, method = ("", "", "") if key == ALL else key.partition("/")
    return {
        "asset": stage,
        "domain": domain,
        "method": method,
        "fingerprint": fingerprint,
        "parents": json.dumps(parents, sort_keys=True),
        "code_version": code_version,
    }


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


def _filled(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if value}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

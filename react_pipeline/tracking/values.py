"""The values of an artifact as MLflow takes them: flat names of allowed letters, finite numbers,
bounded texts.

Every result has the same keys, the base too: `top1`, `top5`, `mean_per_class`, `n`, `pairs`,
`trainable_parameters`, `training_seconds`, and `delta_top1`, `delta_top1_low`, `delta_top1_high`
once a comparison holds it; a method with a control has `gain_over_control` and its bounds as well.
The columns of evidence are not measured on labels. Of several seeds, the first has mean and
standard deviation over all (`tables.SEED_COLUMNS`).
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from react_pipeline.evaluation import EVIDENCE_COLUMNS, EVIDENCE_DIFFERENCES, SEED_COLUMNS
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT, DOMAIN_RESULTS, domain_and_method
from react_pipeline.store import Artifact, CorruptArtifact, Inputs, MissingArtifact
from react_pipeline.tracking.notes import NOTE_TAG, RUN_URL_TAG, note, run_url

MAX_PARAM_CHARS = 500
MAX_TAG_CHARS = 5_000
METRICS_FILE = "metrics.jsonl"
TRAINING_PREFIX = "training/"
"""Prefix of the metrics that have steps."""
LOSS = TRAINING_PREFIX + "loss"
"""The metric that every step has."""

LOGGED_SUFFIXES = (".png", ".md", ".csv", ".json", ".html")
MAX_LOGGED_BYTES = 25_000_000
"""Files of an artifact's top level are copied to MLflow up to this size; the rest stays in the
store. A page carries its script and pictures with it.
"""

HEADLINE_METRIC = "top1"
DAGSTER_RUN_TAG = "dagster.run_id"


COST_METRICS = {
    "pairs": "pairs",
    "trainable_parameters": "trainable_parameters",
    "seconds": "training_seconds",
}
"""Counts of a training, and what a result's run calls them (its own `seconds` are those of
measuring).
"""

DIFFERENCE_METRICS = {
    "delta_top1": "delta_top1",
    "delta_low": "delta_top1_low",
    "delta_high": "delta_top1_high",
    "gain_over_control": "gain_over_control",
    "gain_low": "gain_over_control_low",
    "gain_high": "gain_over_control_high",
}
"""Columns of a comparison's table, and what a result's run calls them."""


class Row(NamedTuple):
    """One point of a metric; `time_ms` is since 1970."""

    name: str
    value: float
    step: int
    time_ms: int


def run_params(source: Artifact | Inputs) -> dict[str, str]:
    """Return the configuration that decides an artifact, flat, and its domain and method; cut at
    `MAX_PARAM_CHARS`.
    """
    domain, method = domain_and_method(source.key)
    config = _record(source)["config"]
    params = {name: _text(value)[:MAX_PARAM_CHARS] for name, value in flatten(config)}
    return params | _filled({"domain": domain, "method": method})


def run_metrics(artifact: Artifact) -> Iterator[Row]:
    """Yield every finite number: the counts at step 0, then the records of `metrics.jsonl`."""
    created = created_ms(artifact)
    # MLflow's compare page begins with the metric that was written first.
    counts = sorted(flatten(artifact.counts), key=lambda entry: entry[0] != HEADLINE_METRIC)
    yield from _rows(counts, created)
    if METRICS_FILE in artifact.files:
        for line in artifact.file(METRICS_FILE).read_text(encoding="utf-8").splitlines():
            yield from rows_of_record(json.loads(line), created)


def rows_of_record(record: Mapping[str, Any], time_ms: int = 0) -> Iterator[Row]:
    """Yield the finite numbers of one step of a training, as `training/<name>`; none of most steps
    of a long one.

    The record's own time counts, so that a step has the same time whoever logs it; `time_ms` holds
    where it has none.
    """
    step = int(record["step"])
    # The first thousand, then every tenth, hundredth and so on: 66,600 steps give 2,466 points,
    # whoever logs them.
    if step % 10 ** max(0, len(str(step)) - 3):
        return
    time_ms = int(record.get("time_ms", time_ms))
    values = {name: value for name, value in record.items() if name not in ("step", "time_ms")}
    yield from _rows(flatten(values), time_ms, step, TRAINING_PREFIX)


def cost_rows(artifact: Artifact) -> Iterator[Row]:
    """Yield what the training behind a result cost (0 for the base), or a training's own seconds
    under that name.
    """
    counts: Mapping[str, object] = {}
    if artifact.stage == CUSTOMIZED_CHECKPOINT:
        counts = {"seconds": artifact.counts.get("seconds")}
    elif artifact.stage == DOMAIN_RESULTS and CUSTOMIZED_CHECKPOINT not in artifact.parents:
        counts = dict.fromkeys(COST_METRICS, 0)
    elif artifact.stage == DOMAIN_RESULTS:
        with suppress(CorruptArtifact, MissingArtifact):  # pruned
            counts = artifact.open_parent(CUSTOMIZED_CHECKPOINT).counts
    costs = [(shown, counts.get(name)) for name, shown in COST_METRICS.items()]
    yield from _rows(costs, created_ms(artifact))


def difference_rows(comparison: Artifact) -> dict[str, list[Row]]:
    """Return, by method, the differences that a comparison found, for the runs of the results it
    was made from.
    """
    shown = DIFFERENCE_METRICS | {name: name for name in (*SEED_COLUMNS, *EVIDENCE_COLUMNS)}
    table = pd.read_parquet(comparison.file("table.parquet")).set_index("method")
    table = table.rename(columns=shown).reindex(columns=list(shown.values())).astype("float64")
    created = created_ms(comparison)
    rows = table.to_dict("index")
    return {str(method): [*_rows(row.items(), created)] for method, row in rows.items()}


def shown_differences() -> list[str]:
    """Return the differences between models, without their bounds."""
    return ["delta_top1", "gain_over_control", *EVIDENCE_DIFFERENCES]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings, their names joined by dots and spelled in the letters
    that MLflow allows.
    """
    for name, value in values.items():
        path = prefix + re.sub(r"[^A-Za-z0-9_.-]", "_", str(name))
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}.")
        else:
            yield path[:250], value


def run_tags(source: Artifact | Inputs, dagster_run_id: str, dagster: str = "") -> dict[str, str]:
    """Return where an artifact, or what is still being made, is in the lineage; empty tags are left
    out.

    Args:
        dagster: Where a browser finds Dagster, if that is known.
    """
    record = _record(source)
    domain, method = domain_and_method(source.key)
    tags = {
        "asset": source.stage,
        "domain": domain,
        "method": method,
        "fingerprint": source.fingerprint,
        "parents": json.dumps(record["parents"], sort_keys=True),
        "code_version": str(record["code_version"]),
        DAGSTER_RUN_TAG: dagster_run_id,
        RUN_URL_TAG: run_url(dagster, dagster_run_id),
        NOTE_TAG: note(source.stage, source.key, dagster, dagster_run_id),
    }
    if isinstance(source, Artifact):
        folder = source.store.backend.address(source.prefix)  # a folder, or a URL
        tags |= {"path": folder, "gpu": str(source.counts.get("gpu", ""))}
    return _filled(tags)


def run_files(artifact: Artifact) -> Iterator[Path]:
    """Yield the small files of the top level that a person may want to see."""
    files = artifact.files
    # The tables of pages with figures are small, and what a notebook reads.
    suffixes = (*LOGGED_SUFFIXES, ".parquet") if "dashboard.html" in files else LOGGED_SUFFIXES
    for name in files:
        path = artifact.path / name
        if "/" not in name and name.endswith(suffixes) and path.stat().st_size <= MAX_LOGGED_BYTES:
            yield path


def created_ms(artifact: Artifact) -> int:
    """Return when the artifact was published, in milliseconds since 1970."""
    return round(datetime.fromisoformat(artifact.manifest["created"]).timestamp() * 1000)


def _record(source: Artifact | Inputs) -> Mapping[str, Any]:
    return source.manifest if isinstance(source, Artifact) else source.identity


def _filled(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if value}


def _rows(
    values: Iterable[tuple[Any, Any]], time_ms: int, step: int = 0, prefix: str = ""
) -> Iterator[Row]:
    """Yield the finite numbers; MLflow stores a NaN or an infinity as 1.8e308."""
    for name, value in values:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and math.isfinite(value):
            yield Row(f"{prefix}{name}", float(value), step, time_ms)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

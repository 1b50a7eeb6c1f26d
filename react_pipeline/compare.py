"""Comparison: the results of a domain's methods beside those of the base, as a table and a figure.

Belongs here: which results may stand in one table, differences to the base with their intervals, means over domains.
Does not belong here: measuring anything (`evaluate`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from react_pipeline.artifacts import Artifact
from react_pipeline.errors import InputError, MissingArtifact, StaleArtifact
from react_pipeline.evaluate import EvalResult
from react_pipeline.lineage import Project, fresh, method_key, resolve
from react_pipeline.training_config import CONTROL_SUFFIX, METHODS

STAGE = "comparison"
RESULTS = "elevater_results"
MEAN = "mean"
"""Stands in the column `domain` of the rows that average over domains."""

METRICS = ("top1", "top5", "mean_per_class")
_COLUMNS = [
    *("domain", "dataset", "method", *METRICS, "delta_top1", "delta_low", "delta_high"),
    *("n", "pairs", "trainable_parameters", "seconds", "fingerprint", "status"),
]
_NUMBERS = _COLUMNS[3:13]
_RESAMPLES = 10_000
_SEED = 0
_SHOWN = {
    "domain": "domain",
    "method": "method",
    **{"top1": "top-1 %", "top5": "top-5 %", "mean_per_class": "mean per class %", "delta_top1": "delta to base"},
    **{"interval": "95% interval", "n": "images", "pairs": "pairs", "trainable_parameters": "trainable parameters"},
    **{"seconds": "seconds", "status": "status"},
}


def compare(project: Project, slug: str) -> Artifact:
    """Publish the table of a domain: one row for each method that has ever been evaluated.

    Only fresh results give numbers; the row of a stale or unavailable one says so in `status`. Methods that were never
    evaluated are listed in the counts (`not_evaluated`). Values are fractions. `delta_low` and `delta_high` bound
    `delta_top1` by a paired bootstrap over the images (95%, 10,000 resamples, fixed seed): they tell of the sampling of
    images, not of training seeds.

    Files: `table.parquet`, `table.csv`, `table.md`, `comparison.json`, `comparison.png`.

    Raises:
        MissingArtifact: If no method has a fresh result.
        InputError: If results come from different evaluators or evaluation sets.
    """
    results: dict[str, Artifact] = {}
    skipped: dict[str, str] = {}
    evaluated = set(project.store.keys(RESULTS))
    for method in METHODS:
        if (key := method_key(slug, method)) not in evaluated:
            continue
        try:
            results[method] = fresh(project, RESULTS, key)
        except (MissingArtifact, StaleArtifact) as error:
            skipped[method] = f"stale: {error}"
    if not results:
        told = "; ".join(skipped.values()) or "none was evaluated"
        raise MissingArtifact(f"{slug}: no result to compare ({told}); materialize `{RESULTS}` for {slug!r}")
    require_comparable([EvalResult.read(artifact) for artifact in results.values()])
    inputs = resolve(project, STAGE, slug, parents=results, content={"skipped": skipped})

    def write(directory: Path) -> dict[str, Any]:
        table = _table(project, slug, results, skipped)
        table.to_parquet(directory / "table.parquet", index=False)
        table.to_csv(directory / "table.csv", index=False)
        (directory / "table.md").write_text(to_markdown(table), encoding="utf-8")
        rows = json.loads(table.to_json(orient="records"))
        (directory / "comparison.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        _draw(table, directory / "comparison.png")
        measured = table[table["status"] == "ok"].set_index("method")
        deltas = measured["delta_top1"].dropna().drop("base", errors="ignore")
        return {
            "methods": list(measured.index),
            "skipped": skipped,
            "not_evaluated": [method for method in METHODS if method not in {*results, *skipped}],
            "top1": {method: float(value) for method, value in measured["top1"].items()},
            "delta_top1": {method: float(value) for method, value in deltas.items()},
        }

    return project.store.build(inputs, write)


def comparison_table(project: Project, slugs: Sequence[str]) -> pd.DataFrame:
    """The published comparisons of several domains in one table, with a mean of each method.

    A mean covers the domains where the base, the method and, if any domain has it, the method's control are all there;
    a control is averaged over the same domains as its method, and `status` says how many of how many. All numeric
    columns are means, without an interval. A domain without a current comparison has one row that says why.

    Returns:
        The columns of `compare`'s table; rows of domains first, then those of the domain `mean`.

    Raises:
        InputError: If the domains were measured by different versions of the evaluator.
    """
    tables, versions = [], {}
    for slug in slugs:
        try:
            artifact = _current(project, slug)
        except (MissingArtifact, StaleArtifact) as error:
            tables.append(pd.DataFrame([{"domain": slug, "method": "", "status": str(error)}], columns=_COLUMNS))
            continue
        tables.append(pd.read_parquet(artifact.file("table.parquet")))
        for method, fingerprint in artifact.parents.items():
            result = EvalResult.read(project.store.open(RESULTS, method_key(slug, method), fingerprint))
            versions[slug] = result.evaluator_version
    if len(set(versions.values())) > 1:
        told = ", ".join(f"{slug}: {version}" for slug, version in versions.items())
        raise InputError(f"domains measured by different evaluators ({told}); rematerialize `{RESULTS}`")
    filled = [table.astype(dict.fromkeys(_NUMBERS, "float64")) for table in tables]
    table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=_COLUMNS)
    return pd.concat([table, _means(table, len(slugs))], ignore_index=True)


def require_comparable(results: Sequence[EvalResult]) -> None:
    """Refuse to set results of one domain beside one another if they were measured differently.

    Raises:
        InputError: Naming each method with what differs.
    """
    for field in ("evaluator_version", "evaluation_set_fingerprint", "protocol", "dataset", "n_classes"):
        values = {result.method: getattr(result, field) for result in results}
        if len(set(values.values())) > 1:
            told = ", ".join(f"{method}: {value}" for method, value in values.items())
            raise InputError(f"results differ in {field} and cannot be compared ({told}); rematerialize `{RESULTS}`")


def paired_interval(method_correct: np.ndarray[Any, Any], base_correct: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95% bootstrap interval of the difference in accuracy of two methods on the same N images, as fractions.

    Resampling N images is drawing from the multinomial of (gained, lost, equal), so no image is ever copied.
    """
    difference = method_correct.astype(int) - base_correct.astype(int)
    count = len(difference)
    shares = [float((difference == value).mean()) for value in (1, -1, 0)]
    gained, lost, _ = np.random.default_rng(_SEED).multinomial(count, shares, _RESAMPLES).T
    low, high = np.percentile((gained - lost) / count, [2.5, 97.5])
    return float(low), float(high)


def to_markdown(table: pd.DataFrame) -> str:
    """The table for people: percent with one decimal, differences with their sign, empty where nothing was measured."""
    lines = [list(_SHOWN.values()), ["---"] * len(_SHOWN)]
    for row in table.to_dict("records"):
        row["interval"] = None
        if not pd.isna(row["delta_low"]) and row["method"] != "base":
            row["interval"] = f"{100 * row['delta_low']:+.1f} to {100 * row['delta_high']:+.1f}"
        lines.append([_shown(column, row[column]) for column in _SHOWN])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _table(project: Project, slug: str, results: Mapping[str, Artifact], skipped: Mapping[str, str]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    base = EvalResult.read(results["base"]) if "base" in results else None
    for method in METHODS:
        row: dict[str, Any] = {"domain": slug, "method": method}
        if method in skipped:
            rows.append({**row, "status": skipped[method]})
        if method not in results:
            continue
        result = EvalResult.read(results[method])
        row |= {"dataset": result.dataset, "fingerprint": result.checkpoint_fingerprint}
        row |= _cost(project, slug, method, results[method])
        if result.top1 is None:
            rows.append({**row, "status": f"unavailable: {result.unavailable}"})
            continue
        row |= {**{metric: getattr(result, metric) for metric in METRICS}, "n": result.n, "status": "ok"}
        if base is not None and base.top1 is not None:
            low, high = paired_interval(_correct(results[method]), _correct(results["base"]))
            row |= {"delta_top1": result.top1 - base.top1, "delta_low": low, "delta_high": high}
        rows.append(row)
    table = pd.DataFrame(rows, columns=_COLUMNS)
    counts = {name: "Int64" for name in ("n", "pairs", "trainable_parameters")}
    floats = {name: "float64" for name in _NUMBERS if name not in counts}
    return table.astype({**floats, **counts})


def _cost(project: Project, slug: str, method: str, result: Artifact) -> dict[str, Any]:
    if method == "base":
        return {"pairs": 0, "trainable_parameters": 0, "seconds": 0.0}
    fingerprint = result.parents["customized_checkpoint"]
    counts = project.store.open("customized_checkpoint", method_key(slug, method), fingerprint).counts
    return {name: counts[name] for name in ("pairs", "trainable_parameters", "seconds")}


def _correct(result: Artifact) -> np.ndarray[Any, Any]:
    predictions = pd.read_parquet(result.file("predictions.parquet")).sort_values("image")
    return (predictions["predicted"].str[0] == predictions["class_id"]).to_numpy()


def _current(project: Project, slug: str) -> Artifact:
    artifact = fresh(project, STAGE, slug)
    for method, fingerprint in artifact.parents.items():
        if fresh(project, RESULTS, method_key(slug, method)).fingerprint != fingerprint:
            raise StaleArtifact(f"`{STAGE}` of {slug!r} is older than the result of {method}: rematerialize `{STAGE}`")
    return artifact


def _means(table: pd.DataFrame, domains: int) -> pd.DataFrame:
    measured = table[table["status"] == "ok"]
    where = {method: set(rows["domain"]) for method, rows in measured.groupby("method")}
    rows = []
    for method in (method for method in METHODS if method in where):
        trained = method.removesuffix(CONTROL_SUFFIX)
        needed = ("base", trained, trained + CONTROL_SUFFIX)
        covered = set.intersection(*(where[name] for name in needed if name in where))
        mine = measured[(measured["method"] == method) & measured["domain"].isin(covered)]
        if "base" in where and not mine.empty:
            numbers = mine[_NUMBERS].mean().drop(["delta_low", "delta_high"])
            rows.append({"domain": MEAN, "method": method, "status": f"{len(covered)} of {domains} domains", **numbers})
    return pd.DataFrame(rows, columns=_COLUMNS).astype(dict.fromkeys(_NUMBERS, "float64"))


def _shown(column: str, value: Any) -> str:
    if value is None or pd.isna(value):
        return ""
    if column in METRICS:
        return f"{100 * value:.1f}"
    if column == "delta_top1":
        return f"{100 * value:+.1f}"
    if column in ("n", "pairs", "trainable_parameters", "seconds"):
        return f"{value:,.0f}"
    # A bar or a line break in a name would break the table.
    return " ".join(str(value).replace("|", "/").split())


def _draw(table: pd.DataFrame, path: Path) -> None:
    from matplotlib.figure import Figure

    measured = table[table["status"] == "ok"]
    figure = Figure(figsize=(7, 0.9 + 0.45 * max(len(measured), 1)), layout="constrained")
    axes = figure.subplots()
    if measured.empty:
        axes.text(0.5, 0.5, "nothing measured", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
    else:
        shades = [
            "#888888" if name == "base" else "#9ecae1" if name.endswith(CONTROL_SUFFIX) else "#08519c"
            for name in measured["method"]
        ]
        bars = axes.barh(measured["method"], 100 * measured["top1"], color=shades)
        axes.bar_label(bars, fmt="%.1f", padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set(xlabel="top-1 %, zero-shot", title=str(table["domain"].iloc[0]))
    figure.savefig(path, dpi=100)

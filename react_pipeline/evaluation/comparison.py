"""Comparison: the results of a domain's methods beside those of the base, as tables, a figure and a page.

Belongs here: which results may share a table, differences to the base and to the control, means over domains.
Does not belong here: measuring anything (`evaluate`), intervals (`reports.intervals`), how tables and page look
(`reports.tables`, `dashboard`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.evaluation.bars import draw_methods
from react_pipeline.evaluation.domain_results import EvalResult
from react_pipeline.evaluation.intervals import Correct, share_interval
from react_pipeline.evaluation.intervals import paired_interval as paired_interval
from react_pipeline.evaluation.tables import COLUMNS, INTERVALS, METRICS, NUMBERS, per_class_table, typed
from react_pipeline.evaluation.tables import MEAN as MEAN
from react_pipeline.evaluation.tables import to_markdown as to_markdown
from react_pipeline.lineage import fresh, resolve
from react_pipeline.pipeline import method_key
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX, METHODS
from react_pipeline.store import Artifact, InputError, MissingArtifact, StaleArtifact

STAGE = "comparison"
RESULTS = "domain_results"
TRAINED = "customized_checkpoint"

MUST_AGREE = ("evaluator_version", "evaluation_set_fingerprint", "protocol", "dataset", "n_classes")
"""Fields that two comparable results share."""


def compare(project: Project, slug: str) -> Artifact:
    """Publish the table of a domain: one row for each method that has ever been evaluated.

    Only fresh results give numbers; the row of a stale or unavailable one says so in `status`. Methods that were never
    evaluated are listed in the counts (`not_evaluated`). Values are fractions. `delta_low` and `delta_high` bound
    `delta_top1` (to the base), `gain_low` and `gain_high` bound `gain_over_control`, by a paired bootstrap over the
    images (95%, 10,000 resamples, fixed seed): they cover the sampling of images, not training seeds.

    Files: `table.parquet`, `table.csv`, `table.md`, `comparison.json`, `comparison.png`, `per_class.parquet`,
    `per_class.csv` and `dashboard.html`, which shows all of it and loads nothing from elsewhere.

    Raises:
        MissingArtifact: If no method has a fresh result.
        InputError: If results come from different evaluators or evaluation sets.
    """
    results, skipped = _results(project, slug)
    if not results:
        reasons = "; ".join(skipped.values()) or "none was evaluated"
        raise MissingArtifact(f"{slug}: no result to compare ({reasons}); materialize `{RESULTS}` for {slug!r}")
    require_comparable([EvalResult.read(artifact) for artifact in results.values()])
    inputs = resolve(project, STAGE, slug, parents=results, content={"skipped": skipped})

    def write(directory: Path) -> dict[str, Any]:
        from react_pipeline.evaluation.dashboard import domain_page

        table, classes = _table(project, slug, results, skipped), _classes(project, slug, results)
        write_tables(table, directory)
        classes.to_parquet(directory / "per_class.parquet", index=False)
        classes.to_csv(directory / "per_class.csv", index=False)
        rows = json.loads(table.to_json(orient="records"))
        (directory / "comparison.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        draw_methods(table, directory / "comparison.png", slug)
        trained = {method: _checkpoint(project, slug, method, result) for method, result in results.items()}
        checkpoints = {method: artifact for method, artifact in trained.items() if artifact is not None}
        retrieved = _retrieved_set(project, slug, checkpoints)
        shown = {method: result.fingerprint for method, result in results.items()}
        title = project.domain(slug).title  # for display alone: another title makes no other comparison
        page = domain_page(slug, table, classes, checkpoints, retrieved, shown, title)
        (directory / "dashboard.html").write_text(page, encoding="utf-8")
        return _counts(table, results, skipped)

    return project.store.build(inputs, write)


def comparison_is_current(project: Project, slug: str) -> Artifact:
    """The published comparison of a domain, if it is the one that `compare` would build today. Loads no torch.

    Raises:
        MissingArtifact: If none was published.
        StaleArtifact: If a result in it is stale, was replaced, or is missing from it.
        CorruptArtifact: If its bytes, or those of a result, differ from the manifest.
    """
    artifact = fresh(project, STAGE, slug)
    results, skipped = _results(project, slug)
    again = f"rematerialize `{STAGE}` of {slug!r}"
    for method, fingerprint in artifact.parents.items():
        if method in skipped:
            raise StaleArtifact(f"`{STAGE}` of {slug!r} shows {method}, which is {skipped[method]}; then {again}")
        if method not in results or results[method].fingerprint != fingerprint:
            raise StaleArtifact(f"`{STAGE}` of {slug!r} does not show today's result of {method}: {again}")
    if new := [method for method in results if method not in artifact.parents]:
        raise StaleArtifact(f"`{STAGE}` of {slug!r} lacks the results of {', '.join(new)}: {again}")
    if artifact.manifest["content"] != {"skipped": skipped}:
        raise StaleArtifact(f"`{STAGE}` of {slug!r} gives other reasons for missing results than today's: {again}")
    return artifact


def comparison_table(project: Project, slugs: Sequence[str]) -> pd.DataFrame:
    """The published comparisons of several domains in one table, with a mean of each method: see `average`.

    Raises:
        InputError: If the domains were measured by different versions of the evaluator.
    """
    comparisons, skipped = {}, {}
    for slug in slugs:
        try:
            comparisons[slug] = comparison_is_current(project, slug)
        except (MissingArtifact, StaleArtifact) as error:
            # One command builds all that the error would have a reader follow step by step.
            reason = str(error).partition(": rematerialize")[0].partition(": materialize")[0]
            skipped[slug] = f"{reason}; fix: {materialize_command(project, slug)}"
    return average(project, slugs, comparisons, skipped)


def materialize_command(project: Project, slug: str) -> str:
    """The command that brings a domain up to date: the methods ever evaluated for it, or else those kept up."""
    known = set(project.store.keys(RESULTS))
    methods = [method for method in METHODS if method_key(slug, method) in known] or project.config.methods
    return " ".join(["react-pipeline materialize --domain", slug, *(f"--method {method}" for method in methods)])


def average(
    project: Project, slugs: Sequence[str], comparisons: Mapping[str, Artifact], skipped: Mapping[str, str]
) -> pd.DataFrame:
    """Comparisons of several domains in one table, with a mean of each method.

    A mean covers the domains where the base, the method and, if any domain has it, the method's control are all there;
    a control is averaged over the same domains as its method, and `status` says how many of how many. All numeric
    columns are means, without an interval. A domain without a current comparison has one row that says why.

    Args:
        slugs: The domains, in the order of the rows.
        comparisons: The current ones, by domain.
        skipped: Why each other domain has none.

    Returns:
        The columns of `compare`'s table; rows of domains first, then those of the domain `mean`.

    Raises:
        InputError: If the domains were measured by different versions of the evaluator.
    """
    tables, versions = [], {}
    for slug in slugs:
        if slug in skipped:
            tables.append(pd.DataFrame([{"domain": slug, "method": "", "status": skipped[slug]}], columns=COLUMNS))
            continue
        artifact = comparisons[slug]
        tables.append(pd.read_parquet(artifact.file("table.parquet")))
        for method, fingerprint in artifact.parents.items():
            result = EvalResult.read(project.store.open(RESULTS, method_key(slug, method), fingerprint))
            versions[slug] = result.evaluator_version
    if len(set(versions.values())) > 1:
        found = ", ".join(f"{slug}: {version}" for slug, version in versions.items())
        raise InputError(f"domains measured by different evaluators ({found}); rematerialize `{RESULTS}`")
    filled = [table.astype(dict.fromkeys(NUMBERS, "float64")) for table in tables]
    table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=COLUMNS)
    return pd.concat([table, _means(table, len(tables))], ignore_index=True)


def require_comparable(results: Sequence[EvalResult]) -> None:
    """Refuse to set results of one domain beside one another if they were measured differently.

    Raises:
        InputError: Naming each method with what differs.
    """
    for field in MUST_AGREE:
        values = {result.method: getattr(result, field) for result in results}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{method}: {value}" for method, value in values.items())
            raise InputError(f"results differ in {field} and cannot be compared ({listed}); rematerialize `{RESULTS}`")


def _results(project: Project, slug: str) -> tuple[dict[str, Artifact], dict[str, str]]:
    """The fresh results of a domain by method, and why those of the other evaluated methods are left out."""
    results: dict[str, Artifact] = {}
    skipped: dict[str, str] = {}
    for method in METHODS:
        if not project.store.has(RESULTS, key := method_key(slug, method)):
            continue
        try:
            results[method] = fresh(project, RESULTS, key)
        except (MissingArtifact, StaleArtifact) as error:
            skipped[method] = f"stale: {error}"
    return results, skipped


def _table(project: Project, slug: str, results: Mapping[str, Artifact], skipped: Mapping[str, str]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    read = {method: EvalResult.read(artifact) for method, artifact in results.items()}
    right = {method: correct_of(results[method]) for method, result in read.items() if result.top1 is not None}
    for method in METHODS:
        row: dict[str, Any] = {"domain": slug, "method": method}
        if method in skipped:
            rows.append({**row, "status": skipped[method]})
        if method not in results:
            continue
        result = read[method]
        row |= {"dataset": result.dataset, "fingerprint": result.checkpoint_fingerprint}
        row |= _cost(_checkpoint(project, slug, method, results[method]))
        if result.top1 is None:
            rows.append({**row, "status": f"unavailable: {result.unavailable}"})
            continue
        row |= {**{metric: getattr(result, metric) for metric in METRICS}, "n": result.n, "status": "ok"}
        row["top1_low"], row["top1_high"] = share_interval(result.top1, result.n)
        for other, names in {
            "base": ("delta_top1", "delta_low", "delta_high"),
            method + CONTROL_SUFFIX: ("gain_over_control", "gain_low", "gain_high"),
        }.items():
            reference = read[other].top1 if other in right else None
            if reference is not None:
                low, high = paired_interval(*_on_the_same_images(slug, right[method], right[other]))
                row |= dict(zip(names, (result.top1 - reference, low, high), strict=True))
        rows.append(row)
    return typed(rows)


def _classes(project: Project, slug: str, results: Mapping[str, Artifact]) -> pd.DataFrame:
    pairs = {}
    for method, result in results.items():
        checkpoint = _checkpoint(project, slug, method, result)
        if checkpoint is not None and (retrieved := _retrieved_set(project, slug, {method: checkpoint})) is not None:
            names = pd.read_parquet(retrieved.file("pairs.parquet"), columns=["class"])["class"]
            pairs[method] = {str(name): int(count) for name, count in names.value_counts().items()}
    return per_class_table({method: EvalResult.read(artifact) for method, artifact in results.items()}, pairs)


def _checkpoint(project: Project, slug: str, method: str, result: Artifact) -> Artifact | None:
    fingerprint = result.parents.get(TRAINED)
    return None if fingerprint is None else project.store.open(TRAINED, method_key(slug, method), fingerprint)


def _retrieved_set(project: Project, slug: str, checkpoints: Mapping[str, Artifact]) -> Artifact | None:
    """What the first of these trainings was given, if it is a retrieved set; controls are given another."""
    for checkpoint in checkpoints.values():
        if (fingerprint := checkpoint.parents.get("retrieved_set")) is not None:
            return project.store.open("retrieved_set", slug, fingerprint)
    return None


def _cost(checkpoint: Artifact | None) -> dict[str, Any]:
    if checkpoint is None:
        return {"pairs": 0, "trainable_parameters": 0, "seconds": 0.0}
    return {name: checkpoint.counts[name] for name in ("pairs", "trainable_parameters", "seconds")}


def correct_of(result: Artifact) -> pd.Series:
    """Whether each image of a published result is named right, by the image's name, sorted."""
    predictions = pd.read_parquet(result.file("predictions.parquet")).set_index("image").sort_index()
    return predictions["predicted"].str[0] == predictions["class_id"]


def _on_the_same_images(slug: str, one: pd.Series, other: pd.Series) -> tuple[Correct, Correct]:
    if not one.index.equals(other.index):
        raise InputError(f"{slug}: two results are of different images; rematerialize `{RESULTS}` for {slug!r}")
    return one.to_numpy(), other.to_numpy()


def _counts(table: pd.DataFrame, results: Mapping[str, Artifact], skipped: Mapping[str, str]) -> dict[str, Any]:
    measured = table[table["status"] == "ok"].set_index("method")
    trained = measured.drop("base", errors="ignore")
    return {
        "methods": list(measured.index),
        "skipped": dict(skipped),
        "not_evaluated": [method for method in METHODS if method not in {*results, *skipped}],
        **{
            name: {method: float(value) for method, value in rows[name].dropna().items()}
            for name, rows in (("top1", measured), ("delta_top1", trained), ("gain_over_control", trained))
        },
    }


def write_tables(table: pd.DataFrame, directory: Path) -> None:
    """Write `table.parquet`, `table.csv` and `table.md`."""
    table.to_parquet(directory / "table.parquet", index=False)
    table.to_csv(directory / "table.csv", index=False)
    (directory / "table.md").write_text(to_markdown(table), encoding="utf-8")


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
            numbers = mine[list(NUMBERS)].mean().drop(list(INTERVALS))
            rows.append({"domain": MEAN, "method": method, "status": f"{len(covered)} of {domains} domains", **numbers})
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(NUMBERS, "float64"))

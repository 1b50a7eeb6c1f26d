"""Overview: the comparisons of all domains as one table, with the mean of each method.

Belongs here: which domains it lists, and whether the published one is still what would be built today. Does not
belong here: the comparison of one domain (`compare`), or how a page looks (`dashboard`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.evaluation.bars import draw_methods
from react_pipeline.evaluation.comparison import RESULTS, average, comparison_is_current, correct_of, write_tables
from react_pipeline.evaluation.intervals import mean_interval
from react_pipeline.evaluation.tables import MEAN
from react_pipeline.lineage import fresh, resolve
from react_pipeline.pipeline import method_key
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX, load_domains
from react_pipeline.store import Artifact, CorruptArtifact, MissingArtifact, StaleArtifact

STAGE = "overview"


def overview(project: Project) -> Artifact:
    """Publish the table of all valid domain files that have a current comparison; the others are named with a reason.

    Means are those of `compare.average`; here they also have an interval, by resampling the images of each domain.

    Files: `table.parquet`, `table.csv`, `table.md`, `overview.png` and `dashboard.html`.

    Raises:
        MissingArtifact: If no domain has a current comparison.
        InputError: If the domains were measured by different versions of the evaluator.
    """
    comparisons, skipped = current_comparisons(project)
    inputs = resolve(project, STAGE, parents=comparisons, content={"skipped": skipped})
    if not comparisons:
        reasons = "; ".join(skipped.values()) or f"no domain file in {project.config.domains}"
        raise MissingArtifact(f"no domain has a current comparison ({reasons}); materialize `comparison`")
    return project.store.build(inputs, lambda directory: write_overview(project, comparisons, skipped, directory))


def write_overview(
    project: Project, comparisons: Mapping[str, Artifact], skipped: Mapping[str, str], directory: Path
) -> dict[str, Any]:
    """Write the files of an overview; returns its counts.

    Raises:
        InputError: If the domains were measured by different versions of the evaluator.
    """
    from react_pipeline.evaluation.dashboard import overview_page

    table = average(project, sorted([*comparisons, *skipped]), comparisons, skipped)
    for position, row in table[table["domain"] == MEAN].iterrows():
        for names, value in _intervals(project, comparisons, table, str(row["method"])).items():
            table.loc[position, list(names)] = value
    write_tables(table, directory)
    means = table[table["domain"] == MEAN]
    draw_methods(means, directory / "overview.png", f"mean over {len(comparisons)} of {_total(comparisons, skipped)}")
    page = overview_page(table, {slug: artifact.fingerprint for slug, artifact in comparisons.items()})
    (directory / "dashboard.html").write_text(page, encoding="utf-8")
    by_method = means.set_index("method")
    return {
        "domains": len(comparisons),
        "domains_known": _total(comparisons, skipped),
        "skipped": dict(skipped),
        "covers": {method: str(status) for method, status in by_method["status"].items()},
        **{
            name: {method: float(value) for method, value in by_method[name].dropna().items()}
            for name in ("top1", "top5", "mean_per_class", "delta_top1", "gain_over_control")
        },
    }


def overview_is_current(project: Project) -> Artifact:
    """The published overview, if it is the one that `overview` would build today. Loads no torch.

    Raises:
        MissingArtifact: If none was published.
        StaleArtifact: If a comparison is new, was replaced, or is no longer current.
        CorruptArtifact: If its bytes differ from its manifest.
    """
    artifact = fresh(project, STAGE)
    comparisons, skipped = current_comparisons(project)
    for slug in {*comparisons, *artifact.parents}:
        found = comparisons[slug].fingerprint if slug in comparisons else None
        if artifact.parents.get(slug) != found:
            raise StaleArtifact(f"`{STAGE}` does not show today's comparison of {slug!r}: rematerialize `{STAGE}`")
    if artifact.manifest["content"] != {"skipped": skipped}:
        raise StaleArtifact(f"`{STAGE}` lists other missing domains than today's: rematerialize `{STAGE}`")
    return artifact


def current_comparisons(project: Project) -> tuple[dict[str, Artifact], dict[str, str]]:
    """The current comparison of each valid domain, and why the others have none."""
    comparisons: dict[str, Artifact] = {}
    skipped: dict[str, str] = {}
    for slug in sorted(load_domains(project.config.domains)[0]):
        try:
            comparisons[slug] = comparison_is_current(project, slug)
        except (MissingArtifact, StaleArtifact, CorruptArtifact) as error:
            skipped[slug] = str(error)
    return comparisons, skipped


def _intervals(
    project: Project, comparisons: Mapping[str, Artifact], table: pd.DataFrame, method: str
) -> dict[tuple[str, str], tuple[float, float]]:
    """95% intervals of the means of a method: of its difference to the base, and to its control."""
    rows = table[(table["domain"] != MEAN) & (table["status"] == "ok")]
    where = {name: set(mine["domain"]) for name, mine in rows.groupby("method")}
    trained = method.removesuffix(CONTROL_SUFFIX)
    covered = set.intersection(*(where[name] for name in ("base", trained, trained + CONTROL_SUFFIX) if name in where))
    found = {}
    for names, other in {
        ("delta_low", "delta_high"): "base",
        ("gain_low", "gain_high"): method + CONTROL_SUFFIX,
    }.items():
        if method != "base" and other in where:
            pairs = [
                tuple(_correct(project, slug, comparisons[slug], name).to_numpy() for name in (method, other))
                for slug in sorted(covered)
            ]
            found[names] = mean_interval([(one, another) for one, another in pairs])
    return found


def _correct(project: Project, slug: str, comparison: Artifact, method: str) -> pd.Series:
    return correct_of(project.store.open(RESULTS, method_key(slug, method), comparison.parents[method]))


def _total(comparisons: Mapping[str, Artifact], skipped: Mapping[str, str]) -> int:
    return len(comparisons) + len(skipped)

"""The comparisons of all domains as one table, with the mean of each method.

Does not belong here: the comparison of one domain (`comparison`), pages (extensions).
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import pyarrow.parquet as pq

from react_pipeline.evaluation.comparison import GAINS
from react_pipeline.evaluation.tables import (
    INTERVALS,
    MEAN,
    numbers,
    over_seeds,
    typed,
)
from react_pipeline.lineage import is_current
from react_pipeline.project import Manifests, Project
from react_pipeline.settings import CONTROL_SUFFIX, load_domains
from react_pipeline.stage import COMPARISON
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    MissingArtifact,
    StaleArtifact,
)


def current_comparisons(
    project: Project, slugs: Iterable[str] | None = None
) -> tuple[dict[str, Artifact], dict[str, str]]:
    """Return the current comparison of each of these domains, and why the others have none.

    Args:
        project: The files that tables are made of are verified, except in a look.
        slugs: None: every valid domain.
    """
    comparisons: dict[str, Artifact] = {}
    skipped: dict[str, str] = {}
    look = Manifests.of(project)
    for slug in sorted(load_domains(project.config.domains)[0]) if slugs is None else slugs:
        try:
            fingerprint = is_current(look, COMPARISON, slug).fingerprint
            comparison = project.store.open(COMPARISON, slug, fingerprint)
            if not isinstance(project, Manifests):  # which asks what there is, and reads nothing
                comparison.folder_with(["table.parquet", GAINS])
            comparisons[slug] = comparison
        except (MissingArtifact, StaleArtifact, CorruptArtifact) as error:
            skipped[slug] = str(error)
    return comparisons, skipped


def comparison_table(project: Project, slugs: Sequence[str]) -> pd.DataFrame:
    """Join the published comparisons of several domains in one table, with a mean of each method:
    see `average`.
    """
    return average(project, slugs, *current_comparisons(project, slugs))


def average(
    project: Project,
    slugs: Sequence[str],
    comparisons: Mapping[str, Artifact],
    skipped: Mapping[str, str],
) -> pd.DataFrame:
    """Join comparisons of several domains in one table, with a mean of each method.

    A mean covers the domains where the base, the method and, if any domain has it, the method's
    control are all there; a control is averaged over the same domains as its method, and `status`
    says how many of how many. All numeric columns are means, without an interval. A domain without
    a current comparison has one row that says why.

    Returns:
        The columns of `compare`'s table; rows of domains first, then those of the domain `mean`.
    """
    tables = [typed([], "float64")]
    for slug in slugs:
        if slug in skipped:
            row = {"domain": slug, "method": "", "status": skipped[slug]}
            tables.append(typed([row], "float64"))
        else:
            table = pq.ParquetFile(comparisons[slug].file("table.parquet")).read().to_pandas()
            tables.append(typed(table, "float64"))
    table = pd.concat(tables, ignore_index=True)
    means = _means(table, project.config.all_methods, len(slugs))
    return over_seeds(pd.concat([table, means], ignore_index=True))


def domains_covered(measured: pd.DataFrame, method: str) -> set[str]:
    """Return the domains where the base, a method and, if any domain has it, its control are
    measured.
    """
    trained = method.removesuffix(CONTROL_SUFFIX)
    where = {name: set(rows["domain"]) for name, rows in measured.groupby("method")}
    names = ("base", trained, trained + CONTROL_SUFFIX)
    return set.intersection(*(where[name] for name in names if name in where))


def _means(table: pd.DataFrame, order: Iterable[str], domains: int) -> pd.DataFrame:
    measured = table[table["status"] == "ok"]
    methods = set(measured["method"])
    rows = []
    for method in (method for method in order if method in methods):
        covered = domains_covered(measured, method)
        mine = measured[(measured["method"] == method) & measured["domain"].isin(covered)]
        if "base" in methods and not mine.empty:
            means = mine[numbers()].mean().drop(list(INTERVALS))
            status = f"{len(covered)} of {domains} domains"
            rows.append({"domain": MEAN, "method": method, "status": status, **means})
    return typed(rows, "float64")

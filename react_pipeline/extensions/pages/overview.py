"""The overview: all domains on one page, with the mean of each method and its interval.

Does not belong here: the means (`react_pipeline.evaluation`), how the page looks (`dashboard`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.evaluation import (
    MEAN,
    METRICS,
    SEED_COLUMNS,
    AllGains,
    average,
    current_comparisons,
    domains_covered,
    draw_methods,
    mean_interval,
    present_values,
    read_gains,
    write_tables,
)
from react_pipeline.extensions.pages.dashboard import overview_page
from react_pipeline.lineage import gathered_is_current, resolve
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.stage import ALL
from react_pipeline.store import Artifact, MissingArtifact, Scratch

OVERVIEW = "overview"
"""The stage."""


def overview(project: Project) -> Artifact:
    """Publish the table of all valid domain files that have a current comparison; the others are
    named with a reason.

    Means are those of `average`; here they also have an interval, by resampling the images of each
    domain.

    Files: `table.parquet`, `table.csv`, `table.md`, `overview.png` and `dashboard.html`.

    Raises:
        MissingArtifact: If no domain has a current comparison.
    """
    comparisons, skipped = current_comparisons(project)
    inputs = resolve(project, OVERVIEW, parents=comparisons, content={"skipped": skipped})
    if not comparisons:
        reasons = "; ".join(skipped.values()) or f"no domain file in {project.config.domains}"
        raise MissingArtifact(
            f"no domain has a current comparison ({reasons}); materialize `comparison`",
            (OVERVIEW, ALL),
        )

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        gains = {slug: read_gains(one) for slug, one in comparisons.items()}
        table = average(project, sorted([*comparisons, *skipped]), comparisons, skipped)
        for position, method in table.loc[table["domain"] == MEAN, "method"].items():
            for names, value in _intervals(table, str(method), gains).items():
                table.loc[position, list(names)] = value
        write_tables(table, directory)
        means = table[table["domain"] == MEAN]
        total = len(comparisons) + len(skipped)
        draw_methods(means, directory / "overview.png", f"mean over {len(comparisons)} of {total}")
        page = overview_page(table, directory / "overview.png")
        (directory / "dashboard.html").write_text(page, encoding="utf-8")
        by_method = means.set_index("method")
        columns = (*METRICS, "delta_top1", "gain_over_control")
        columns += tuple(name for name in SEED_COLUMNS if name in table)
        return {
            "domains": len(comparisons),
            "domains_known": total,
            "skipped": dict(skipped),
            "covers": {method: str(status) for method, status in by_method["status"].items()},
            **{name: present_values(by_method[name]) for name in columns},
        }

    return project.store.build(inputs, write)


def overview_is_current(project: Project) -> Artifact:
    """Return the published overview, if it is the one that `overview` would build today:
    `lineage.gathered_is_current`.
    """
    return gathered_is_current(project, OVERVIEW, ALL, lambda: current_comparisons(project))


def _intervals(
    table: pd.DataFrame, method: str, gains: Mapping[str, AllGains]
) -> dict[tuple[str, str], tuple[float, float]]:
    """Return 95% intervals of the means of a method: of its difference to the base, and to its
    control.
    """
    rows = table[(table["domain"] != MEAN) & (table["status"] == "ok")]
    covered = sorted(domains_covered(rows, method))
    intervals = {}
    for prefix, other in (("delta", "base"), ("gain", method + CONTROL_SUFFIX)):
        if method != "base" and (rows["method"] == other).any():
            over = [gains[slug][method][other] for slug in covered]
            intervals[f"{prefix}_low", f"{prefix}_high"] = mean_interval(over)
    return intervals

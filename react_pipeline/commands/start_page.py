"""The start page: what a project has come to and where to look, printed after `demo`, `materialize`
and `ui`.

Belongs here: what is on it, in less than a screen. Does not belong here: how results are measured
or compared (`evaluation`), what is champion and why (`promotion`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from react_pipeline.commands.command_line import console
from react_pipeline.commands.terminal import print_error, print_table
from react_pipeline.project import Manifests, Project, locate_home, ui_addresses
from react_pipeline.settings import load_domains
from react_pipeline.stage import ALL, COMPARISON
from react_pipeline.store import ReactError

MAX_DOMAINS, MAX_DASHBOARDS, MAX_LINES = 8, 4, 16
"""Maximum numbers of lines, so that the page fits a screen."""

_DETAILS = ("top5", "mean_per_class", "n", "pairs", "trainable_parameters", "seconds")
"""Columns that `react-pipeline results` shows."""


def print_start_page(
    project: Project, slugs: Sequence[str] = (), addresses: Mapping[str, str] | None = None
) -> None:
    """Print headline, champions and links; nothing is measured, what is published is shown.

    Args:
        project: The pipeline.
        slugs: Domains; none: every valid domain file.
        addresses: Where `dagster` and `mlflow` answer; None: where `react-pipeline ui` runs
            already, if it does.
    """
    slugs = slugs or sorted(load_domains(project.config.domains)[0])
    look = Manifests.of(project)  # for both parts of the page
    console.print()
    try:
        _print_headline(project, slugs, look)
    except ReactError as error:  # the links below are useful all the same
        print_error(f"note: {error}")
    console.print()
    if addresses is None:
        addresses = ui_addresses(locate_home(project.path.parent))
    for name, target in _links(look, slugs, addresses):
        console.print(f"{name:9}  {target}")


def _print_headline(project: Project, slugs: Sequence[str], look: Manifests) -> None:
    """Print a line for each domain and trained method; of many, only of the method that is spoken
    of; where nothing was measured, of the best by other evidence.
    """
    from react_pipeline.evaluation import (
        EVIDENCE_DIFFERENCES,
        MEAN,
        comparison_table,
        headline_method,
        is_trained,
        table_cells,
    )
    from react_pipeline.promotion import standing

    table = comparison_table(project, slugs, look)
    names = [*slugs[:MAX_DOMAINS], *([MEAN] if len(slugs) > 1 else [])]
    ranked = table[table["domain"].isin(names)].assign(
        other=table["method"] != headline_method(table)
    )
    falling = [False] * len(EVIDENCE_DIFFERENCES)
    ranked = ranked.sort_values(["other", *EVIDENCE_DIFFERENCES], ascending=[True, *falling])
    each = ranked[ranked["top1"].notna() & ranked["method"].map(is_trained)]
    few = len(each) <= MAX_LINES and set(each["domain"]) == set(ranked["domain"])
    shown = (each if few else ranked.drop_duplicates("domain")).sort_index()
    heads, rows = table_cells(shown, _DETAILS)
    lines = []
    for slug, cells, status in zip(shown["domain"], rows, shown["status"], strict=True):
        champion = "" if slug == MEAN else standing(project, slug)[0].champion.method
        texts = [cell.text for cell in cells]
        lines.append([*texts, champion, "" if status == "ok" else status])
    print_table([*heads.values(), "champion", ""], lines, right=len(heads))
    if len(slugs) > MAX_DOMAINS:
        console.print(f"and {len(slugs) - MAX_DOMAINS} more domains")


def _links(
    look: Manifests, slugs: Sequence[str], addresses: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    from react_pipeline.lineage import is_current
    from react_pipeline.tracking import Tracking

    dashboards = {}
    with suppress(ReactError, KeyError):  # an extension brings the stage
        dashboards["all domains"] = is_current(look, "overview", ALL)
    for slug in slugs:
        with suppress(ReactError):
            dashboards[slug] = is_current(look, COMPARISON, slug)
    for name, artifact in [*dashboards.items()][:MAX_DASHBOARDS]:
        yield "dashboard", f"{artifact.path / 'dashboard.html'}  ({name})"
    if len(dashboards) > MAX_DASHBOARDS:
        yield (
            "",
            f"{len(dashboards) - MAX_DASHBOARDS} more; `react-pipeline results` prints all figures",
        )
    if dagster := addresses.get("dagster"):
        yield "Dagster", f"{dagster}  (lineage, pictures, checks)"
    if mlflow := addresses.get("mlflow"):
        yield (
            "MLflow",
            f"{Tracking.of(look).results_page(mlflow)}  (runs, curves, models)",
        )
    if not addresses:
        yield (
            "next",
            "react-pipeline ui        lineage, pictures, checks (Dagster); runs, curves, models "
            "(MLflow)",
        )
    yield (
        "more" if addresses else "",
        "react-pipeline results   every method; `models list`: why each champion is one",
    )
    yield (
        "",
        "react-pipeline browse    the corpus in a browser; `search 'a bird'`: in the terminal",
    )

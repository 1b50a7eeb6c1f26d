"""The command `react-pipeline results`, and the start page: what a project has come to and where to
look, printed after `demo`, `materialize` and `ui`.

Does not belong here: how results are measured or compared (`evaluation`), what is champion and why
(`promotion`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Annotated

import typer

from react_pipeline.commands.command_line import Config, console, load_project, valid_domains
from react_pipeline.commands.terminal import print_error, print_table
from react_pipeline.project import Manifests, Project, locate_home, ui_addresses
from react_pipeline.settings import load_domains
from react_pipeline.stage import ALL, COMPARISON
from react_pipeline.store import ReactError

Format = StrEnum("Format", ["table", "json", "csv"])


def results(
    format: Annotated[Format, typer.Option(help="Format of the output.")] = Format.table,
    config: Config = None,
) -> None:
    """Show the published comparisons of all domains, and the mean of each method."""
    from react_pipeline.evaluation import comparison_table

    project = load_project(config)
    slugs = valid_domains(project)
    if format is Format.table:
        print_results(project, slugs)
        return
    table = comparison_table(project, slugs)
    if format is Format.csv:
        typer.echo(table.to_csv(index=False), nl=False)
    else:
        rows = table.to_json(orient="records", indent=1, double_precision=15, force_ascii=False)
        typer.echo(rows)


def print_results(project: Project, slugs: Sequence[str], *, brief: bool = False) -> None:
    """Print the comparisons of these domains: percent, and differences in points with their
    95% intervals. Of one domain no mean is shown.

    Args:
        brief: Of several domains the mean of each method alone, if there is one.
    """
    from react_pipeline.evaluation import MEAN, METRICS, comparison_table, table_cells

    table = comparison_table(project, slugs)
    is_mean = table["domain"] == MEAN
    if len(slugs) == 1:
        table = table[~is_mean]
    elif brief and is_mean.any():
        table = table[is_mean]
    heads, rows = table_cells(table, ("mean_per_class", "n"))
    for column in ("delta_top1", "gain_over_control"):
        if column in heads:
            heads[column] += " (95%)"
    lines = [
        [*(cell.text if cell.column in METRICS else cell for cell in cells), status]
        for cells, status in zip(rows, table["status"].replace("ok", ""), strict=True)
    ]
    print_table([*heads.values(), "status"], lines, right=len(heads))


def print_start_page(
    project: Project, slugs: Sequence[str] = (), addresses: Mapping[str, str] | None = None
) -> None:
    """Print headline and links; nothing is measured, what is published is shown.

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
        print_results(look, slugs, brief=True)
    except ReactError as error:  # the links below are useful all the same
        print_error(f"note: {error}")
    console.print()
    if addresses is None:
        addresses = ui_addresses(locate_home(project.path.parent))
    for name, target in _links(look, slugs, addresses):
        console.print(f"{name:9}  {target}")


def _links(
    look: Manifests, slugs: Sequence[str], addresses: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    from react_pipeline.lineage import is_current
    from react_pipeline.tracking import Tracking

    places = [("all domains", "overview", ALL), *((slug, COMPARISON, slug) for slug in slugs[:3])]
    for name, stage, key in places:
        with suppress(ReactError, KeyError):  # an extension brings the overview
            yield "dashboard", f"{is_current(look, stage, key).path / 'dashboard.html'}  ({name})"
    if dagster := addresses.get("dagster"):
        yield "Dagster", f"{dagster}  (lineage, pictures, checks)"
    if mlflow := addresses.get("mlflow"):
        yield "MLflow", f"{Tracking(look).results_page(mlflow)}  (runs, curves, models)"
    if not addresses:
        yield "next", "react-pipeline ui        lineage and checks (Dagster), runs (MLflow)"
    yield "more", "react-pipeline results   every method; `models list`: why each champion is one"
    yield "", "react-pipeline browse    the corpus in a browser; `search 'a bird'`: in the terminal"

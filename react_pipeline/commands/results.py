"""The commands `react-pipeline results` and `report`: the published comparisons as a table, or as a
folder of pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands.command_line import Config, console, load_project
from react_pipeline.commands.terminal import print_error, print_table
from react_pipeline.project import Project
from react_pipeline.settings import load_domains

Format = StrEnum("Format", ["table", "json", "csv"])
ReportFormat = StrEnum("ReportFormat", ["html", "csv", "parquet", "md", "json", "png"])
"""Kinds of files, as in `evaluation.FORMATS`, which is not loaded for the help."""


def results(
    format: Annotated[Format, typer.Option(help="Format of the output.")] = Format.table,
    config: Config = None,
) -> None:
    """Show the published comparisons of all domains, and the mean of each method."""
    from react_pipeline.evaluation import comparison_table

    project = load_project(config)
    slugs = sorted(load_domains(project.config.domains)[0])
    if format is Format.table:
        print_results(project, slugs)
        return
    table = comparison_table(project, slugs)
    if format is Format.csv:
        typer.echo(table.to_csv(index=False), nl=False)
    else:
        rows = table.to_json(orient="records", indent=1, double_precision=15, force_ascii=False)
        typer.echo(rows)


def report(
    domain: Annotated[
        list[str] | None,
        typer.Option(help="A domain; repeat for more. Default: all, with the overview."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")] = Path(
        "report"
    ),
    format: Annotated[
        list[ReportFormat] | None,
        typer.Option(help="Only these kinds of files; repeat for more. Default: all."),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    config: Config = None,
) -> None:
    """Write the published comparisons as pages and tables. Nothing is measured; stale results are
    left out.
    """
    from react_pipeline.evaluation import FORMATS, write_report

    formats = [entry.value for entry in format] if format else list(FORMATS)
    folder = write_report(load_project(config), output, domain or (), formats)
    for slug, reason in folder.missing.items():
        print_error(f"left out: {slug}: {reason}")
    console.print(f"{len(folder.files)} files in {output}")
    if folder.index is not None:
        console.print(f"open {folder.index} in a browser")
        if open_page:
            typer.launch(folder.index.resolve().as_uri())


def print_results(project: Project, slugs: Sequence[str]) -> None:
    """Print the comparisons of these domains: percent, and differences in points with their
    intervals.
    """
    from react_pipeline.evaluation import METRICS, cells_of, comparison_table

    table = comparison_table(project, slugs)
    heads, rows = cells_of(table, ("mean_per_class", "n"))
    statuses = table["status"].replace("ok", "")
    lines = [
        [*(cell.text if cell.column in METRICS else cell for cell in cells), status]
        for cells, status in zip(rows, statuses, strict=True)
    ]
    print_table([*heads.values(), "status"], lines, right=len(heads))

"""The commands `react-pipeline results` and `report`: the published comparisons as a table, or as a
folder of pages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from react_pipeline.commands.command_line import Config, console, load_project
from react_pipeline.commands.terminal import print_error, print_table
from react_pipeline.project import Project
from react_pipeline.settings import load_domains

Format = StrEnum("Format", ["table", "json", "csv"])
ReportFormat = StrEnum("ReportFormat", ["html", "csv", "parquet", "md", "json", "png"])
"""Kinds of files; those of `evaluation.FORMATS`, which is not loaded for the help."""

COUNTS = ("n", "pairs", "trainable_parameters")


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
        rows = [
            {str(name): _plain(name, value) for name, value in row.items()}
            for row in table.to_dict("records")
        ]
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))


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
    written = write_report(load_project(config), output, domain or (), formats)
    for slug, reason in written.missing.items():
        print_error(f"left out: {slug}: {reason}")
    console.print(f"{len(written.files)} files in {output}")
    if written.index is not None:
        console.print(f"open {written.index} in a browser")
        if open_page:
            typer.launch(written.index.resolve().as_uri())


def print_results(project: Project, slugs: Sequence[str]) -> None:
    """Print the comparisons of these domains, fractions as percent and differences as points."""
    from react_pipeline.evaluation import comparison_table

    table = comparison_table(project, slugs)
    judged = bool(table["judged"].notna().any())
    columns = ["domain", "method", "top-1 %", "top-5 %", "delta to base"]
    columns += ["judged to base", "95%"] if judged else []
    columns += ["pairs", "trainable", "seconds", "status"]
    rows = [
        [
            *(
                row.domain,
                row.method,
                _percent(row.top1),
                _percent(row.top5),
                _percent(row.delta_top1, "+"),
            ),
            *(_judged(row) if judged else ()),
            *(_count(row.pairs), _count(row.trainable_parameters), _count(row.seconds)),
            "" if row.status == "ok" else row.status,
        ]
        for row in table.itertuples()
    ]
    print_table(columns, rows, right=len(columns) - 1)


def _plain(name: Any, value: Any) -> Any:
    """For programs: floats as they were measured, counts as integers, None where there is no
    number.
    """
    if value != value:
        return None
    return int(value) if name in COUNTS and float(value).is_integer() else value


def _judged(row: Any) -> tuple[str, str]:
    bounds = [_percent(bound, "+") for bound in (row.judged_delta_low, row.judged_delta_high)]
    return _percent(row.judged_delta, "+"), " to ".join(filter(None, bounds))


def _percent(value: float, sign: str = "") -> str:
    return "" if value != value else f"{100 * value:{sign}.1f}"


def _count(value: float) -> str:
    return "" if value != value else f"{value:,.0f}"

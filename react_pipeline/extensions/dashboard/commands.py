"""The command `react-pipeline report`: the published comparisons as a folder of pages."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands import Config, console, load_project, print_error

ReportFormat = StrEnum("ReportFormat", ["html", "csv", "parquet", "md", "json", "png"])
"""Kinds of files, as in `report.FORMATS`, which is not loaded for the help."""


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
    project = load_project(config, domain or ())
    from react_pipeline.extensions.dashboard.report import FORMATS, write_report

    formats = [entry.value for entry in format] if format else list(FORMATS)
    folder = write_report(project, output, domain or (), formats)
    for slug, reason in folder.missing.items():
        print_error(f"left out: {slug}: {reason}")
    console.print(f"{len(folder.files)} files in {output}")
    if folder.index is not None:
        console.print(f"open {folder.index} in a browser")
        if open_page:
            typer.launch(folder.index.resolve().as_uri())

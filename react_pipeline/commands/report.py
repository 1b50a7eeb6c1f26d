"""The command `react-pipeline report`: the published comparisons as a folder of pages and tables."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands.command_line import Config, console, load_project

ReportFormat = StrEnum("ReportFormat", ["html", "csv", "parquet", "md", "json", "png"])
"""Kinds of files; those of `report.FORMATS`."""


def report(
    domain: Annotated[
        list[str] | None, typer.Option(help="A domain; repeat for more. Default: all, with the overview.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")] = Path("report"),
    format: Annotated[  # noqa: A002 - the option's name
        list[ReportFormat] | None, typer.Option(help="Only these kinds of files; repeat for more. Default: all.")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    config: Config = None,
) -> None:
    """Write the published comparisons as pages and tables. Nothing is measured; what is stale is left out."""
    from react_pipeline.evaluation import FORMATS, write_report

    formats = [entry.value for entry in format] if format else list(FORMATS)
    written = write_report(load_project(config), output, domain or (), formats)
    for slug, reason in written.missing.items():
        typer.echo(f"left out: {slug}: {reason}", err=True)
    console.print(f"{len(written.files)} files in {output}", markup=False)
    if written.index is not None:
        console.print(f"open {written.index} in a browser", markup=False)
        if open_page:
            typer.launch(written.index.resolve().as_uri())

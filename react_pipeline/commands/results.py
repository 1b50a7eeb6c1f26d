"""The command `react-pipeline results`: the published comparisons as a table."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from react_pipeline.commands.command_line import Config, load_project, valid_domains
from react_pipeline.commands.terminal import print_table
from react_pipeline.project import Project

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


def print_results(project: Project, slugs: Sequence[str]) -> None:
    """Print the comparisons of these domains: percent, and differences in points with their
    95% intervals. Of one domain no mean is shown.
    """
    from react_pipeline.evaluation import MEAN, METRICS, comparison_table, table_cells

    table = comparison_table(project, slugs)
    if len(slugs) == 1:
        table = table[table["domain"] != MEAN]
    heads, rows = table_cells(table, ("mean_per_class", "n"))
    for column in ("delta_top1", "gain_over_control"):
        if column in heads:
            heads[column] += " (95%)"
    statuses = table["status"].replace("ok", "")
    lines = [
        [*(cell.text if cell.column in METRICS else cell for cell in cells), status]
        for cells, status in zip(rows, statuses, strict=True)
    ]
    print_table([*heads.values(), "status"], lines, right=len(heads))

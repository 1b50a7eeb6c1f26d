"""The command `react-pipeline plan`: what each step will need here or on another machine.

Belongs here: printing the sums. Does not belong here: the sums (`plan`).
"""

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.filesize import decimal

from react_pipeline.commands import Config, console, load_project, print_table, valid_domains


def plan(
    machine: Annotated[
        str,
        typer.Option(
            help="Figures of another machine: cores=64,memory=256G,disk=10T,gpus=1,card=80G."
        ),
    ] = "",
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="Rows of the corpus. Default: as counted from its files."),
    ] = None,
    config: Config = None,
) -> None:
    """Estimate bytes, memory and hours of each step before anything runs, and what will not fit.

    The encoder is run for some seconds to measure this processor; run it while nothing else does.
    """
    from react_pipeline.extensions.plan.plan import Machine, make_plan

    project = load_project(config)
    valid_domains(project)  # names the others
    here = Machine.here(project.config.store, project.config.device)
    estimate = make_plan(project, here.changed(machine), rows)
    steps = estimate.steps
    lines = []
    for step in steps:
        sizes, hours = (step.disk, step.memory), (step.cpu_hours, step.gpu_hours)
        built = "yes" if step.built else ""
        lines.append([step.stage, step.amount, *map(_bytes, sizes), *map(_hours, hours), built])
    disk = _bytes(sum(step.disk for step in steps))
    totals = [_total(step.cpu_hours for step in steps), _total(step.gpu_hours for step in steps)]
    lines.append(["total", "", disk, "", *totals, ""])
    columns = ["step", "amount", "disk", "memory", "CPU", "GPU", "built"]
    print_table(columns, lines, right=len(columns))
    for problem in estimate.problems:
        console.print(f"does not fit: {problem}")


def _bytes(size: float) -> str:
    return decimal(int(size), precision=2) if size else ""


def _total(hours: Iterable[float | None]) -> str:
    known = list(hours)
    return _hours(None if None in known else sum(filter(None, known)))


def _hours(hours: float | None) -> str:
    if hours is None:
        return "–"
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 3_600:,.0f} s"

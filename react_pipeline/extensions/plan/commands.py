"""The commands `react-pipeline doctor`, `plan` and `advise`.

Belongs here: printing. Does not belong here: what is looked at (`diagnosis`), summed (`plan`) or
tried (`signs`).
"""

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.filesize import decimal

from react_pipeline.commands import (
    Config,
    Domain,
    console,
    load_project,
    materialize_command,
    print_table,
    valid_domains,
)
from react_pipeline.lineage import fresh
from react_pipeline.project import Manifests
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.stage import CONTROL_SET, RETRIEVED_SET

LISTED = 10
"""Classes that no caption names, of which `advise` shows so many."""
MOST_SHARED = 0.5
"""Share of the random pairs that were retrieved, above which a control says little."""


def doctor(config: Config = None) -> None:
    """Show what this machine and this project have, what is missing, and how to get it."""
    from react_pipeline.extensions.plan.diagnosis import diagnose

    findings = diagnose(config)
    print_table(["what", "state", "detail", "what to do"], findings)
    if any(one.state == "missing" for one in findings):
        raise typer.Exit(1)


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
    project = load_project(config)
    valid_domains(project)  # names the others
    from react_pipeline.extensions.plan import Machine, make_plan

    here = Machine.here(project.config.store, project.config.device)
    estimate = make_plan(project, here.changed(machine), rows)
    steps = estimate.steps
    lines = []
    for step in steps:
        sizes, hours = (step.work.disk, step.memory), (step.cpu_hours, step.gpu_hours)
        built = "yes" if step.built else ""
        lines.append(
            [step.stage, step.work.amount, *map(_bytes, sizes), *map(_hours, hours), built]
        )
    disk = _bytes(sum(step.work.disk for step in steps))
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


def advise(domain: Domain, config: Config = None) -> None:
    """Say before anything is trained which classes the corpus lacks, what `gda` gains on held-out
    pairs beside its control, and what to run next.

    The retrieved set of the domain and its control must be materialized.
    """
    project = load_project(config, [domain])
    look = Manifests.of(project)  # before anything large is loaded
    for stage in (CONTROL_SET, RETRIEVED_SET):  # the first needs the second
        fresh(look, stage, domain)
    import pandas as pd

    from react_pipeline.extensions.plan.signs import try_gda

    retrieved, control = (fresh(project, stage, domain) for stage in (RETRIEVED_SET, CONTROL_SET))
    tried = try_gda(project, domain, retrieved, control)
    classes = pd.read_parquet(retrieved.file("classes.parquet"), columns=["class", "kept"])
    # A corpus without captions names none.
    unnamed = classes[classes["class"].isin(retrieved.counts.get("unnamed", classes["class"]))]
    console.print(
        f"{len(classes):,} classes, {classes['kept'].sum():,} pairs; classes without a pair: "
        f"{(classes['kept'] == 0).sum():,}; classes that no caption names: {len(unnamed):,}"
    )
    if len(unnamed):
        print_table(["not named", "pairs"], unnamed.head(LISTED).to_numpy().tolist())
        console.print("add a synonym that captions use: it finds better pairs")
    own, random = (f"{100 * (one - tried.base):+.1f}" for one in (tried.own, tried.control))
    drawn, chosen = (
        pd.read_parquet(one.file("pairs.parquet"), columns=["row"])["row"]
        for one in (control, retrieved)
    )
    shared = drawn.isin(chosen).mean()
    console.print(
        f"gda on held-out pairs: {own} points over the base; its control: {random} ({shared:.0%} of "
        "its random pairs are retrieved ones)"
    )
    lacking = len(retrieved.counts["starving"])
    if lacking > project.retrieval(domain).max_starving_fraction * len(classes):
        console.print(
            f"next: add names or synonyms to {domain}.yaml; {lacking} classes have too few pairs, "
            "and no method trains on so few"
        )
    elif tried.own <= max(tried.base, tried.control):
        remedy = f"add names to {domain}.yaml, or use another corpus"
        if tried.base < tried.own and shared > MOST_SHARED:
            remedy = "use a larger corpus, or lower `retrieval.k_per_prompt` and `max_per_class`"
        console.print(f"next: {remedy}; gda is no better than the base or its control")
    else:
        methods = f"--method base --method gda --method gda{CONTROL_SUFFIX}"
        console.print(f"next: {materialize_command(domain=domain)} {methods}")

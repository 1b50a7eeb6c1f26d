"""The plan of a project: what each step will need on a machine, before anything runs, and what it
took.

Belongs here: what will not fit, what was measured. Does not belong here: the sums (`sums`),
printing (`commands`).
"""

from dataclasses import dataclass, replace
from typing import Any

from react_pipeline.corpus import CorpusSize, count_pairs
from react_pipeline.extensions.plan.machine import Machine
from react_pipeline.extensions.plan.sums import Step, Sums
from react_pipeline.lineage import fresh, fresh_or_none
from react_pipeline.project import Manifests, Project
from react_pipeline.stage import ALL
from react_pipeline.store import ReactError

LONG_HOURS = 24


@dataclass(frozen=True)
class Plan:
    """The steps, and what will not fit, with the setting that helps."""

    machine: Machine
    rows: int
    steps: list[Step]
    problems: list[str]


def plan_of(project: Project, machine: Machine, rows: int | None = None) -> Plan:
    """The sums of a configuration.

    Args:
        rows: Of the corpus; None: as published, or as its files say. Measurements of another number
            of rows are left out.

    Raises:
        InputError: If the number of rows is not known.
    """
    look = Manifests.of(project)
    sums = Sums(look, machine, CorpusSize.of(look, rows))
    steps = sums.steps()
    if rows is None or rows == _published_rows(look):
        steps = [_measured(look, step, sums.keys[step.stage]) for step in steps]
    problems = [*sums.problems]
    total_bytes = sum(step.disk for step in steps if step.measured_disk is None)
    if total_bytes > machine.disk:
        problems.append(
            f"disk: {total_bytes / 1e9:,.0f} GB are needed, {machine.disk / 1e9:,.0f} GB are free: "
            "set `store` to a larger disk, `corpus.download.image_size: 256`, or "
            "`index.memory_gib` for a smaller index"
        )
    for step in steps:
        if step.memory > machine.memory:
            problems.append(
                f"{step.stage}: {step.memory / 1e9:,.1f} GB of memory are needed, "
                f"{machine.memory / 1e9:,.1f} GB are available"
                + (f": {step.less_memory}" if step.less_memory else "")
            )
        hours = step.cpu_hours if step.gpu_hours is None else step.gpu_hours
        if hours > LONG_HOURS and step.measured_hours is None:
            less = step.less_time or "more machines (`distributor.kind: spark`)"
            problems.append(f"{step.stage}: {hours / 24:,.1f} days: use a GPU, or {less}")
    return Plan(machine, sums.corpus.pairs, steps, problems)


def _published_rows(project: Project) -> int | None:
    """Return the number of rows of the published corpus, None without one."""
    corpus = fresh_or_none(project, "corpus", ALL)
    return None if corpus is None else count_pairs(corpus)


def _measured(project: Project, step: Step, keys: list[str]) -> Step:
    """With what its published artifacts took, where all are there and made from today's inputs."""
    try:
        artifacts = [fresh(project, step.stage, key) for key in keys]
    except ReactError:
        return step
    seconds: list[Any] = [
        # A step's own are with the tries before a kill.
        artifact.counts.get("seconds", artifact.manifest.get("build_seconds"))
        for artifact in artifacts
    ]
    hours = None if None in seconds else sum(seconds) / 3_600
    disk = sum(
        file["bytes"] for artifact in artifacts for file in artifact.manifest["files"].values()
    )
    return replace(step, measured_hours=hours, measured_disk=disk)

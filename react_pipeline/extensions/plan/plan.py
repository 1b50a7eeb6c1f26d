"""The plan of a project: what each step will need on a machine, before anything runs, and what it
took.

Belongs here: what will not fit, what was measured. Does not belong here: the sums (`sums`),
printing (`commands`).
"""

from dataclasses import dataclass, replace
from typing import Any

from react_pipeline.corpus import CorpusSize
from react_pipeline.extensions.plan.machine import Machine
from react_pipeline.extensions.plan.sums import Step, Sums
from react_pipeline.lineage import fresh
from react_pipeline.project import Manifests, Project
from react_pipeline.store import ReactError

LONG_HOURS = 24
REMEDIES = {
    "corpus": "download with img2dataset on a cluster and use `corpus.kind: webdataset`",
    "faiss_index": "set `index.key: auto`, or a key of shorter codes, such as "
    "OPQ64_512,IVF4096_HNSW32,PQ64x8",
    "customized_checkpoint": "take fewer steps or epochs (`customization`)",
}


@dataclass(frozen=True)
class Plan:
    """The steps, and what will not fit, with the setting that helps."""

    machine: Machine
    rows: int
    steps: list[Step]
    problems: list[str]


def plan_of(project: Project, machine: Machine, rows: int | None = None) -> Plan:
    """Estimate every step of a configuration.

    Args:
        rows: Of the corpus; None: as published, or as its files say, with what was measured.

    Raises:
        InputError: If the number of rows is not known.
    """
    look = Manifests.of(project)
    sums = Sums(look, machine, CorpusSize.of(look, rows))
    steps = sums.steps()
    if rows is None:
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
                f"{machine.memory / 1e9:,.1f} GB are available: {REMEDIES[step.stage]}"
            )
        hours = step.gpu_hours or step.cpu_hours
        if hours > LONG_HOURS and step.measured_hours is None:
            remedy = REMEDIES.get(step.stage, "use more machines (`distributor.kind: spark`)")
            problems.append(f"{step.stage}: {hours / 24:,.1f} days: use a GPU, or {remedy}")
    return Plan(machine, sums.corpus.pairs, steps, problems)


def _measured(project: Project, step: Step, keys: list[str]) -> Step:
    """Return a step with what its artifacts took, where all are there and made from today's
    inputs.
    """
    try:
        artifacts = [fresh(project, step.stage, key) for key in keys]
    except ReactError:
        return step
    # A step that times itself counts the tries before a kill too.
    seconds: list[Any] = [
        one.counts.get("seconds", one.manifest.get("build_seconds")) for one in artifacts
    ]
    files = [file for one in artifacts for file in one.manifest["files"].values()]
    return replace(
        step,
        measured_hours=None if None in seconds else sum(seconds) / 3_600,
        measured_disk=sum(file["bytes"] for file in files),
    )

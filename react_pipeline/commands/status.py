"""The command `react-pipeline status`: what is out of date, held back, waiting or failed, and what
fixes it.

Belongs here: printing what `upkeep.survey` found, and how the runs ended. Does not belong here:
what counts as out of date (`lineage`), what automation would do about it (`upkeep`), reading runs
(`assets.runs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from react_pipeline.commands.command_line import Config, console, load_project
from react_pipeline.commands.terminal import print_error, print_table
from react_pipeline.project import Manifests, Project
from react_pipeline.settings import misnamed
from react_pipeline.stage import ALL

if TYPE_CHECKING:
    from react_pipeline.upkeep import Place, Survey

SHARED = "(shared)"
"""Shown in place of the domain for artifacts of no domain."""

_BECAUSE = {
    "held back": "made from what is held back",
    "waiting": "made from what is out of date",
    "failed": "made from what failed",
}


@dataclass(frozen=True)
class Runs:
    """What Dagster's last runs say of what is out of date.

    Attributes:
        failed: Places that `upkeep` would not ask for, as what failed with today's inputs, and why.
        earlier: How those that it would ask for have failed before, as in a run that a person
            started.
        unseen: Why no run could be looked at; empty if they were.
    """

    failed: dict[Place, str] = field(default_factory=dict)
    earlier: dict[Place, str] = field(default_factory=dict)
    unseen: str = ""


def status(config: Config = None) -> None:
    """Show what is out of date, held back by the policy of training, waiting or failed, and how to
    fix it.
    """
    from react_pipeline.upkeep import State

    project = load_project(config)
    slugs = sorted(path.stem for path in project.config.domains.glob("*.yaml"))
    found, runs = _look(project, slugs)
    rows = [row for slug in (ALL, *slugs) for row in _rows(found, runs, slug)]
    rows += [
        [problem.file.name, "not readable", "", problem.message]
        for problem in misnamed(project.config.domains)
    ]
    if rows:
        print_table(["domain", "state", "what", "why"], rows)
    if found.tasks and runs.unseen:
        print_error(f"note: failed runs are not shown: {runs.unseen}")
    fresh = sum(state is State.FRESH for state in found.states.values())
    console.print(f"{fresh} of {len(found.states)} artifacts are up to date")
    for command in _commands(project, found, slugs):
        console.print(f"next: {command}")


def _look(project: Project, slugs: Sequence[str]) -> tuple[Survey, Runs]:
    """What is out of date, with the runs of it where Dagster has any."""
    from react_pipeline.upkeep import survey

    found = survey(project, slugs)
    if not found.tasks:
        return found, Runs()
    from react_pipeline.assets import runs as dagster_runs
    from react_pipeline.assets import upkeep_sensor

    try:
        with dagster_runs.instance_with_runs(project) or nullcontext() as instance:
            if instance is None:
                home = "there are no runs here; set DAGSTER_HOME to the home of your Dagster, if it is another"
                return found, Runs(unseen=home)
            tick = upkeep_sensor.Tick(instance, Manifests.of(project))
            tick.look(slugs)
            return tick.found, Runs(
                tick.failed, {task.place: why for task, (_, why) in tick.asked.items() if why}
            )
    except Exception as error:  # whatever Dagster, its settings, its database or the network raise
        return found, Runs(
            unseen=f"Dagster's runs cannot be read: {' '.join(str(error).split())[:200]}"
        )


def _rows(found: Survey, runs: Runs, slug: str) -> list[list[str]]:
    from react_pipeline.upkeep import State

    domain = SHARED if slug == ALL else slug
    mine = {place: state for place, state in found.states.items() if _domain(place) == slug}
    rows = [
        [
            domain,
            "out of date",
            _name(task.place),
            _reason(task.reason, runs.earlier.get(task.place)),
        ]
        for task in found.tasks
        if task.place in mine
    ]
    rows += [
        [domain, "failed", _name(place), why] for place, why in runs.failed.items() if place in mine
    ]
    held = [task for task in found.held if task.place in mine]
    rows += [[domain, "held back", _name(task.place), task.reason] for task in held]
    named = {task.place for task in held} | set(runs.failed)
    for state, shown in (
        (State.HELD, "held back"),
        (State.WAITING, "waiting"),
        (State.FAILED, "failed"),
    ):
        others = [place for place, its in mine.items() if its is state and place not in named]
        if others:
            why = found.unreadable.get(slug, "") if state is State.FAILED else ""
            rows.append([domain, shown, ", ".join(map(_name, others)), why or _BECAUSE[shown]])
    if slug in found.unreadable and State.FAILED not in mine.values():
        rows.append([domain, "not readable", "", found.unreadable[slug]])
    return rows


def _commands(project: Project, found: Survey, slugs: Sequence[str]) -> list[str]:
    from react_pipeline.evaluation import STAGE as OVERVIEW
    from react_pipeline.upkeep import State

    methods = " ".join(f"--method {method}" for method in project.config.methods)
    behind = {place for place, state in found.states.items() if state is not State.FRESH}
    domains = [slug for slug in slugs if any(_domain(place) == slug for place in behind)]
    commands = []
    for slug in domains:
        held = [task.key.split("/")[1] for task in found.held if _domain(task.place) == slug]
        note = f" (trains {', '.join(held)} too, which the policy holds back)" if held else ""
        commands.append(f"react-pipeline materialize --domain {slug} {methods}{note}")
    if not domains:
        # A domain's command builds these too.
        shared = {stage for stage, _ in behind}
        commands += (
            ["react-pipeline materialize --select group:corpus"] if shared - {OVERVIEW} else []
        )
        commands += (
            [f"react-pipeline materialize --select {OVERVIEW}"] if OVERVIEW in shared else []
        )
    known = {_domain(place) for place in found.states}
    if any(slug not in known for slug in found.unreadable):
        commands.append("react-pipeline domains validate")
    return commands


def _reason(reason: str, earlier: str | None) -> str:
    short = reason.partition(": rematerialize")[0].partition(": materialize")[0]
    return f"{short}; its last {earlier}" if earlier else short


def _domain(place: Place) -> str:
    return place[1].split("/")[0]


def _name(place: Place) -> str:
    stage, key = place
    return f"{stage} of {key.split('/')[1]}" if "/" in key else stage

"""The command `react-pipeline status`: what is out of date, held back, waiting or failed, and what
fixes it.

Belongs here: printing the result of `survey`, and how the runs ended. Does not belong here: what
counts as out of date (`lineage`), what automation would do about it (`survey`), reading runs
(`last_runs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from react_pipeline.commands import (
    Config,
    console,
    load_project,
    materialize_command,
    print_error,
    print_table,
)
from react_pipeline.project import Manifests, Project
from react_pipeline.settings import misnamed
from react_pipeline.stage import ALL

if TYPE_CHECKING:
    from react_pipeline.extensions.automation.survey import Survey
    from react_pipeline.stage import Place

SHARED = "(shared)"
"""Shown in place of the domain for artifacts of no domain."""

MAX_NAMES = 3
"""In one cell of artifacts that wait for others."""

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
    project = load_project(config)
    from react_pipeline.extensions.automation.survey import State

    slugs = sorted(path.stem for path in project.config.domains.glob("*.yaml"))
    survey, runs = _look(project, slugs)
    by_domain = sorted(_rows(survey, runs), key=lambda row: (row[0] != ALL, row[0]))
    rows = [[SHARED if slug == ALL else slug, *cells] for slug, cells in by_domain]
    rows += [
        [problem.file.name, "not readable", "", problem.message]
        for problem in misnamed(project.config.domains)
    ]
    if rows:
        print_table(["domain", "state", "what", "why"], rows)
    fresh = sum(state is State.FRESH for state in survey.states.values())
    if fresh and survey.tasks and runs.unseen:  # a new project has no runs
        print_error(f"note: failed runs are not shown: {runs.unseen}")
    console.print(f"{fresh} of {len(survey.states)} artifacts are up to date")
    if commands := _commands(survey, slugs):
        console.print(f"next: {' && '.join(commands)}")


def _look(project: Project, slugs: Sequence[str]) -> tuple[Survey, Runs]:
    """What is out of date, with the runs of it where Dagster has any."""
    from react_pipeline.extensions.automation.survey import survey as survey_places

    survey = survey_places(project, slugs)
    if not survey.tasks:
        return survey, Runs()
    from react_pipeline.extensions.automation.assets.last_runs import instance_with_runs
    from react_pipeline.extensions.automation.assets.upkeep_sensor import Tick

    try:
        with instance_with_runs(project) or nullcontext() as instance:
            if instance is None:
                home = (
                    "there are no runs here; set DAGSTER_HOME to the home of your Dagster, if it "
                    "is another"
                )
                return survey, Runs(unseen=home)
            tick = Tick(instance, Manifests.of(project))
            tick.look(slugs)
            return tick.survey, Runs(
                tick.failed, {task.place: why for task, (_, why) in tick.asked.items() if why}
            )
    except Exception as error:  # whatever Dagster, its settings, its database or the network raise
        return survey, Runs(
            unseen=f"Dagster's runs cannot be read: {' '.join(str(error).split())[:200]}"
        )


def _rows(survey: Survey, runs: Runs) -> list[tuple[str, list[str]]]:
    """Rows of the table, each with its domain; what can be built comes first."""
    from react_pipeline.extensions.automation.survey import State

    due = {task.place: _reason(task.reason, runs.earlier.get(task.place)) for task in survey.tasks}
    failed = {place: why for place, why in runs.failed.items() if place in survey.states}
    held = {task.place: task.reason for task in survey.held}
    rows = [
        (_domain(place), [shown, _name(place), why])
        for shown, reasons in (("out of date", due), ("failed", failed), ("held back", held))
        for place, why in reasons.items()
    ]
    others: dict[State, dict[str, list[str]]] = {state: {} for state in State}
    for place, state in survey.states.items():
        if place not in held and place not in failed:
            others[state].setdefault(_domain(place), []).append(_name(place))
    for state, shown in (
        (State.HELD, "held back"),
        (State.WAITING, "waiting"),
        (State.FAILED, "failed"),
    ):
        for slug, names in others[state].items():
            if len(names) > MAX_NAMES:
                names[MAX_NAMES - 1 :] = [f"and {len(names) - MAX_NAMES + 1} more"]
            why = survey.unreadable.get(slug, "") if state is State.FAILED else ""
            rows.append((slug, [shown, ", ".join(names), why or _BECAUSE[shown]]))
    failing = {_domain(place) for place, state in survey.states.items() if state is State.FAILED}
    for slug, why in survey.unreadable.items():
        if slug not in failing:
            rows.append((slug, ["not readable", "", why]))
    return rows


def _commands(survey: Survey, slugs: Sequence[str]) -> list[str]:
    """What to run, in this order: a domain file that is not valid has to be corrected first."""
    from react_pipeline.extensions.automation.survey import State

    behind = {_domain(place) for place, state in survey.states.items() if state is not State.FRESH}
    commands = []
    if survey.unreadable.keys() - set(map(_domain, survey.states)):
        commands.append("react-pipeline domains validate")
    if behind:
        named = [] if behind >= {*slugs} and len(slugs) > 1 else [s for s in slugs if s in behind]
        held = sorted({task.key.split("/")[1] for task in survey.held})
        note = f" (trains {', '.join(held)} too, which the policy holds back)" if held else ""
        domains = "".join(f" --domain {slug}" for slug in named)
        commands.append(f"{materialize_command()}{domains}{note}")
    return commands


def _reason(reason: str, earlier: str | None) -> str:
    short = reason.partition(": rematerialize")[0].partition(": materialize")[0]
    return f"{short}; its last {earlier}" if earlier else short


def _domain(place: Place) -> str:
    return place[1].split("/")[0]


def _name(place: Place) -> str:
    stage, key = place
    return f"{stage} of {key.split('/')[1]}" if "/" in key else stage

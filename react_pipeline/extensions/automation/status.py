"""The command `react-pipeline status`: what is out of date, held back, waiting or failed, and what
fixes it.

Belongs here: printing the result of `survey`. Does not belong here: what counts as out of date
(`lineage`), what automation would do about it (`survey`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from react_pipeline.commands import (
    Config,
    console,
    load_project,
    materialize_command,
    print_table,
)
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


def status(config: Config = None) -> None:
    """Show what is out of date, held back by the policy of training, waiting or failed, and how to
    fix it.
    """
    project = load_project(config)
    from react_pipeline.extensions.automation.survey import State
    from react_pipeline.extensions.automation.survey import survey as look_at

    slugs = sorted(path.stem for path in project.config.domains.glob("*.yaml"))
    survey = look_at(project, slugs)
    by_domain = sorted(_rows(survey), key=lambda row: (row[0] != ALL, row[0]))
    rows = [[SHARED if slug == ALL else slug, *cells] for slug, cells in by_domain]
    rows += [
        [problem.file.name, "not readable", "", problem.message]
        for problem in misnamed(project.config.domains)
    ]
    if rows:
        print_table(["domain", "state", "what", "why"], rows)
    fresh = sum(state is State.FRESH for state in survey.states.values())
    console.print(f"{fresh} of {len(survey.states)} artifacts are up to date")
    if commands := _commands(survey, slugs):
        console.print(f"next: {' && '.join(commands)}")


def _rows(survey: Survey) -> list[tuple[str, list[str]]]:
    """Rows of the table, each with its domain; what can be built comes first."""
    from react_pipeline.extensions.automation.survey import State

    due = {task.place: _reason(task.reason) for task in survey.tasks}
    failed = {task.place: failure.text for task, failure in survey.failed.items()}
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


def _reason(reason: str) -> str:
    return reason.partition(": rematerialize")[0].partition(": materialize")[0]


def _domain(place: Place) -> str:
    return place[1].split("/")[0]


def _name(place: Place) -> str:
    stage, key = place
    return f"{stage} of {key.split('/')[1]}" if "/" in key else stage

"""The command `react-pipeline status`: what is out of date, held back, waiting or failed, and what
fixes it.

Belongs here: printing the result of `survey`. Does not belong here: what counts as out of date
(`lineage`), what automation would do about it (`survey`).
"""

from __future__ import annotations

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

_SHOWN = {
    "due": ("out of date", ""),
    "held": ("held back", "made from what is held back"),
    "waiting": ("waiting", "made from what is out of date"),
    "failed": ("failed", "made from what failed"),
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
    rows = [[SHARED if slug == ALL else slug, *cells] for slug, *cells in by_domain]
    rows += [
        [problem.file.name, "not readable", "", problem.message]
        for problem in misnamed(project.config.domains)
    ]
    if rows:
        print_table(["domain", "state", "what", "why"], rows)
    behind = [place for place, state in survey.states.items() if state is not State.FRESH]
    count = len(survey.states)
    console.print(f"{count - len(behind)} of {count} artifacts are up to date")
    if commands := _commands(survey, {_domain(place) for place in behind}):
        console.print(f"next: {' && '.join(commands)}")


def _rows(survey: Survey) -> list[list[str]]:
    """Return a row for all artifacts of a domain and state with the same reason; what can be built
    comes first.
    """
    reasons = {task.place: ("due", _reason(task.reason)) for task in survey.tasks}
    reasons |= {task.place: ("failed", why) for task, why in survey.waiting.items()}
    reasons |= {task.place: ("held", task.reason) for task in survey.held}
    for place, found in survey.states.items():
        if found in _SHOWN:
            reasons.setdefault(place, (found, _SHOWN[found][1]))
    names: dict[tuple[str, str, str], list[str]] = {}
    for place, (state, why) in reasons.items():
        names.setdefault((_domain(place), _SHOWN[state][0], why), []).append(_name(place))
    rows = [[slug, state, ", ".join(same), why] for (slug, state, why), same in names.items()]
    return rows + [[slug, "not readable", "", why] for slug, why in survey.unreadable.items()]


def _commands(survey: Survey, behind: set[str]) -> list[str]:
    """Return what to run, in this order: a domain file that is not valid has to be corrected
    first.
    """
    commands = []
    if survey.unreadable.keys() - set(map(_domain, survey.states)):
        commands.append("react-pipeline domains validate")
    if behind:
        held = sorted({task.key.split("/")[1] for task in survey.held})
        note = f" (trains {', '.join(held)} too, which the policy holds back)" if held else ""
        domains = behind - {ALL}
        command = materialize_command(domain=min(domains) if len(domains) == 1 else "")
        commands.append(command + note)
    return commands


def _reason(reason: str) -> str:
    return reason.partition(": rematerialize")[0].partition(": materialize")[0]


def _domain(place: Place) -> str:
    return place[1].split("/")[0]


def _name(place: Place) -> str:
    stage, key = place
    return f"{stage} of {key.split('/')[1]}" if "/" in key else stage

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
    "failed": ("failed", "made from what failed"),
    "held": ("held back", "made from what is held back"),
    "waiting": ("waiting", "made from what is out of date"),
    "fresh": ("failed", ""),
}
"""What is said of a state, and why if no place says more; what is fresh could not be renewed."""


def status(config: Config = None) -> None:
    """Show what is out of date, held back by the policy of training, waiting or failed, and how to
    fix it.
    """
    project = load_project(config)
    from react_pipeline.extensions.automation.survey import State
    from react_pipeline.extensions.automation.survey import survey as look_at

    slugs = sorted(path.stem for path in project.config.domains.glob("*.yaml"))
    survey = look_at(project, slugs)
    rows = [[SHARED if slug == ALL else slug, *cells] for slug, *cells in _rows(survey)]
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
    names: dict[tuple[str, str, str], list[str]] = {}
    for state, (shown, follows) in _SHOWN.items():
        for place, found in survey.states.items():
            why = survey.reasons.get(place, follows)
            if state == "due":
                why = why.partition(": rematerialize")[0].partition(": materialize")[0]
            if found == state and (why or state != "fresh"):
                names.setdefault((_domain(place), shown, why), []).append(_name(place))
    rows = [[slug, state, ", ".join(same), why] for (slug, state, why), same in names.items()]
    rows += [[slug, "not readable", "", why] for slug, why in survey.unreadable.items()]
    return sorted(rows, key=lambda row: (row[0] != ALL, row[0]))


def _commands(survey: Survey, behind: set[str]) -> list[str]:
    """Return what to run, in this order: a domain file that is not valid has to be corrected
    first.
    """
    commands = []
    if survey.unreadable.keys() - set(map(_domain, survey.states)):
        commands.append("react-pipeline domains validate")
    if behind:
        held = [key for stage, key in survey.reasons if survey.states[stage, key] == "held"]
        methods = ", ".join(sorted({key.split("/")[1] for key in held}))
        note = f" (trains {methods} too, which the policy holds back)" if held else ""
        domains = behind - {ALL}
        command = materialize_command(domain=min(domains) if len(domains) == 1 else "")
        commands.append(command + note)
    return commands


def _domain(place: Place) -> str:
    return place[1].split("/")[0]


def _name(place: Place) -> str:
    stage, key = place
    return f"{stage} of {key.split('/')[1]}" if "/" in key else stage

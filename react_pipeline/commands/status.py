"""The command `react-pipeline status`: what is out of date, held back, waiting or not to be had, and what mends it.

Belongs here: telling a person what `upkeep.survey` found. Does not belong here: what counts as out of date (`lineage`),
what automation would do about it (`upkeep`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from react_pipeline.commands.command_line import Config, console, load_project
from react_pipeline.commands.terminal import print_table
from react_pipeline.lineage import ALL, Project

if TYPE_CHECKING:
    from react_pipeline.upkeep import Place, Survey

SHARED = "(shared)"
"""Stands for the domain of what belongs to none."""

_BECAUSE = {
    "held back": "made from what is held back",
    "waiting": "made from what is out of date",
    "failed": "made from what cannot be had",
}


def status(config: Config = None) -> None:
    """What is out of date, held back by the policy of training, waiting or failed; and the command that mends it."""
    from react_pipeline.upkeep import State, survey

    project = load_project(config)
    slugs = sorted(path.stem for path in project.config.domains.glob("*.yaml"))
    found = survey(project, slugs)
    rows = [row for slug in (ALL, *slugs) for row in _rows(found, slug)]
    if rows:
        print_table(["domain", "state", "what", "why"], rows)
    fresh = sum(state is State.FRESH for state in found.states.values())
    console.print(f"{fresh} of {len(found.states)} artifacts are up to date", markup=False)
    for command in _commands(project, found, slugs):
        console.print(f"next: {command}", markup=False, soft_wrap=True)


def _rows(found: Survey, slug: str) -> list[list[str]]:
    from react_pipeline.upkeep import State

    domain = SHARED if slug == ALL else slug
    mine = {place: state for place, state in found.states.items() if _domain(place) == slug}
    rows = [
        [domain, "out of date", _name(task.place), task.reason.partition(": rematerialize")[0]]
        for task in found.tasks
        if task.place in mine
    ]
    held = [task for task in found.held if task.place in mine]
    rows += [[domain, "held back", _name(task.place), task.reason] for task in held]
    named = {task.place for task in held}
    for state, told in ((State.HELD, "held back"), (State.WAITING, "waiting"), (State.FAILED, "failed")):
        others = [place for place, its in mine.items() if its is state and place not in named]
        if others:
            why = found.unreadable.get(slug, "") if state is State.FAILED else ""
            rows.append([domain, told, ", ".join(map(_name, others)), why or _BECAUSE[told]])
    if slug in found.unreadable and State.FAILED not in mine.values():
        rows.append([domain, "not readable", "", found.unreadable[slug]])
    return rows


def _commands(project: Project, found: Survey, slugs: Sequence[str]) -> list[str]:
    from react_pipeline.overview import STAGE as OVERVIEW
    from react_pipeline.upkeep import State

    methods = _options("--method", project.config.automation.methods)
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
        commands += ["react-pipeline materialize --select '*faiss_index'"] if shared - {OVERVIEW} else []
        commands += [f"react-pipeline materialize --select {OVERVIEW}"] if OVERVIEW in shared else []
    known = {_domain(place) for place in found.states}
    if any(slug not in known for slug in found.unreadable):
        commands.append("react-pipeline domains validate")
    return commands


def _domain(place: Place) -> str:
    return place[1].split("/")[0]


def _name(place: Place) -> str:
    stage, key = place
    return f"{stage} of {key.split('/')[1]}" if "/" in key else stage


def _options(name: str, values: Iterable[str]) -> str:
    return " ".join(f"{name} {value}" for value in values)

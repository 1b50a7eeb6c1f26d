"""The commands `react-pipeline models ...`: who is champion and why, and a person's decisions about
it.

They work without MLflow: the store names the champion, and the registry is updated when it answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from react_pipeline.commands.command_line import (
    Config,
    Domain,
    Person,
    console,
    load_project,
)
from react_pipeline.commands.terminal import print_error, print_table
from react_pipeline.project import Project
from react_pipeline.settings import load_domains

if TYPE_CHECKING:
    from react_pipeline.store import Artifact

models_app = typer.Typer(
    no_args_is_help=True, help="The champion of each domain: which model is offered, and why."
)

_COLUMNS = ["domain", "method", "top-1 %", "gain", "interval", "role", "decided", "why"]


@models_app.command("list")
def list_models(
    domain: Annotated[str | None, typer.Argument(help="Slug of a domain. Default: all.")] = None,
    config: Config = None,
) -> None:
    """List champion and challenger of each domain: figures, when it was decided and why."""
    project = load_project(config) if domain is None else _project_with(domain, config)
    slugs = [domain] if domain else []
    if not slugs:
        domains, _ = load_domains(project.config.domains)
        slugs = sorted({*domains, *project.store.keys("promotion")})
    print_table(_COLUMNS, [row for slug in slugs for row in _rows(project, slug)], right=5)


def _rows(project: Project, slug: str) -> Iterator[list[str]]:
    from react_pipeline.evaluation import interval_text, percent, points
    from react_pipeline.promotion import champion_decision, standing

    verdict, artifact = standing(project, slug)
    lines = [("champion", verdict.champion, champion_decision(project, slug))]
    rival = verdict.challenger
    if artifact is not None and rival is not None and not rival.is_same(verdict.champion):
        lines.append(("challenger", rival, verdict.as_history_entry(artifact)))
    for role, contender, entry in lines:
        gain = ["", ""]
        # The test of any other decision is not about the champion.
        if entry and entry.test and (role == "challenger" or entry.decision == "promoted"):
            test = entry.test  # stricter where several candidates compete: its level is shown
            level = f"{100 * test.confidence:.4g}%"
            gain = [points(test.gain), f"{interval_text(test.low, test.high)} ({level})"]
        decided, why = (entry.decided[:16], entry.reason) if entry else ("", verdict.reason)
        yield [slug, contender.method, percent(contender.top1), *gain, role, decided, why]


@models_app.command("promote")
def promote_model(
    domain: Domain,
    method: Annotated[
        str,
        typer.Argument(
            help="A method whose current model was evaluated or judged, such as gated-image."
        ),
    ],
    reason: Annotated[
        str, typer.Option(help="Why. It is recorded with the decision and shown by `models list`.")
    ],
    by: Person,
    config: Config = None,
) -> None:
    """Make a method's model champion by your decision. It must have been measured, or judged where
    the domain has no labels.
    """
    project = _project_with(domain, config)
    project.method(method)
    from react_pipeline.promotion import promote

    _print_decision(project, promote(project, domain, method, reason, person=by))


@models_app.command("rollback")
def roll_back_model(
    domain: Domain,
    by: Person,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    to_base: Annotated[bool, typer.Option("--to-base", help="Restore the base instead.")] = False,
    config: Config = None,
) -> None:
    """Restore the previous champion. The rule never promotes the model that it replaces again."""
    project = _project_with(domain, config)
    from react_pipeline.promotion import roll_back

    verdict = roll_back(project, domain, reason, to_base=to_base, person=by)
    _print_decision(project, verdict)


def _project_with(domain: str, config: Config) -> Project:
    project = load_project(config)
    if domain not in project.store.keys("promotion"):
        project.domain(domain)  # a domain whose file is gone may still have a champion
    return project


def _print_decision(project: Project, artifact: Artifact) -> None:
    from react_pipeline.promotion import Verdict
    from react_pipeline.tracking import Tracking

    verdict = Verdict.read(artifact)
    slug = artifact.key
    before = verdict.champion_before.identity
    after = verdict.champion.identity
    console.print(f"{slug}: {after} is champion (before: {before}): {verdict.reason}")
    if Tracking(project).log_artifact(artifact) is None:
        print_error(
            "note: MLflow does not answer. The store holds the decision; the registry is updated "
            "by the next run of an asset or of these commands"
        )

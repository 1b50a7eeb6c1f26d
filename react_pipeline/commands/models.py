"""The commands `react-pipeline models ...`: who is champion and why, and a person's decisions about
it.

They work without MLflow: the store names the champion, and the registry is updated when it answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from react_pipeline.commands.command_line import (
    Config,
    Domain,
    Person,
    console,
    load_project,
    person_name,
)
from react_pipeline.commands.terminal import print_error, print_table
from react_pipeline.project import Project
from react_pipeline.settings import load_domains
from react_pipeline.store import ReactError

if TYPE_CHECKING:
    from react_pipeline.store import Artifact
    from react_pipeline.tracking import Version

models_app = typer.Typer(
    no_args_is_help=True, help="The champion of each domain: which model is offered, and why."
)

_COLUMNS = [
    "domain",
    "method",
    "version",
    "top-1 %",
    "gain",
    "interval",
    "aliases",
    "decided",
    "why",
]


@models_app.command("list")
def list_models(
    domain: Annotated[str | None, typer.Argument(help="Slug of a domain. Default: all.")] = None,
    config: Config = None,
) -> None:
    """List champion, challenger and registered versions of each domain: figures, when it was
    decided and why.
    """
    project = load_project(config) if domain is None else _project_with(domain, config)
    from react_pipeline.tracking import Tracking

    slugs = [domain] if domain else []
    if not slugs:
        domains, _ = load_domains(project.config.domains)
        slugs = sorted({*domains, *project.store.keys("promotion")})
    registry = Tracking.of(project)
    rows = []
    silent = ""
    for slug in slugs:
        versions: list[Version] = []
        if not silent:
            try:
                versions = registry.versions(slug)
            except ReactError as error:
                silent = str(error)
        rows += _rows(project, slug, versions, is_silent=bool(silent))
    print_table(_COLUMNS, rows, right=5, labels=2)
    if silent:
        print_error(f"note: {silent}, so only what the store holds is shown")


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
    by: Person = None,
    config: Config = None,
) -> None:
    """Make a method's model champion by your decision. It must have been measured, or judged where
    the domain has no labels.
    """
    project = _project_with(domain, config)
    project.method(method)
    from react_pipeline.promotion import promote

    _print_decision(project, promote(project, domain, method, reason, person=person_name(by)))


@models_app.command("rollback")
def roll_back_model(
    domain: Domain,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    to_base: Annotated[bool, typer.Option("--to-base", help="Restore the base instead.")] = False,
    by: Person = None,
    config: Config = None,
) -> None:
    """Restore the previous champion. The rule never promotes the model that it replaces again."""
    project = _project_with(domain, config)
    from react_pipeline.promotion import roll_back

    verdict = roll_back(project, domain, reason, to_base=to_base, person=person_name(by))
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
    if Tracking.of(project).log_artifact(project, artifact) is None:
        print_error(
            "note: MLflow does not answer. The store holds the decision; the registry is updated "
            "by the next run of an asset or of these commands"
        )


def _rows(
    project: Project, slug: str, versions: list[Version], *, is_silent: bool
) -> list[list[str]]:
    from react_pipeline.evaluation import evidence_of, percent
    from react_pipeline.promotion import champion_decision, results_of, standing

    verdict, artifact = standing(project, slug)
    lines = [("champion", verdict.champion, champion_decision(project, slug))]
    rival = verdict.challenger
    if artifact is not None and rival is not None and not rival.is_same(verdict.champion):
        lines.append(("challenger", rival, verdict.as_history_entry(artifact)))
    by_checkpoint = {version.checkpoint: version for version in versions}
    rows = []
    for role, contender, entry in lines:
        version = by_checkpoint.pop(contender.checkpoint, None)
        number = "?" if is_silent else "none"
        aliases = f"({role})"
        if version is not None:
            number = version.number
            aliases = ", ".join(version.aliases) or aliases
        if contender.method == "base":
            number = ""
        gain = ["", ""]
        decided = ""
        why = verdict.reason
        if entry is not None:
            decided = entry.decided[:16]
            why = entry.reason
            # The test of any other decision is not about the champion.
            is_tested = role == "challenger" or entry.decision == "promoted"
            if entry.test is not None and is_tested:
                gain = _gain(entry.test.model_dump())
        top1 = percent(contender.top1)
        rows.append([slug, contender.method, number, top1, *gain, aliases, decided, why])
    candidates = {} if artifact is None else _candidates(artifact)
    evidence = evidence_of(project, slug) if by_checkpoint and project.has_domain(slug) else {}
    deciding = [one for one in evidence.values() if one.decides]
    for version in by_checkpoint.values():
        weighed = candidates.get(version.checkpoint, {})
        results = results_of(project, slug, version.method, version.checkpoint)
        share = results[0].contender.top1 if results else float(version.tags.get("top1", "nan"))
        gain = ["", ""]
        if "gain" in weighed:
            gain = _gain(weighed)
        judged = [line for one in deciding for line in one.sentences(version.checkpoint)]
        why = "measured" if results else "; ".join(judged) or "never measured"
        if weighed.get("status") == "passed":
            why = "passed its tests; another candidate came first"
        why = version.why or weighed.get("why") or why
        aliases = ", ".join(version.aliases)
        decided = version.tags.get("decided", "")[:16]
        rows.append(
            [slug, version.method, version.number, percent(share), *gain, aliases, decided, why]
        )
    return rows


def _gain(test: Mapping[str, Any]) -> list[str]:
    """Return the cells of a test. It is stricter where several candidates compete: its level is
    shown.
    """
    from react_pipeline.evaluation import interval_text, points

    level = f"{100 * test['confidence']:.4g}%"
    return [points(test["gain"]), f"{interval_text(test['low'], test['high'])} ({level})"]


def _candidates(promotion: Artifact) -> dict[str, dict[str, Any]]:
    """Return what the last decision says of each model that it weighed, by checkpoint."""
    import pandas as pd

    table = pd.read_parquet(promotion.file("candidates.parquet"))
    return {
        row["checkpoint"]: {name: value for name, value in row.items() if not pd.isna(value)}
        for row in table.to_dict("records")
    }

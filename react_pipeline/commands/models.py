"""The commands `react-pipeline models ...`: who is champion and why, and a person's decisions about
it.

They work without MLflow: the store names the champion, and the registry is updated when it answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from react_pipeline.commands.command_line import Config, Domain, console, load_project
from react_pipeline.commands.terminal import print_error, print_table
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX, load_domains
from react_pipeline.store import ReactError

if TYPE_CHECKING:
    from react_pipeline.promotion import HistoryEntry, PairedTest, Verdict
    from react_pipeline.store import Artifact
    from react_pipeline.tracking import Version

models_app = typer.Typer(
    no_args_is_help=True, help="The champion of each domain: which model is offered, and why."
)

_COLUMNS = ["domain", "method", "version", "top-1 %", "gain", "", "aliases", "decided", "why"]


@models_app.command("list")
def list_models(
    domain: Annotated[str | None, typer.Argument(help="Slug of a domain. Default: all.")] = None,
    config: Config = None,
) -> None:
    """List champion, challenger and registered versions of each domain: figures, when it was
    decided and why.
    """
    from react_pipeline.promotion import standing
    from react_pipeline.tracking import Tracking

    project = load_project(config) if domain is None else _project_with(domain, config)
    slugs = (
        [domain]
        if domain
        else sorted({*load_domains(project.config.domains)[0], *project.store.keys("promotion")})
    )
    registry = Tracking.of(project)
    rows, silent = [], ""
    for slug in slugs:
        versions: list[Version] = []
        if not silent:
            try:
                versions = registry.versions(slug)
            except ReactError as error:
                silent = str(error)
        verdict, artifact = standing(project, slug)
        rows += _rows(slug, verdict, artifact, versions, known=not silent)
        if not silent and (edit := registry.hand_edit(project, slug)):
            where = f"version {edit.version}" if edit.version else "no version"
            print_error(
                f"note: {slug}: a person set the alias `champion` to {where}; the next run of "
                "`promotion` adopts it"
            )
    print_table(_COLUMNS, rows, right=5)
    if silent:
        print_error(f"note: {silent}, so only what the store holds is shown")
    if waiting := registry.count_pending(project, verdicts=True):
        print_error(f"note: {waiting} verdicts wait for MLflow")


@models_app.command("promote")
def promote_model(
    domain: Domain,
    method: Annotated[
        str, typer.Argument(help="A method whose current model was evaluated, such as gated-image.")
    ],
    reason: Annotated[
        str, typer.Option(help="Why. It is recorded with the decision and shown by `models list`.")
    ],
    config: Config = None,
) -> None:
    """Make a method's model champion by your decision. It must have been measured on the champion's
    images.
    """
    from react_pipeline.promotion import promote

    project = _project_with(domain, config)
    _print_decision(project, promote(project, domain, method, reason))


@models_app.command("rollback")
def roll_back_model(
    domain: Domain,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    to_base: Annotated[bool, typer.Option("--to-base", help="Restore the base instead.")] = False,
    config: Config = None,
) -> None:
    """Restore the previous champion. The rule never promotes the model that it replaces again."""
    from react_pipeline.promotion import roll_back

    project = _project_with(domain, config)
    _print_decision(project, roll_back(project, domain, reason, to_base=to_base))


@models_app.command("reevaluate")
def reevaluate_model(domain: Domain, config: Config = None) -> None:
    """Measure the champion's own checkpoint on today's images, so that newer models can be compared
    with it.
    """
    from react_pipeline.promotion import reevaluate

    project = _project_with(domain, config)
    artifact = reevaluate(project, domain)
    top1 = artifact.counts.get("top1")
    measured = (
        f"unavailable: {artifact.counts.get('unavailable')}"
        if top1 is None
        else f"top-1 {100 * top1:.1f}%"
    )
    console.print(
        f"{measured}; next: react-pipeline materialize --select promotion --domain {domain}"
    )


def _project_with(domain: str, config: Config) -> Project:
    project = load_project(config)
    if domain not in project.store.keys("promotion"):
        project.domain(domain)  # a domain whose file is gone may still have a champion
    return project


def _print_decision(project: Project, artifact: Artifact) -> None:
    from react_pipeline.promotion import Verdict
    from react_pipeline.tracking import Tracking

    verdict, slug = Verdict.read(artifact), artifact.key
    before = verdict.champion_before.identity
    after = verdict.champion.identity
    console.print(f"{slug}: {after} is champion (before: {before}): {verdict.reason}")
    delivery = Tracking.of(project).apply(project, artifact, patient=True)
    for note in delivery.notes:
        print_error(f"note: {note}")
    if delivery.waits:
        print_error(
            "note: MLflow does not answer. The store holds the decision; the registry is updated "
            "by the next run of `promotion` or the next of these commands"
        )


def _rows(
    slug: str, verdict: Verdict, artifact: Artifact | None, versions: list[Version], *, known: bool
) -> list[list[str]]:
    by_checkpoint = {version.checkpoint: version for version in versions}
    lines = _decisions(verdict, artifact)
    rows = []
    for role, contender in (("champion", verdict.champion), ("challenger", verdict.challenger)):
        if contender is None or (role == "challenger" and contender.is_same(verdict.champion)):
            continue
        version = by_checkpoint.pop(contender.checkpoint, None)
        number = (
            ""
            if contender.method == "base"
            else version.number
            if version
            else "none"
            if known
            else "?"
        )
        aliases = ", ".join(version.aliases) if version else ""
        decided, test, reason = lines.get((role, contender.checkpoint), ("", None, verdict.reason))
        cells = [slug, contender.method, number, _percent(contender.top1), *_gain(test)]
        rows.append([*cells, aliases or f"({role})", decided[:16], reason])
    for version in by_checkpoint.values():
        tags = version.tags
        top1 = float(tags["top1"]) if "top1" in tags else None
        cells = [slug, version.method, version.number, _percent(top1), "", ""]
        unjudged = (
            "a control, never a candidate"
            if version.method.endswith(CONTROL_SUFFIX)
            else "never judged"
        )
        rows.append(
            [
                *cells,
                ", ".join(version.aliases),
                tags.get("decided", "")[:16],
                version.why or unjudged,
            ]
        )
    return rows


def _decisions(
    verdict: Verdict, artifact: Artifact | None
) -> dict[tuple[str, str], tuple[str, PairedTest | None, str]]:
    """When and why each model became champion, and the challenger was named: the last such decision
    of each.
    """
    found: dict[tuple[str, str], tuple[str, PairedTest | None, str]] = {}
    moved: list[tuple[Verdict | HistoryEntry, str]] = [
        (entry, entry.decided) for entry in verdict.history
    ]
    decided = "" if artifact is None else str(artifact.manifest["created"])
    for entry, when in [*moved, (verdict, decided)]:
        if entry.decision in ("promoted", "rolled back"):
            test = entry.test if entry.decision == "promoted" else None
            found["champion", entry.champion.checkpoint] = (when, test, entry.reason)
    if verdict.challenger is not None:
        found["challenger", verdict.challenger.checkpoint] = (decided, verdict.test, verdict.reason)
    return found


def _gain(test: PairedTest | None) -> list[str]:
    if test is None:
        return ["", ""]
    return [f"{100 * test.gain:+.1f}", f"{100 * test.low:+.1f} to {100 * test.high:+.1f}"]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"

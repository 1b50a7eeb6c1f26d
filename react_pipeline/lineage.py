"""Lineage: whether a published artifact is still made from today's inputs, and the verified parents
of a step.

Belongs here: the check of freshness, also of stages that gather results. Does not belong here: the
table of what is made from what (`pipeline`), how a stage is built, where configuration and store
come from (`project`).
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from react_pipeline.project import Look, Project, changed_since_run, remember_look
from react_pipeline.stage import (
    ALL,
    STAGES,
    Place,
    configured_parents,
    domain_and_method,
    method_key,
)
from react_pipeline.store import (
    Artifact,
    Inputs,
    MissingArtifact,
    ReactError,
    StaleArtifact,
    hash_value,
)

Known = dict[tuple[str, ...], Any]
Answer = TypeVar("Answer")
Gathered = tuple[dict[str, Artifact], dict[str, str]]
Contents = tuple[Mapping[str, Artifact | Inputs], Mapping[str, str]]
"""Results by method or domain, and why the others are left out."""


def resolve(
    project: Project,
    stage: str,
    key: str = ALL,
    *,
    content: Any = None,
    parents: Mapping[str, Artifact] | None = None,
) -> Inputs:
    """Resolve the inputs of a step: its configuration and its parents, each current and fresh;
    files of parents are verified when the step reads them.

    Args:
        key: `all`, a domain's slug, or `<domain>/<method>`.
        content: Identity of outside data that the step reads.
        parents: Given only where the table cannot name them (`comparison`, `benchmark_comparison`).

    Raises:
        MissingArtifact: If a parent was never built.
        StaleArtifact: If a parent was built from other inputs than today's.
        CorruptArtifact: If a manifest is damaged.
    """
    row = STAGES[stage]
    if parents is None:
        known = project.known
        places = parents_of(project, stage, key)
        parents = {name: fresh(project, *place, known) for name, place in places.items()}
    return Inputs(stage, key, row.identity(project, key), parents, row.version, content)


def fresh(project: Project, stage: str, key: str = ALL, known: Known | None = None) -> Artifact:
    """Return the current artifact of a stage, if it and all before it were built from today's
    inputs.

    Outside content (shards, evaluation images) is not read again: it counts when its own stage is
    materialized.

    Args:
        known: What was found before, as most stages share their ancestors; by default the
            project's.

    Raises:
        MissingArtifact: If it, or one before it, was never built.
        StaleArtifact: Naming the asset to rematerialize and what changed.
        CorruptArtifact: If a manifest is damaged.
    """
    known = project.known if known is None else known
    return _once(known, ("fresh", stage, key), lambda: _judge(project, stage, key, known))


def _once(known: Known, question: tuple[str, ...], ask: Callable[[], Answer]) -> Answer:
    """Return what `ask` returns or raises, asked once for each question."""
    if question not in known:
        try:
            known[question] = ask()
        except ReactError as error:
            known[question] = error
    answer = known[question]
    if isinstance(answer, ReactError):
        raise answer.with_traceback(None)
    found: Answer = answer
    return found


def _judge(project: Project, stage: str, key: str, known: Known) -> Artifact:
    row, parents = STAGES[stage], parents_of(project, stage, key)
    artifact = project.store.current(stage, key)
    where = _in_words(stage, key)
    if artifact.manifest["code_version"] != row.version:
        raise StaleArtifact(
            f"{where} was built by an older version of the code: rematerialize {where}",
            (stage, key),
        )
    today = row.identity(project, key)
    recorded = artifact.manifest["config"]
    names = sorted({*today, *recorded})
    if fields := [f"`{name}`" for name in names if today.get(name) != recorded.get(name)]:
        other = "another" if len(fields) == 1 else "other"
        raise StaleArtifact(
            f"{where} was built with {other} {', '.join(fields)}: rematerialize {where}",
            (stage, key),
        )
    for name, place in parents.items():
        parent = fresh(project, *place, known)
        if artifact.parents.get(name) != parent.fingerprint:
            raise StaleArtifact(
                f"{where} was built from `{name}` {artifact.parents.get(name)}, which is now "
                f"{parent.fingerprint}: rematerialize {where}",
                (stage, key),
            )
    return artifact


def _in_words(stage: str, key: str) -> str:
    return f"`{stage}`" if key == ALL else f"`{stage}` of {key!r}"


def parents_of(project: Project, stage: str, key: str) -> dict[str, Place]:
    """Return the stage and the key of each parent of an artifact, by the stage.

    Raises:
        InputError: If the extension of its method is gone.
    """
    slug, method = domain_and_method(key)
    names = STAGES[stage].parents_for(project.method(method) if method else None)
    keys = {"all": ALL, "domain": slug}
    return {
        parent: (parent, keys.get(STAGES[parent].scope, key))
        for parent in configured_parents(names, project.config.two_encoders)
    }


def fresh_or_none(project: Project, stage: str, key: str) -> Artifact | None:
    """Return what `fresh` returns, or None where the artifact is missing or stale."""
    try:
        return fresh(project, stage, key)
    except (MissingArtifact, StaleArtifact):
        return None


def gather(project: Project, stage: str, slug: str) -> Gathered:
    """Gather the results of a domain that a stage compares, and why those of other methods are left
    out.

    Args:
        stage: One that gathers the results of one other stage.

    Returns:
        The fresh results by method, and the reasons by method. Methods that were never measured are
        in neither.
    """
    (gathered,) = STAGES[stage].gathers
    results: dict[str, Artifact] = {}
    skipped: dict[str, str] = {}
    for method in project.config.all_methods:
        if not project.store.has(gathered, key := method_key(slug, method)):
            continue
        try:
            results[method] = fresh(project, gathered, key)
        except (MissingArtifact, StaleArtifact) as error:
            skipped[method] = f"stale: {error}"
    return results, skipped


def gathered_is_current(
    project: Project, stage: str, key: str, today: Callable[[], Contents]
) -> Artifact:
    """Return the published artifact of a stage that gathers results, if it shows what `today`
    gathers, by method or domain.

    Raises:
        MissingArtifact: If none was published.
        StaleArtifact: If a result in it is stale, was replaced, or is missing from it.
        CorruptArtifact: If its manifest, or that of a result, is damaged.
    """
    artifact = fresh(project, stage, key)
    results, skipped = today()
    seen = {name: result.fingerprint for name, result in results.items()}
    names = sorted({*seen, *artifact.parents})
    changed = [name for name in names if seen.get(name) != artifact.parents.get(name)]
    if not changed and artifact.manifest["content"] == {"skipped": skipped}:
        return artifact
    reasons = [f"{name} ({skipped.get(name, 'changed')})" for name in changed]
    reasons = reasons or ["other reasons for what is missing"]
    where = _in_words(stage, key)
    raise StaleArtifact(
        f"{where} does not show today's results: {', '.join(reasons)}; rematerialize {where}",
        (stage, key),
        hash_value([seen, skipped]),
    )


def run(
    project: Project, stage: str, key: str, step: Callable[..., Artifact] | None = None
) -> Artifact:
    """Run the step of a stage for one key, and remember how the files outside the store looked
    before it.

    Args:
        step: In place of the one that the row names.
    """
    look = look_outside(project, stage, key)
    artifact = call(step or STAGES[stage].step, project, key)
    if look is not None and look.seen:
        remember_look(project, artifact, look)
    return artifact


def look_outside(project: Project, stage: str, key: str) -> Look | None:
    """Look at the files that a stage reads outside the store; None if it reads none."""
    look = STAGES[stage].outside
    if look is None:
        return None
    return _once(project.known, ("look", stage, key), lambda: look(project, key))


def is_current(project: Project, stage: str, key: str) -> Artifact:
    """Return the published artifact of a stage that gathers results, if it is what would be made
    today.

    The stage's own `is_current` judges it; one that has none shows what `gather` finds. Errors:
    `gathered_is_current`.
    """

    def ask() -> Artifact:
        if judge := STAGES[stage].is_current:
            return call(judge, project, key)
        return gathered_is_current(project, stage, key, lambda: gather(project, stage, key))

    return _once(project.known, ("current", stage, key), ask)


def call(step: Callable[..., Artifact], project: Project, key: str) -> Artifact:
    """Call a step with a project and the parts of a key."""
    return step(project, *(() if key == ALL else key.split("/")))


def up_to_date(project: Project, stage: str, key: str) -> Artifact:
    """Return the artifact of one place, if it is surely what would be built today.

    Raises:
        MissingArtifact: If it, or one before it, was never built.
        StaleArtifact: If it, or one before it, was built from other inputs, or only its step can
            say.
        CorruptArtifact: If a manifest is damaged.
    """
    if STAGES[stage].gathers:
        return is_current(project, stage, key)
    artifact = fresh(project, stage, key)
    look = look_outside(project, stage, key)
    if look is None:
        return artifact
    where = _in_words(stage, key)
    if not look.is_complete:
        raise StaleArtifact(f"{where}: only its step can say whether its files have changed")
    if reason := changed_since_run(project, artifact, look):
        raise StaleArtifact(f"{where}: {reason}")
    return artifact

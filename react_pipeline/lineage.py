"""Lineage: whether a published artifact is still made from today's inputs, and the verified parents of a step.

Belongs here: the check of freshness. Does not belong here: the table of what is made from what (`pipeline`), how a
stage is built, where configuration and store come from (`project`).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from react_pipeline.pipeline import ALL, STAGES
from react_pipeline.project import Manifests, Project
from react_pipeline.store import Artifact, Inputs, MissingArtifact, ReactError, StaleArtifact

Judged = dict[tuple[str, str], Artifact | ReactError]


def resolve(
    project: Project,
    stage: str,
    key: str = ALL,
    *,
    content: Any = None,
    parents: Mapping[str, Artifact] | None = None,
) -> Inputs:
    """The inputs of a step: its configuration and its parents, each current, verified and fresh.

    Args:
        key: `all`, a domain's slug, or `<domain>/<method>`.
        content: Identity of outside data that the step reads.
        parents: Given only where the table cannot name them (`comparison`, `benchmark_comparison`).

    Raises:
        MissingArtifact: If a parent was never built.
        StaleArtifact: If a parent was built from other inputs than today's.
        CorruptArtifact: If a parent's bytes differ from its manifest.
    """
    row = STAGES[stage]
    if parents is None:
        found: Judged = {}
        parents = {name: _fresh(project, name, parent_key, found) for name, parent_key in row.parents_of(key).items()}
    return Inputs(stage, key, row.identity(project, key), parents, row.version, content)


def fresh(project: Project, stage: str, key: str = ALL) -> Artifact:
    """The current artifact of a stage, if it and all before it were built from today's inputs.

    Outside content (shards, evaluation images) is not read again: it counts when its own stage is materialized.

    Raises:
        MissingArtifact: If it, or one before it, was never built.
        StaleArtifact: Naming the asset to rematerialize and what changed.
        CorruptArtifact: If its bytes differ from its manifest.
    """
    return _fresh(project, stage, key, project.judged if isinstance(project, Manifests) else {})


def _fresh(project: Project, stage: str, key: str, found: Judged) -> Artifact:
    """As `fresh`; `found` holds what this look has judged already, since most stages share their ancestors."""
    if (stage, key) not in found:
        try:
            found[stage, key] = _judge(project, stage, key, found)
        except ReactError as error:
            found[stage, key] = error
    judged = found[stage, key]
    if isinstance(judged, ReactError):
        raise judged.with_traceback(None)
    return judged


def _judge(project: Project, stage: str, key: str, found: Judged) -> Artifact:
    row = STAGES[stage]
    artifact = project.store.current(stage, key)
    where = f"`{stage}`" if key == ALL else f"`{stage}` of {key!r}"
    if artifact.manifest["code_version"] != row.version:
        raise StaleArtifact(f"{where} was built by an older version of the code: rematerialize {where}")
    today = row.identity(project, key)
    if artifact.manifest["config"] != today:
        recorded = artifact.manifest["config"]
        fields = sorted(name for name in {*today, *recorded} if today.get(name) != recorded.get(name))
        changes = f"{'another' if len(fields) == 1 else 'other'} {', '.join(f'`{name}`' for name in fields)}"
        raise StaleArtifact(f"{where} was built with {changes}: rematerialize {where}")
    for name, parent_key in row.parents_of(key).items():
        parent = _fresh(project, name, parent_key, found)
        if artifact.parents.get(name) != parent.fingerprint:
            raise StaleArtifact(
                f"{where} was built from `{name}` {artifact.parents.get(name)}, which is now {parent.fingerprint}: "
                f"rematerialize {where}"
            )
    return artifact


def fresh_or_none(project: Project, stage: str, key: str) -> Artifact | None:
    """As `fresh`, but None where the artifact is missing or stale."""
    try:
        return fresh(project, stage, key)
    except (MissingArtifact, StaleArtifact):
        return None


def call(reference: str, project: Project, key: str) -> Artifact:
    """Call the "room:function" of a row of `pipeline.STAGES` for one key."""
    room, _, name = reference.partition(":")
    function = getattr(import_module(f"react_pipeline.{room}"), name)
    return function(project, *(() if key == ALL else key.split("/")))

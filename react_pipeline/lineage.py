"""Lineage: whether a published artifact is still made from today's inputs, and the verified parents of a step.

Belongs here: the check of freshness. Does not belong here: the table of what is made from what (`stages`), how a stage
is built, where configuration and store come from (`project`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from react_pipeline.artifacts import Artifact, Inputs
from react_pipeline.errors import MissingArtifact, StaleArtifact
from react_pipeline.project import Project as Project
from react_pipeline.stages import ALL as ALL
from react_pipeline.stages import STAGES as STAGES
from react_pipeline.stages import method_key as method_key


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
        project: The pipeline.
        stage: Name of the asset.
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
        found: dict[tuple[str, str], Artifact] = {}
        parents = {name: _fresh(project, name, parent_key, found) for name, parent_key in row.parents(key).items()}
    return Inputs(stage, key, row.config(project, key), parents, row.code_version, content)


def fresh(project: Project, stage: str, key: str = ALL) -> Artifact:
    """The current artifact of a stage, if it and all before it were built from today's inputs.

    Outside content (shards, evaluation images) is not read again: it counts when its own stage is materialized.

    Raises:
        MissingArtifact: If it, or one before it, was never built.
        StaleArtifact: Naming the asset to rematerialize and what changed.
        CorruptArtifact: If its bytes differ from its manifest.
    """
    return _fresh(project, stage, key, {})


def _fresh(project: Project, stage: str, key: str, found: dict[tuple[str, str], Artifact]) -> Artifact:
    """As `fresh`; `found` holds what this look has verified already: most stages share their ancestors."""
    if (stage, key) in found:
        return found[stage, key]
    row = STAGES[stage]
    artifact = project.store.current(stage, key)
    where = f"`{stage}`" if key == ALL else f"`{stage}` of {key!r}"
    if artifact.manifest["code_version"] != row.code_version:
        raise StaleArtifact(f"{where} was built by an older version of the code: rematerialize {where}")
    today = row.config(project, key)
    if artifact.manifest["config"] != today:
        recorded = artifact.manifest["config"]
        fields = sorted(name for name in {*today, *recorded} if today.get(name) != recorded.get(name))
        told = f"{'another' if len(fields) == 1 else 'other'} {', '.join(f'`{name}`' for name in fields)}"
        raise StaleArtifact(f"{where} was built with {told}: rematerialize {where}")
    for name, parent_key in row.parents(key).items():
        parent = _fresh(project, name, parent_key, found)
        if artifact.parents.get(name) != parent.fingerprint:
            raise StaleArtifact(
                f"{where} was built from `{name}` {artifact.parents.get(name)}, which is now {parent.fingerprint}: "
                f"rematerialize {where}"
            )
    found[stage, key] = artifact
    return artifact


def fresh_or_none(project: Project, stage: str, key: str) -> Artifact | None:
    """As `fresh`, but None where the artifact is missing or stale."""
    try:
        return fresh(project, stage, key)
    except (MissingArtifact, StaleArtifact):
        return None

"""The promotion asset: which model of a domain is champion, and the check that says when that is in
doubt.

Does not belong here: the rule (`react_pipeline.promotion`), MLflow's registry
(`react_pipeline.tracking`).
"""

import dagster as dg

from react_pipeline.assets.declared import artifact_check, stage_asset
from react_pipeline.assets.reporting import publish
from react_pipeline.assets.resources import Context, ProjectResource
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Project
from react_pipeline.promotion import promotion_is_current, standing
from react_pipeline.stage import DOMAIN_RESULTS, PROMOTION, method_key
from react_pipeline.store import Artifact, CorruptArtifact, MissingArtifact, StaleArtifact


@stage_asset
def promotion(context: Context, project: ProjectResource) -> dg.MaterializeResult:
    """Which model of the domain is champion: a new one only if its gain is beyond the noise.

    Every trained method is tested against the current champion (the base, at first) on the same
    images, and against its control. The verdict, with its interval and its reason, is kept here and
    shown in MLflow's model registry as the aliases `champion` and `challenger` of `react-<domain>`.
    A person chooses with `react-pipeline models promote`.
    """
    return publish(context, project)


@artifact_check(PROMOTION)
def champion_is_in_no_doubt(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """Warns if the champion cannot be compared, if newer results were not weighed, or if the base
    is ahead of it.
    """
    doubt = doubt_of(project, artifact.key)
    return dg.AssetCheckResult(
        passed=not doubt,
        severity=dg.AssetCheckSeverity.WARN,
        description=doubt or "measured, compared and not behind",
    )


def doubt_of(pipeline: Project, slug: str) -> str:
    """Why a domain's champion is in doubt; empty if it is not."""
    try:
        promotion_is_current(pipeline, slug)
    except (MissingArtifact, StaleArtifact, CorruptArtifact) as error:
        return str(error)
    verdict, _ = standing(pipeline, slug)
    if verdict.decision == "incomparable":
        return verdict.reason
    base = fresh_or_none(pipeline, DOMAIN_RESULTS, method_key(slug, "base"))
    reference = base.counts.get("top1") if base else None
    top1 = verdict.champion.top1
    if reference is not None and top1 is not None and reference > top1:
        return (
            f"the base has {100 * (reference - top1):.1f} points more than "
            f"{verdict.champion.method}, the champion"
        )
    return ""

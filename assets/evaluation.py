"""What a model is worth: results, comparisons and the verdict on the champion, and their checks."""

import dagster as dg

from react_pipeline.assets.declared import (
    artifact_check,
    stage_asset,
    unmeasured,
    warning_below,
)
from react_pipeline.assets.reporting import publish
from react_pipeline.assets.resources import Context
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Project
from react_pipeline.promotion import promotion_is_current, standing
from react_pipeline.settings import CONTROL_SUFFIX, trained_methods
from react_pipeline.stage import (
    DOMAIN_RESULTS,
    PROMOTION,
    domain_and_method,
    method_key,
)
from react_pipeline.store import Artifact, CorruptArtifact, MissingArtifact, StaleArtifact


@stage_asset(group_name="evaluation", kinds={"torch", "parquet"})
def domain_results(context: Context) -> dg.MaterializeResult:
    """Zero-shot accuracy of one method on the domain's labelled images, after ELEVATER's
    protocol.

    An image gets the class whose prompts are nearest to it; labels are only used for counting.
    `base` is measured the same way with no training. Without labelled images the result is
    `unavailable`, with the reason.

    There is a partition for every domain and each of the `methods` of pipeline.yaml.
    """
    return publish(context)


@artifact_check("domain_results")
def accuracy_is_at_least_base(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """Customization should not make the model worse on its own domain."""
    slug, name = domain_and_method(artifact.key)
    base = fresh_or_none(project, "domain_results", method_key(slug, "base"))
    top1 = artifact.counts.get("top1")
    reference = None if base is None else base.counts.get("top1")
    if top1 is None or reference is None:
        return unmeasured("there is no accuracy of both this method and the base")
    remedy = f"look at the pairs: react-pipeline review {slug}"
    if project.method(name).has_model:
        remedy += ", or keep more of the base: `interpolation: 0.5`"
    return warning_below(top1 - reference, "top-1 over the base", tolerance=1e-9, remedy=remedy)


@stage_asset(group_name="evaluation", kinds={"parquet"})
def comparison(context: Context) -> dg.MaterializeResult:
    """Every method of the domain compared with the base and its control, with 95% intervals.

    A gain over the base counts only as far as the control, the same training on random pairs,
    does not share it. The artifact holds the tables, per class too, and `dashboard.html`: one
    page with a figure, classes that gained or lost, and some of the retrieved pairs. It works
    offline.
    """
    return publish(context)


@artifact_check("comparison")
def gain_is_not_shared_by_the_control(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """A gain that random pairs give too does not come from retrieval; this is the smallest lead of
    any method.
    """
    top1 = artifact.counts["top1"]
    leads = {
        name: top1[name] - top1[name + CONTROL_SUFFIX]
        for name in trained_methods(project.config.all_methods)
        if {name, name + CONTROL_SUFFIX} <= set(top1)
    }
    if not leads:
        return unmeasured("no method was evaluated together with its control")
    method = min(leads, key=leads.__getitem__)
    return warning_below(leads[method], f"top-1 of {method} over its control", tolerance=-1e-9)


@stage_asset(group_name="evaluation", kinds={"parquet", "mlflow"})
def promotion(context: Context) -> dg.MaterializeResult:
    """Which model of the domain is champion: a new one only if its gain is beyond the noise.

    Every trained method is tested against the current champion (the base, at first) on the same
    images, and against its control. The verdict, with its interval and its reason, is kept here
    and shown in MLflow's model registry as the aliases `champion` and `challenger` of
    `react-<domain>`. A person chooses with `react-pipeline models promote`.
    """
    return publish(context)


@artifact_check(PROMOTION)
def champion_is_in_no_doubt(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """Warns if the champion cannot be compared, if newer results were not weighed, or if the base
    is ahead of it.
    """
    doubt = find_doubt(project, artifact.key)
    return dg.AssetCheckResult(
        passed=not doubt,
        severity=dg.AssetCheckSeverity.WARN,
        description=doubt or "measured, compared and not behind",
    )


def find_doubt(pipeline: Project, slug: str) -> str:
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

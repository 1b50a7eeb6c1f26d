"""Freshness: what is out of date, and why, shown as a check of the asset in the UI, also where automation is off.

Belongs here: the checks, and the sensor that evaluates them again while nothing is materialized. Does not belong here:
what is outdated (`react_pipeline.lineage`), the policy of training (`react_pipeline.upkeep`), asking for a run
(`upkeep_sensor`). Dagster's freshness policies judge by time alone, so they cannot say what another class name made
stale. One check covers all partitions of its asset: Dagster keeps one evaluation outside of runs for each check.
"""

import dagster as dg

from react_pipeline.assets.declared import check
from react_pipeline.assets.launches import reap_abandoned
from react_pipeline.assets.partitions import DOMAINS
from react_pipeline.assets.resources import ProjectParam
from react_pipeline.lineage import fresh
from react_pipeline.project import Manifests, Project
from react_pipeline.store import ReactError
from react_pipeline.upkeep import survey

CHECKS = {"retrieved_set": "pairs_are_up_to_date", "customized_checkpoint": "checkpoints_are_up_to_date"}
"""The check of each asset that is watched. What follows from these two is made in minutes."""

MAX_LISTED = 20


@check("retrieved_set", partitioned=False)
def pairs_are_up_to_date(context: dg.AssetCheckExecutionContext, project: ProjectParam) -> dg.AssetCheckResult:
    """Warns of domains whose pairs would differ today: another class, prompt, setting, corpus or base."""
    return look_at(project.load(), context.instance)["retrieved_set"]


@check("customized_checkpoint", partitioned=False)
def checkpoints_are_up_to_date(context: dg.AssetCheckExecutionContext, project: ProjectParam) -> dg.AssetCheckResult:
    """Warns of trainings that would see other pairs or settings today, and says what `automation.training` holds back.

    Trained again are those that are not held back, if automation is switched on.
    """
    return look_at(project.load(), context.instance)["customized_checkpoint"]


@dg.sensor(
    name="freshness",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Evaluates the checks `pairs_are_up_to_date` and `checkpoints_are_up_to_date` again when their answer "
    "has changed, so that the UI shows what is out of date and why. Closes runs of the command line whose process was "
    "killed. Starts no run.",
)
def freshness(context: dg.SensorEvaluationContext, project: ProjectParam) -> dg.SensorResult:
    """Report what the UI does not show yet."""
    reap_abandoned(context.instance)
    try:
        answers = look_at(project.load(), context.instance)
    except ReactError as error:
        return dg.SensorResult(skip_reason=str(error))
    new = []
    for stage, answer in answers.items():
        key = dg.AssetCheckKey(dg.AssetKey(stage), CHECKS[stage])
        record = context.instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
        # Of a run that has not come to the check yet, which may take hours, or that never will, there is no evaluation.
        last = record.evaluation if record and isinstance(record.evaluation, dg.AssetCheckEvaluation) else None
        if answer.metadata["built"].value and (last is None or last.description != answer.description):
            new.append(dg.AssetCheckEvaluation(blocking=False, **answer._asdict()))
    return dg.SensorResult(
        asset_events=new, skip_reason="\n".join(f"{stage}: {answer.description}" for stage, answer in answers.items())
    )


def look_at(project: Project, instance: dg.DagsterInstance) -> dict[str, dg.AssetCheckResult]:
    """The status of each watched asset."""
    look, slugs = Manifests.of(project), sorted(instance.get_dynamic_partitions(DOMAINS))
    held = {task.place: task.reason for task in survey(look, slugs).held}
    answers = {}
    for stage in CHECKS:
        keys = [key for key in look.store.keys(stage) if key.split("/")[0] in slugs]
        reasons = {key: reason for key in keys if (reason := _why_outdated(look, stage, key))}
        held_back = {key: f"; held back by the policy: {held[stage, key]}" for key in reasons if (stage, key) in held}
        lines = [f"{key}: {reason}{held_back.get(key, '')}" for key, reason in reasons.items()]
        more = [f"and {len(lines) - MAX_LISTED} more"] if len(lines) > MAX_LISTED else []
        answers[stage] = dg.AssetCheckResult(
            asset_key=stage,
            check_name=CHECKS[stage],
            passed=not reasons,
            severity=dg.AssetCheckSeverity.WARN,
            description="\n".join([f"{len(reasons)} of {len(keys)} out of date", *lines[:MAX_LISTED], *more]),
            metadata={"built": len(keys), "out_of_date": len(reasons), "held_back": len(held_back)},
        )
    return answers


def _why_outdated(project: Project, stage: str, key: str) -> str:
    try:
        fresh(project, stage, key)
    except (ReactError, OSError, ValueError) as error:
        return " ".join(str(error).split())
    return ""

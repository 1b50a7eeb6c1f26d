"""Freshness: what is out of date, and why, shown as a check of the asset in the UI, also where automation is off.

Belongs here: the checks, and the sensor that evaluates them again while nothing is materialized. Does not belong here:
what is outdated (`react_pipeline.lineage`), the policy of training (`react_pipeline.upkeep`), asking for a run
(`upkeep_sensor`). Dagster's freshness policies judge by time alone, so they cannot say what another class name made
stale. One check covers all partitions of its asset: Dagster keeps one evaluation outside of runs for each check.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from assets.declared import check
from assets.launches import reap_abandoned
from assets.partitions import DOMAINS
from assets.resources import ProjectParam
from react_pipeline.lineage import fresh
from react_pipeline.project import Manifests, Project
from react_pipeline.store import ReactError
from react_pipeline.upkeep import Place, survey

CHECKS = {"retrieved_set": "pairs_are_up_to_date", "customized_checkpoint": "checkpoints_are_up_to_date"}
"""The check of each asset that is watched. What follows from these two is made in minutes."""

MAX_LISTED = 20


@check("retrieved_set", partitioned=False)
def pairs_are_up_to_date(context: dg.AssetCheckExecutionContext, project: ProjectParam) -> dg.AssetCheckResult:
    """Warns of domains whose pairs would differ today: another class, prompt, setting, corpus or base."""
    return dg.AssetCheckResult(**look_at(project.load(), context.instance)["retrieved_set"])


@check("customized_checkpoint", partitioned=False)
def checkpoints_are_up_to_date(context: dg.AssetCheckExecutionContext, project: ProjectParam) -> dg.AssetCheckResult:
    """Warns of trainings that would see other pairs or settings today, and says what `automation.training` holds back.

    Trained again are those that are not held back, if automation is switched on.
    """
    return dg.AssetCheckResult(**look_at(project.load(), context.instance)["customized_checkpoint"])


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
    return dg.SensorResult(
        asset_events=[
            dg.AssetCheckEvaluation(dg.AssetKey(stage), CHECKS[stage], blocking=False, **answer)
            for stage, answer in answers.items()
            if answer["metadata"]["built"] and not _is_shown(context.instance, stage, answer)
        ],
        skip_reason="\n".join(f"{stage}: {answer['description']}" for stage, answer in answers.items()),
    )


def look_at(project: Project, instance: dg.DagsterInstance) -> dict[str, dict[str, Any]]:
    """The status of each watched asset: the fields that a check's result and its evaluation share."""
    look, slugs = Manifests.of(project), sorted(instance.get_dynamic_partitions(DOMAINS))
    held = {task.place: task.reason for task in survey(look, slugs).held}
    return {stage: _answer(look, stage, slugs, held) for stage in CHECKS}


def why_outdated(project: Project, place: Place, held: Mapping[Place, str]) -> str:
    """Why an artifact is out of date, and why it stays so if the policy holds it back; empty if it is fresh."""
    try:
        fresh(project, *place)
    except (ReactError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
    else:
        return ""
    return f"{reason}; held back by the policy: {held[place]}" if place in held else reason


def _is_shown(instance: dg.DagsterInstance, stage: str, answer: Mapping[str, Any]) -> bool:
    key = dg.AssetCheckKey(dg.AssetKey(stage), CHECKS[stage])
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
    # A run that has not reached the check yet, or never will, has no evaluation.
    last = record.evaluation if record else None
    shown = (last.passed, last.description) if isinstance(last, dg.AssetCheckEvaluation) else None
    return shown == (answer["passed"], answer["description"])


def _answer(project: Project, stage: str, slugs: Sequence[str], held: Mapping[Place, str]) -> dict[str, Any]:
    keys = [key for key in project.store.keys(stage) if key.split("/")[0] in slugs]
    reasons = {key: reason for key in keys if (reason := why_outdated(project, (stage, key), held))}
    lines = [f"{len(reasons)} of {len(keys)} out of date"]
    lines += [f"{key}: {reason}" for key, reason in list(reasons.items())[:MAX_LISTED]]
    if len(reasons) > MAX_LISTED:
        lines.append(f"and {len(reasons) - MAX_LISTED} more")
    held_back = sum((stage, key) in held for key in reasons)
    return {
        "passed": not reasons,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": "\n".join(lines),
        "metadata": {"built": len(keys), "out_of_date": len(reasons), "held_back": held_back},
    }

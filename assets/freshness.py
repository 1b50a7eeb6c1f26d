"""Freshness: what is out of date, and why, shown as a check of the asset in the UI.

Belongs here: the checks, and the sensor that evaluates them again while nothing is materialized. Does not belong here:
what is outdated (`react_pipeline.lineage`), the policy of training (`react_pipeline.upkeep`), asking for a run
(`conditions`).

A check runs with a materialization, when hardly anything can be out of date. So the sensor reports an evaluation
whenever the answer differs from what the UI shows. It starts no run and looks at manifests only. One check covers all
partitions of its asset: Dagster keeps one evaluation outside of runs for each partition of a check, and refuses a
second.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from assets.domains import customized_checkpoint, retrieved_set
from assets.partitions import DOMAINS
from assets.reporting import check
from assets.resources import ProjectParam
from react_pipeline.errors import ReactError
from react_pipeline.lineage import Project, fresh
from react_pipeline.manifests import Manifests
from react_pipeline.upkeep import Place, survey

CHECKS = {"retrieved_set": "pairs_are_up_to_date", "customized_checkpoint": "checkpoints_are_up_to_date"}
"""The check of each asset that is watched. What follows from these two is made in minutes."""

MAX_TOLD = 20


@check(retrieved_set)
def pairs_are_up_to_date(context: dg.AssetCheckExecutionContext, project: ProjectParam) -> dg.AssetCheckResult:
    """Warns of domains whose pairs would come out otherwise today: another class, prompt, setting, corpus or base."""
    return dg.AssetCheckResult(**look_at(project.load(), context.instance)["retrieved_set"])


@check(customized_checkpoint)
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
    "has changed, so that the UI shows what is out of date and why. Starts no run.",
)
def freshness(context: dg.SensorEvaluationContext, project: ProjectParam) -> dg.SensorResult:
    """Report what the UI does not show yet; the cursor holds what was true in the last tick."""
    try:
        answers = look_at(project.load(), context.instance)
    except ReactError as error:
        return dg.SensorResult(skip_reason=str(error), cursor=context.cursor)
    before = json.loads(context.cursor or "{}")
    told = {stage: answer["description"] for stage, answer in answers.items()}
    return dg.SensorResult(
        asset_events=[
            dg.AssetCheckEvaluation(dg.AssetKey(stage), CHECKS[stage], blocking=False, **answer)
            for stage, answer in answers.items()
            if answer["metadata"]["built"] and not _is_shown(context.instance, stage, answer, before.get(stage))
        ],
        skip_reason="\n".join(f"{stage}: {description}" for stage, description in told.items()),
        cursor=json.dumps(told),
    )


def look_at(project: Project, instance: dg.DagsterInstance) -> dict[str, dict[str, Any]]:
    """What is to be said of each watched asset: the fields that a check's result and its evaluation share."""
    look, slugs = Manifests.of(project), sorted(instance.get_dynamic_partitions(DOMAINS))
    held = {task.place: task.reason for task in survey(project, slugs).held}
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


def _is_shown(instance: dg.DagsterInstance, stage: str, answer: Mapping[str, Any], before: str | None) -> bool:
    key = dg.AssetCheckKey(dg.AssetKey(stage), CHECKS[stage])
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
    if record is None:
        return False
    last = record.evaluation
    if isinstance(last, dg.AssetCheckEvaluation):
        return (last.passed, last.description) == (answer["passed"], answer["description"])
    # Of a run that has not come to the check yet, which may take hours; or that will never.
    run = instance.get_run_by_id(record.run_id)
    return run is not None and not run.is_finished and before == answer["description"]


def _answer(project: Project, stage: str, slugs: Sequence[str], held: Mapping[Place, str]) -> dict[str, Any]:
    keys = [key for key in project.store.keys(stage) if key.split("/")[0] in slugs]
    reasons = {key: reason for key in keys if (reason := why_outdated(project, (stage, key), held))}
    told = [f"{len(reasons)} of {len(keys)} out of date"]
    told += [f"{key}: {reason}" for key, reason in list(reasons.items())[:MAX_TOLD]]
    if len(reasons) > MAX_TOLD:
        told.append(f"and {len(reasons) - MAX_TOLD} more")
    held_back = sum((stage, key) in held for key in reasons)
    return {
        "passed": not reasons,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": "\n".join(told),
        "metadata": {"built": len(keys), "out_of_date": len(reasons), "held_back": held_back},
    }

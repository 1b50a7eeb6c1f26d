"""The sensor `alerts`: sends how a run failed that is not started again.

Belongs here: which failures are final, and what is said of them. Does not belong here: sending
(`messages`). No step waits for a message or fails by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import dagster as dg

from react_pipeline.assets import (
    TRY_TAG,
    WILL_RETRY_TAG,
    ProjectResource,
    built_places,
    declare_instigators,
    failure_reason,
)
from react_pipeline.extensions.alerts.messages import send
from react_pipeline.extensions.automation import WAIT_HOURS
from react_pipeline.failures import Kind, open_checks, read_failure
from react_pipeline.project import Project
from react_pipeline.stage import Place, Stage
from react_pipeline.store import CorruptArtifact, MissingArtifact


@declare_instigators
def alerts(project: ProjectResource, _stages: Sequence[Stage]) -> Iterator[dg.SensorDefinition]:
    """The sensor of one project."""

    @dg.run_failure_sensor(
        name=project.name("alerts"),
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends to the addresses of `alerts.to` how a run failed that neither Dagster "
        "nor `upkeep` starts again, or that a check blocked. A message that is not accepted fails "
        "the tick.",
    )
    def report(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        places = list(built_places(context.instance, project, run))
        if not places:
            return  # of another project, or of no asset
        pipeline = project.load()
        if run.tags.get(WILL_RETRY_TAG) != "true" and is_final(pipeline, places, run):
            texts = [
                f"{event.step_key}: {failure_reason(event)}"
                for event in context.get_step_failure_events()
            ]
            names = ", ".join(" ".join(place) for place in places)
            lines = [
                f"run {run.run_id[:8]} failed",
                *(texts or [str(context.failure_event.message)]),
            ]
            send(pipeline, names, "\n".join(lines))

    yield report


def is_final(project: Project, places: Sequence[Place], run: dg.DagsterRun) -> bool:
    """Whether only a person, or other inputs, can help what a run could not build; of a run that
    `upkeep` asked for alone may it be otherwise.
    """
    tries = int(run.tags.get(TRY_TAG, "0"))
    if not tries or tries > len(WAIT_HOURS):
        return True
    for place in places:
        failure = read_failure(project, place)
        if failure and failure.kind is Kind.LASTING:
            return True
        try:
            checks = open_checks(project, project.store.current(*place))
        except (MissingArtifact, CorruptArtifact):
            continue
        if any(checks.values()):
            return True
    return False

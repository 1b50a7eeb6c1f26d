"""The job `retention` and its schedule, which a person switches on.

Belongs here: which runs of Dagster are removed. Does not belong here: which artifacts are in use
(`store`). Ticks are removed by Dagster itself, as `retention` of `dagster.yaml` says, and what was
deleted in MLflow by `mlflow gc`.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from react_pipeline.assets import (
    ProjectResource,
    built_places,
    declare_instigators,
    in_process,
    run_of_last,
)
from react_pipeline.extensions.operations.extension import RetentionConfig
from react_pipeline.stage import Stage

ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def remove_what_is_old(context: dg.OpExecutionContext, project: ProjectResource) -> None:
    """Remove what `retention` of pipeline.yaml calls old."""
    pipeline = project.load()
    settings = pipeline.config.section(RetentionConfig)
    before = datetime.now(UTC) - timedelta(days=settings.run_days)
    runs = remove_runs(context.instance, before, project)
    context.log.info(f"{runs} runs removed")
    keep_seconds = settings.artifact_days * 86_400
    paths = pipeline.store.prune(keep_seconds=keep_seconds)
    context.log.info(f"{len(paths)} paths of the store removed")


@declare_instigators
def retention(
    project: ProjectResource, _stages: Sequence[Stage]
) -> Iterator[dg.ScheduleDefinition]:
    """The job of a project, weekly."""

    @dg.op(
        name=project.name("remove_what_is_old"),
        description="Removes old runs, and artifacts that nothing uses.",
    )
    def remove(context: dg.OpExecutionContext) -> None:
        remove_what_is_old(context, project)

    @dg.job(name=project.name("retention"), executor_def=in_process)
    def weekly() -> None:
        """Removes what is old, weekly."""
        remove()

    yield dg.ScheduleDefinition(
        job=weekly,
        cron_schedule="30 4 * * 0",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Off until it is switched on here; the days are `retention` in pipeline.yaml.",
    )


def remove_runs(instance: dg.DagsterInstance, before: datetime, project: ProjectResource) -> int:
    """Remove the runs that ended before, but for those that made what an asset shows now; with a
    prefix, those of the project alone.
    """
    old = instance.get_runs(dg.RunsFilter(statuses=ENDED, updated_before=before))
    if project.key_prefix:
        old = [run for run in old if any(built_places(instance, project, run))]
    removable = [run.run_id for run in old if not _is_shown(instance, run.run_id)]
    for run_id in removable:
        instance.delete_run(run_id)
    return len(removable)


def _is_shown(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run made the last materialization of an asset or of one of its partitions."""
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    made = [entry.asset_materialization for entry in entries]
    return any(
        one and run_of_last(instance, one.asset_key, one.partition) == run_id for one in made
    )

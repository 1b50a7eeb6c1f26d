"""What is out of date, as the UI shows it, and the schedule that looks outside the store.

Does not belong here: asking for what is out of date (`upkeep_sensor`), what is (`survey`).
Dagster's freshness policies judge by time alone, so they cannot say what another class name made
stale; checks do. What the schedule looks at has a policy, which says that it does not run.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice, pairwise, takewhile

import dagster as dg

from react_pipeline.assets import (
    DOMAIN_TAG,
    DOMAINS,
    REASON_TAG,
    CheckContext,
    ProjectResource,
    check,
    declare_instigators,
    declare_policies,
    declare_sensor,
    reap_abandoned,
)
from react_pipeline.extensions.automation.settings import AutomationConfig
from react_pipeline.extensions.automation.survey import survey
from react_pipeline.lineage import fresh
from react_pipeline.project import Manifests, Project, outside
from react_pipeline.settings import load_domains
from react_pipeline.stage import Stage
from react_pipeline.store import ReactError

CHECKS = {
    "retrieved_set": "pairs_are_up_to_date",
    "customized_checkpoint": "checkpoints_are_up_to_date",
}
"""The check of each asset that is watched. What follows from these two is made in minutes."""

MAX_LISTED, MOST_TICKS = 20, 2_000


def settings_of(project: ProjectResource) -> AutomationConfig:
    """The settings of a project; where its configuration is wrong, nothing is automatic."""
    try:
        return project.load().config.section(AutomationConfig)
    except ReactError:
        return AutomationConfig(schedule=None)


@declare_instigators
def recustomize(
    project: ProjectResource, stages: Sequence[Stage]
) -> Iterator[dg.ScheduleDefinition]:
    """The schedule of those stages that read files outside the store; none if the configuration has
    none.
    """
    settings = settings_of(project)
    if settings.schedule is None:
        return
    looking = _looking(stages)
    shared = [project.key(row.name) for row in looking if row.scope == "all"]
    of_domain = [row for row in looking if row.scope == "domain"]

    @dg.schedule(
        name=project.name("recustomize"),
        cron_schedule=settings.schedule,
        execution_timezone=settings.timezone,
        target=dg.AssetSelection.assets(*shared, *(project.key(row.name) for row in of_domain)),
        default_status=dg.DefaultScheduleStatus.RUNNING
        if settings.enabled
        else dg.DefaultScheduleStatus.STOPPED,
        description="Lists the corpus, the base checkpoint and the labelled images. What follows "
        "from a change is asked for by the sensor `upkeep`.",
    )
    def look_outside(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        tags = {REASON_TAG: "schedule", "dagster/priority": "90"}
        when = f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}"  # a repeated tick requests nothing twice
        yield dg.RunRequest(when, asset_selection=shared, tags=tags)
        pipeline = project.load()
        domains, _problems = load_domains(pipeline.config.domains)
        registered = context.instance.get_dynamic_partitions(project.name(DOMAINS))
        for slug in filter(domains.__contains__, registered):
            reading = [
                row
                for row in of_domain
                if row.outside and row.outside(pipeline, slug) != outside.Files()
            ]
            assets = [project.key(row.name) for row in reading]
            tags = {**tags, DOMAIN_TAG: slug}
            if assets:
                yield dg.RunRequest(
                    f"{when} {slug}", asset_selection=assets, partition_key=slug, tags=tags
                )

    yield look_outside


def _looking(stages: Sequence[Stage]) -> list[Stage]:
    """Those that read files outside the store which the schedule can list."""
    return [row for row in stages if row.outside not in (None, outside.unlisted)]


@declare_policies
def listed_by_schedule(
    project: ProjectResource, stages: Sequence[Stage]
) -> Mapping[str, dg.FreshnessPolicy]:
    """A policy for each asset of no domain that the schedule materializes: it fails when the
    schedule has missed a tick.

    Of an asset with partitions a policy sees the last partition alone, so a domain that is never
    looked at would pass.
    """
    settings = settings_of(project)
    if settings.schedule is None or not settings.enabled:
        return {}
    policy = dg.FreshnessPolicy.time_window(2 * _longest_interval(settings.schedule))
    return {row.name: policy for row in _looking(stages) if row.scope == "all"}


def _longest_interval(cron: str) -> timedelta:
    """Between two ticks, of thousands or of a century. Daylight saving time makes no difference:
    the policy allows twice as much.
    """
    from croniter import croniter  # type: ignore[import-untyped, unused-ignore]

    # A Thursday: the next weekend comes within so many minutes of the working day, too.
    ticks = islice(croniter(cron, datetime(2026, 1, 1), ret_type=datetime), MOST_TICKS)
    century = takewhile(lambda tick: tick.year < 2126, ticks)
    return max(later - earlier for earlier, later in pairwise(century))


@check("retrieved_set", partitioned=False)
def pairs_are_up_to_date(context: CheckContext, project: ProjectResource) -> dg.AssetCheckResult:
    """Warns of domains whose pairs would differ today: another class, prompt, setting, corpus or
    base.
    """
    return look_at(project, context.instance)["retrieved_set"]


@check("customized_checkpoint", partitioned=False)
def checkpoints_are_up_to_date(
    context: CheckContext, project: ProjectResource
) -> dg.AssetCheckResult:
    """Warns of trainings that would see other pairs or settings today, and says what
    `automation.training` holds back.

    Trained again are those that are not held back, if automation is switched on.
    """
    return look_at(project, context.instance)["customized_checkpoint"]


@declare_sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Evaluates the checks `pairs_are_up_to_date` and `checkpoints_are_up_to_date` "
    "again when their answer has changed, so that the UI shows what is out of date and why. Closes "
    "runs of the command line whose process was killed. Starts no run.",
)
def freshness(context: dg.SensorEvaluationContext, project: ProjectResource) -> dg.SensorResult:
    """Report what the UI does not show yet."""
    reap_abandoned(context.instance)
    try:
        answers = look_at(project, context.instance)
    except ReactError as error:
        return dg.SensorResult(skip_reason=str(error))
    new = []
    for stage, answer in answers.items():
        key = dg.AssetCheckKey(project.key(stage), CHECKS[stage])
        record = context.instance.event_log_storage.get_latest_asset_check_execution_by_key(
            [key]
        ).get(key)
        # Of a run that has not come to the check yet, which may take hours, or that never will,
        # there is no evaluation.
        last = (
            record.evaluation
            if record and isinstance(record.evaluation, dg.AssetCheckEvaluation)
            else None
        )
        if answer.metadata["built"].value and (
            last is None or last.description != answer.description
        ):
            new.append(dg.AssetCheckEvaluation(blocking=False, **answer._asdict()))
    return dg.SensorResult(
        asset_events=new,
        skip_reason="\n".join(
            f"{stage}: {answer.description}" for stage, answer in answers.items()
        ),
    )


def look_at(
    project: ProjectResource, instance: dg.DagsterInstance
) -> dict[str, dg.AssetCheckResult]:
    """The status of each watched asset."""
    look = Manifests.of(project.load())
    slugs = sorted(instance.get_dynamic_partitions(project.name(DOMAINS)))
    held = {
        task.place: f"; held back by the policy: {task.reason}" for task in survey(look, slugs).held
    }
    answers = {}
    for stage in CHECKS:
        keys = [key for key in look.store.keys(stage) if key.split("/")[0] in slugs]
        reasons = {key: reason for key in keys if (reason := _why_outdated(look, stage, key))}
        lines = [f"{key}: {reason}{held.get((stage, key), '')}" for key, reason in reasons.items()]
        more = [f"and {len(lines) - MAX_LISTED} more"] if len(lines) > MAX_LISTED else []
        answers[stage] = dg.AssetCheckResult(
            asset_key=project.key(stage),
            check_name=CHECKS[stage],
            passed=not reasons,
            severity=dg.AssetCheckSeverity.WARN,
            description="\n".join(
                [f"{len(reasons)} of {len(keys)} out of date", *lines[:MAX_LISTED], *more]
            ),
            metadata={"built": len(keys), "out_of_date": len(reasons)},
        )
    return answers


def _why_outdated(project: Project, stage: str, key: str) -> str:
    try:
        fresh(project, stage, key)
    except (ReactError, OSError, ValueError) as error:
        return " ".join(str(error).split())
    return ""

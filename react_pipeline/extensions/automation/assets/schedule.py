"""The schedule that looks outside the store, and the policy that says when it does not run.

Does not belong here: asking for what is out of date (`upkeep`).
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import dagster as dg

from react_pipeline.assets import (
    DOMAIN_TAG,
    DOMAINS,
    REASON_TAG,
    ProjectResource,
    declare_instigators,
    declare_policies,
)
from react_pipeline.extensions.automation.settings import AutomationConfig
from react_pipeline.project import outside
from react_pipeline.settings import load_domains
from react_pipeline.stage import Stage
from react_pipeline.store import ReactError


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
    """A policy for each asset of no domain that the schedule materializes: it fails from a tick of
    the schedule until the run that this tick asked for has made it.

    Of an asset with partitions a policy sees the last partition alone, so a domain that is never
    looked at would pass.
    """
    settings = settings_of(project)
    if settings.schedule is None or not settings.enabled:
        return {}
    policy = dg.FreshnessPolicy.cron(settings.schedule, timedelta(minutes=1), settings.timezone)
    return {row.name: policy for row in _looking(stages) if row.scope == "all"}

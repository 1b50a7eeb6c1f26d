"""Automation: what happens with no one at the keyboard.

Belongs here: sensors, schedules and automation conditions. Does not belong here: what a run does.
"""

import dagster as dg

from assets.partitions import DOMAINS, domain_partitions
from assets.resources import ProjectResource
from react_pipeline.config_files import load_domains
from react_pipeline.errors import ReactError


@dg.sensor(
    name="domain_files",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Makes every valid file of the domains folder a partition. A broken file is reported here in the tick "
    "and holds up no other.",
)
def domain_files(context: dg.SensorEvaluationContext, project: ProjectResource) -> dg.SensorResult:
    """Register new domain files; the cursor holds the problems that were found last."""
    try:
        found, problems = load_domains(project.load().config.domains)
    except ReactError as error:
        return dg.SensorResult(skip_reason=str(error), cursor=str(error))
    new = sorted(set(found) - set(context.instance.get_dynamic_partitions(DOMAINS)))
    told = "\n".join(map(str, problems))
    if told and told != context.cursor:
        context.log.warning(told)
    if new:
        context.log.info(f"new domains: {', '.join(new)}")
    return dg.SensorResult(
        dynamic_partitions_requests=[domain_partitions.build_add_request(new)] if new else [],
        skip_reason=told or (f"registered {', '.join(new)}" if new else f"{len(found)} domains, none new"),
        cursor=told,
    )

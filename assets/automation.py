"""Automation: what runs without a person.

Belongs here: the sensor that registers domains, the schedule, jobs for backfills. Does not belong here: asking for what
is out of date (`upkeep_sensor`), showing it (`freshness`), what a run does.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from react_pipeline.assets.declared import DOMAIN_FILE
from react_pipeline.assets.partitions import DOMAINS, domain_partitions
from react_pipeline.assets.resources import ProjectParam, ProjectResource
from react_pipeline.settings import AutomationConfig, DomainConfig, load_domains
from react_pipeline.store import ReactError, digest_of

DATA_VERSION_TAG = "dagster/data_version"


@dg.sensor(
    name="domain_files",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Makes every valid file of the domains folder a partition and observes its changes. A broken file is "
    "reported here in the tick and holds up no other. A domain whose file is gone is kept and reported. Starts no run.",
)
def domain_files(context: dg.SensorEvaluationContext, project: ProjectParam) -> dg.SensorResult:
    """Register new domain files; the cursor holds what was reported and seen last."""
    before = json.loads(context.cursor or '{"reported": "", "versions": {}}')
    try:
        folder = project.load().config.domains
        found, problems = load_domains(folder)
    except ReactError as error:
        return dg.SensorResult(skip_reason=str(error), cursor=json.dumps({**before, "reported": str(error)}))
    registered = set(context.instance.get_dynamic_partitions(DOMAINS))
    new = sorted(set(found) - registered)
    gone = sorted(slug for slug in registered if not (folder / f"{slug}.yaml").exists())
    versions = {slug: digest_of(domain.model_dump(mode="json")) for slug, domain in found.items()}
    changed = [slug for slug, version in versions.items() if before["versions"].get(slug) != version]
    reported = "\n".join(
        [*map(str, problems), *(f"{slug}: its file is gone; what was built of it is kept" for slug in gone)]
    )
    if reported and reported != before["reported"]:
        context.log.warning(reported)
    if changed:
        context.log.info(f"new or changed: {', '.join(changed)}")
    return dg.SensorResult(
        dynamic_partitions_requests=[domain_partitions.build_add_request(new)] if new else [],
        asset_events=[_observed(found[slug], versions[slug], str(folder / f"{slug}.yaml")) for slug in changed],
        skip_reason=reported or (f"registered {', '.join(new)}" if new else f"{len(found)} domains, none new"),
        # A file that is broken for a while was seen before: restored unchanged, it is no change.
        cursor=json.dumps({"reported": reported, "versions": {**before["versions"], **versions}}),
    )


def recustomize(settings: AutomationConfig) -> list[dg.ScheduleDefinition]:
    """The schedule that looks at what is outside the store; none if the configuration has none."""
    if settings.schedule is None:
        return []

    @dg.schedule(
        name="recustomize",
        cron_schedule=settings.schedule,
        execution_timezone=settings.timezone,
        target=dg.AssetSelection.assets("corpus", "base_checkpoint", "evaluation_set"),
        default_status=dg.DefaultScheduleStatus.RUNNING if settings.enabled else dg.DefaultScheduleStatus.STOPPED,
        description="Lists the corpus, the base checkpoint and the labelled images. What follows from a "
        "change is asked for by the sensor `upkeep`.",
    )
    def look_outside(context: dg.ScheduleEvaluationContext, project: ProjectParam) -> Iterator[dg.RunRequest]:
        tags = {"react/reason": "schedule", "dagster/priority": "90"}
        when = f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}"  # a repeated tick requests nothing twice
        yield dg.RunRequest(when, asset_selection=[dg.AssetKey("corpus"), dg.AssetKey("base_checkpoint")], tags=tags)
        found, _problems = load_domains(project.load().config.domains)
        for slug in sorted(set(found) & set(context.instance.get_dynamic_partitions(DOMAINS))):
            if found[slug].evaluation is not None:
                domain = {**tags, "react/domain": slug}
                yield dg.RunRequest(
                    f"{when} {slug}", asset_selection=[dg.AssetKey("evaluation_set")], partition_key=slug, tags=domain
                )

    return [look_outside]


def jobs() -> list[Any]:
    """Jobs whose backfill in the UI covers all domains, or all domains and methods."""
    steps = {
        "prepare_domains": (
            "Pairs and labelled images of a domain.",
            ["evaluation_set", "retrieved_set", "control_set"],
        ),
        "train_methods": ("The checkpoint of a domain and method.", ["customized_checkpoint"]),
        "measure_methods": ("Zero-shot accuracy of a domain and method.", ["domain_results"]),
    }
    return [
        dg.define_asset_job(
            name, selection=dg.AssetSelection.assets(*names), description=f"{about} Backfill it over all partitions."
        )
        for name, (about, names) in steps.items()
    ]


def settings_of(project: ProjectResource) -> AutomationConfig:
    """`automation` of pipeline.yaml as the code location is loaded; nothing is automatic if the file is broken."""
    try:
        return project.load().config.automation
    except ReactError:
        return AutomationConfig(schedule=None)


def _observed(domain: DomainConfig, version: str, path: str) -> dg.AssetObservation:
    metadata: Mapping[str, Any] = {
        "file": dg.MetadataValue.path(path),
        "title": domain.title or domain.slug,
        "classes": len(domain.classes),
        "class_names": ", ".join(domain.class_names[:50]),
        "labelled_images": "none" if domain.evaluation is None else domain.evaluation.name,
    }
    return dg.AssetObservation(
        dg.AssetKey(DOMAIN_FILE), partition=domain.slug, metadata=metadata, tags={DATA_VERSION_TAG: version}
    )

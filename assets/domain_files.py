"""Domain files: their asset, the sensor that makes each a partition, and the events of their
changes.

Does not belong here: reading or checking such a file (`react_pipeline.settings`).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from react_pipeline.assets.declared import declare_instigators
from react_pipeline.assets.partitions import DOMAINS, domain_partitions
from react_pipeline.assets.reporting import DATA_VERSION_TAG
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.assets.runs import reap_abandoned
from react_pipeline.settings import DomainConfig, load_domains
from react_pipeline.stage import DOMAIN_FILE, Stage
from react_pipeline.store import ReactError, hash_value


def domain_file(project: ProjectResource) -> dg.AssetSpec:
    """The asset of a project's domain files, which people write."""
    return dg.AssetSpec(
        project.key(DOMAIN_FILE),
        description="The file of a domain in the folder `domains/`: class names, synonyms, prompts, "
        "where labelled images are, and what differs from pipeline.yaml.\n\nYou write it. The sensor "
        "`domain_files` registers it and reports its changes, so that what was built from another "
        "version is shown as unsynced.",
        group_name=project.name("domain"),
        partitions_def=domain_partitions(project),
        kinds={"yaml"},
    )


@declare_instigators
def domain_files(
    project: ProjectResource, _stages: Sequence[Stage]
) -> Iterator[dg.SensorDefinition]:
    """The sensor of one project."""

    @dg.sensor(
        name=project.name("domain_files"),
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Makes every valid file of the domains folder a partition and reports its "
        "changes. A broken file is reported here in the tick and holds up no other. A domain whose "
        "file is gone is kept and reported. Starts no run; closes those whose process was killed "
        "with its code server.",
    )
    def register(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        reap_abandoned(context.instance)
        try:
            folder = project.load().config.domains
            domains, problems = load_domains(folder)
        except ReactError as error:
            return dg.SensorResult(skip_reason=str(error))
        registered = sorted(context.instance.get_dynamic_partitions(project.name(DOMAINS)))
        new = sorted(set(domains).difference(registered))
        gone = [slug for slug in registered if not (folder / f"{slug}.yaml").exists()]
        lines = [
            *map(str, problems),
            *(f"{slug}: its file is gone; what was built of it is kept" for slug in gone),
        ]
        partitions = domain_partitions(project)
        return dg.SensorResult(
            dynamic_partitions_requests=[partitions.build_add_request(new)] if new else [],
            asset_events=changed_files(context.instance, project, folder, domains),
            skip_reason="\n".join(lines) or f"{len(domains)} domains, {len(new)} new",
        )

    yield register


def changed_files(
    instance: dg.DagsterInstance,
    project: ProjectResource,
    folder: Path,
    domains: Mapping[str, DomainConfig],
) -> list[dg.AssetObservation]:
    """Return observations of the domain files that Dagster shows no version of, or another one.

    A materialization would never make what is built from it unsynced.
    """
    shown = instance.event_log_storage.get_latest_tags_by_partition(
        project.key(DOMAIN_FILE), dg.DagsterEventType.ASSET_OBSERVATION, [DATA_VERSION_TAG]
    )
    events = []
    for slug, domain in domains.items():
        # Equal for files that mean the same.
        tags = {DATA_VERSION_TAG: hash_value(domain.model_dump(mode="json"))}
        if tags == shown.get(slug):
            continue
        metadata: dict[str, Any] = {
            "file": dg.MetadataValue.path(str(folder / f"{slug}.yaml")),
            "classes": len(domain.classes),
            "class_names": ", ".join(domain.class_names[:50]),
        }
        key = project.key(DOMAIN_FILE)
        events.append(dg.AssetObservation(key, partition=slug, tags=tags, metadata=metadata))
    return events

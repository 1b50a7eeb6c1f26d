"""A Dagster home of a test's own, with the repository's configuration, and ways to look into it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from conftest import REPOSITORY

from react_pipeline.assets.definitions import build_defs
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.project.project import Project


@contextmanager
def dagster_home(directory: Path) -> Iterator[Path]:
    """`DAGSTER_HOME` points at a fresh instance while the context lasts."""
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(directory))
        yield directory


def code_location(project: Project) -> dg.Definitions:
    """The definitions of a project."""
    return build_defs(project=ProjectResource(config_path=str(project.path)))


def repository(project: Project) -> dg.RepositoryDefinition:
    return code_location(project).get_repository_def()


def tick(
    instance: dg.DagsterInstance,
    loaded: dg.RepositoryDefinition,
    sensor: str,
    lines: logging.Handler | None = None,
) -> Any:
    """One tick of a sensor, carried out as the daemon does, except for the runs that it asks for;
    `lines` gets what it logs.
    """
    context = dg.build_sensor_context(instance, repository_def=loaded, sensor_name=sensor)
    if lines:
        context.log.addHandler(lines)
    result = loaded.get_sensor_def(sensor).evaluate_tick(context)
    for request in result.dynamic_partitions_requests or ():
        instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
    for event in result.asset_events:
        instance.report_runless_asset_event(event)
    return result


def metadata_of(
    instance: dg.DagsterInstance, asset: str, partition: str | None
) -> dict[str, object]:
    """The values of the metadata of the last materialization, by name."""
    wanted = dg.AssetRecordsFilter(
        dg.AssetKey(asset), asset_partitions=[partition] if partition else None
    )
    (record,) = instance.fetch_materializations(wanted, limit=1).records
    return {name: value.value for name, value in record.asset_materialization.metadata.items()}

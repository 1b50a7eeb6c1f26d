"""A Dagster home of a test's own, with the repository's configuration, and ways to look into it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def metadata_of(
    instance: dg.DagsterInstance, asset: str, partition: str | None
) -> dict[str, object]:
    """The values of the metadata of the last materialization, by name."""
    wanted = dg.AssetRecordsFilter(
        dg.AssetKey(asset), asset_partitions=[partition] if partition else None
    )
    (record,) = instance.fetch_materializations(wanted, limit=1).records
    return {name: value.value for name, value in record.asset_materialization.metadata.items()}

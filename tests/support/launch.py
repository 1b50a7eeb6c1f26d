"""A Dagster home of a test's own, with the repository's configuration, and ways to look into it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from conftest import REPOSITORY


@contextmanager
def dagster_home(directory: Path) -> Iterator[Path]:
    """`DAGSTER_HOME` points at a fresh instance while the context lasts."""
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(directory))
        yield directory


def metadata_of(
    instance: dg.DagsterInstance, asset: str, partition: str | None
) -> dict[str, object]:
    """The values of the metadata of the last materialization, by name."""
    wanted = dg.AssetRecordsFilter(
        dg.AssetKey(asset), asset_partitions=[partition] if partition else None
    )
    (record,) = instance.fetch_materializations(wanted, limit=1).records
    return {name: value.value for name, value in record.asset_materialization.metadata.items()}

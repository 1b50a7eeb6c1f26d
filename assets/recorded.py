"""Recorded: whether Dagster and MLflow already show an artifact, so that no run is needed to show it.

Belongs here: reading the last materialization, the blocking checks, and what must be equal for them to hold. Does not
belong here: whether the artifact is what would be built today (`react_pipeline.upkeep`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dagster as dg

from react_pipeline.assets.declared import blocking_checks
from react_pipeline.assets.partitions import name_of
from react_pipeline.assets.reporting import SEEN_TAG, seen
from react_pipeline.pipeline import STAGES
from react_pipeline.project import Project
from react_pipeline.store import Artifact
from react_pipeline.tracking import Tracking

DATA_VERSION_TAG = "dagster/data_version"
"""On a materialization: the fingerprint, under the name that Dagster gives it."""


def evaluations_of(instance: dg.DagsterInstance, stage: str, key: str) -> Sequence[Any]:
    """The last evaluation of each blocking check of an artifact, planned ones too."""
    partition = name_of(key)
    return instance.event_log_storage.get_asset_check_partition_info(
        blocking_checks(stage), partition_keys=None if partition is None else [partition]
    )


@dataclass
class Recorded:
    """What Dagster and MLflow show of a project's artifacts."""

    instance: dg.DagsterInstance
    project: Project

    def shows(self, artifact: Artifact) -> bool:
        """Whether its materialization, its passed blocking checks and its MLflow run are there."""
        if self._logged is not None and artifact.fingerprint not in self._logged:
            return False
        if artifact.stage == "promotion" and self._tracking.hand_edit(self.project, artifact.key) is not None:
            return False
        return self._is_materialized(artifact) and self._is_checked(artifact)

    def _is_materialized(self, artifact: Artifact) -> bool:
        partition = name_of(artifact.key)
        wanted = dg.AssetRecordsFilter(
            dg.AssetKey(artifact.stage), asset_partitions=None if partition is None else [partition]
        )
        today = seen(self.project, STAGES[artifact.stage], artifact.key)
        return bool(today) and any(
            (tags.get(DATA_VERSION_TAG), tags.get(SEEN_TAG)) == (artifact.fingerprint, today)
            for record in self.instance.fetch_materializations(wanted, limit=1).records
            if record.asset_materialization and (tags := record.asset_materialization.tags)
        )

    def _is_checked(self, artifact: Artifact) -> bool:
        found = evaluations_of(self.instance, artifact.stage, artifact.key)
        passed = {
            info.check_key for info in found if info.latest_execution_status.value == "SUCCEEDED" and info.is_current
        }
        return passed == set(blocking_checks(artifact.stage))

    @cached_property
    def _logged(self) -> set[str] | None:
        return self._tracking.logged(self.project)

    @cached_property
    def _tracking(self) -> Tracking:
        return Tracking.of(self.project)

"""Shown: which artifacts Dagster and MLflow show already, so that `materialize` need not run them.

Belongs here: the last materialization of each artifact, whether its run succeeded, what MLflow has
logged. Does not belong here: whether an artifact is what would be built today
(`react_pipeline.lineage`).
"""

from collections.abc import Mapping

import dagster as dg

from react_pipeline.assets.partitions import name_of
from react_pipeline.assets.reporting import CHECKED_TAG, DATA_VERSION_TAG, checked_by
from react_pipeline.project import Project
from react_pipeline.stage import ALL, STAGES
from react_pipeline.store import Artifact
from react_pipeline.tracking import Tracking

MAX_IDS = 500
"""IDs in one query; SQLite before 3.32 allows 999 values."""


class Shown:
    """What is shown when it is created; read in a few queries a stage, since there may be thousands
    of artifacts.
    """

    def __init__(self, instance: dg.DagsterInstance, project: Project) -> None:
        """Log what MLflow lacks; without an answer every artifact counts as logged."""
        self._instance = instance
        self._project = project
        self._logged = Tracking.of(project).sync(project)
        self._made: dict[str, Mapping[str, Mapping[str, str]]] = {}

    def has(self, artifact: Artifact) -> bool:
        """Whether MLflow shows it, and a run whose checks passed."""
        stage, key = artifact.stage, artifact.key
        if self._logged is not None and artifact.fingerprint not in self._logged:
            return False
        if stage not in self._made:
            self._made[stage] = self._made_by_success(stage)
        tags = {
            DATA_VERSION_TAG: artifact.fingerprint,
            CHECKED_TAG: checked_by(self._project, STAGES[stage], key),
        }
        return tags.items() <= self._made[stage].get(name_of(key) or ALL, {}).items()

    def _made_by_success(self, stage: str) -> dict[str, Mapping[str, str]]:
        """The tags of the last materialization of each partition whose run succeeded."""
        asset = dg.AssetKey(stage)
        if STAGES[stage].scope == "all":
            filters = [dg.AssetRecordsFilter(asset)]
        else:
            latest = self._instance.event_log_storage.get_latest_storage_id_by_partition(
                asset, dg.DagsterEventType.ASSET_MATERIALIZATION
            )
            ids = list(latest.values())
            filters = [
                dg.AssetRecordsFilter(asset, storage_ids=ids[start : start + MAX_IDS])
                for start in range(0, len(ids), MAX_IDS)
            ]
        tags = {}
        for some in filters:
            limit = len(some.storage_ids or [asset])
            records = self._instance.fetch_materializations(some, limit=limit).records
            if not records:
                continue
            runs = [record.run_id for record in records]
            success = dg.RunsFilter(run_ids=runs, statuses=[dg.DagsterRunStatus.SUCCESS])
            succeeded = set(self._instance.get_run_ids(success))
            for record in records:
                if record.run_id in succeeded and (made := record.asset_materialization):
                    tags[record.partition_key or ALL] = made.tags or {}
        return tags

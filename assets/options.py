"""Options of assets: what all of them have, what depends on the project, and how the row of an
extension becomes an asset.

Does not belong here: any asset of the core, which says for itself what it is made from, its
partitions, pool and kinds (`corpus`, `domains`, `training`, `evaluation`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from react_pipeline.assets.partitions import mapping_of, partitions_of
from react_pipeline.assets.reporting import publish
from react_pipeline.assets.resources import Context, ProjectResource
from react_pipeline.assets.retries import RETRIES
from react_pipeline.settings import Method
from react_pipeline.stage import (
    DOMAIN_FILE,
    RETRIEVAL_CHECKPOINT,
    Stage,
    configured_parents,
)

ONE_PARTITION_A_RUN = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)
"""Several in one run would share one data version, and their checks would name no partition."""


@dataclass(frozen=True)
class StageOptions:
    """What the asset of a stage has in one project. Projects of one code location differ in their
    methods, their settings and the prefix of their keys, so assets are declared for each.

    Attributes:
        rows: The stages that are assets of the project.
        methods: Those with partitions.
        owners: People or teams, as pipeline.yaml names them.
    """

    row: Stage
    project: ProjectResource
    rows: Mapping[str, Stage]
    methods: Mapping[str, Method]
    owners: Sequence[str]
    freshness_policy: dg.FreshnessPolicy | None = None

    @property
    def common(self) -> dict[str, Any]:
        """The options that no asset chooses."""
        return {
            "key": self.project.key(self.row.name),
            "owners": self.owners,
            "code_version": self.row.version,
            "retry_policy": RETRIES,
            "freshness_policy": self.freshness_policy,
        }

    @property
    def partitions(self) -> dg.PartitionsDefinition | None:
        """One partition for each domain, or for each domain and method."""
        return partitions_of(self.row, self.methods, self.project)

    def group(self, name: str) -> str:
        """Return the name of a group of assets."""
        return self.project.name(name)

    def deps(self, *parents: str) -> list[dg.AssetDep]:
        """Return those parents that are assets of the project, each with its partitions.

        With one encoder the base checkpoint is the retrieval checkpoint, too.
        """
        names = configured_parents(parents, RETRIEVAL_CHECKPOINT in self.rows)
        return [
            dg.AssetDep(
                self.project.key(name), partition_mapping=mapping_of(name, self.row, self.methods)
            )
            for name in dict.fromkeys(names)
            if name in self.rows or name == DOMAIN_FILE
        ]

    @property
    def parents(self) -> list[str]:
        """The stages that artifacts for these methods are made from, as in their manifests."""
        two_encoders = RETRIEVAL_CHECKPOINT in self.rows
        keys = self.row.keys(["any"], self.methods, two_encoders, self.methods)
        parents = [self.row.parents_of(key, two_encoders, self.methods) for key in keys]
        return [*(name for names in parents for name in names), *self.row.gathers]


def extension_asset(stage: StageOptions) -> dg.AssetsDefinition:
    """Declare the asset of a row that an extension adds."""
    row = stage.row
    file = [DOMAIN_FILE] if row.reads_domain else []

    @dg.asset(
        **stage.common,
        description=row.about,
        deps=stage.deps(*file, *stage.parents),
        partitions_def=stage.partitions,
        backfill_policy=ONE_PARTITION_A_RUN if stage.partitions else None,
        group_name=stage.group(row.group),
        kinds=set(row.kinds),
        pool=row.pool,
    )
    def publish_row(context: Context) -> dg.MaterializeResult:
        return publish(context, stage.project)

    return publish_row

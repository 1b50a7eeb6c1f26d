"""The entry point of the code location: `defs` is what Dagster loads.

Belongs here: the list of what there is. Does not belong here: any asset, check, sensor or resource
itself.
"""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import dagster as dg

from react_pipeline.assets import corpus, domain_files, domains, evaluation, training  # noqa: F401
from react_pipeline.assets.declared import (
    checks_of,
    instigators_of,
    policies_of,
)
from react_pipeline.assets.jobs import jobs_of
from react_pipeline.assets.options import StageOptions, extension_asset
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.assets.runs import in_process
from react_pipeline.extension import answers
from react_pipeline.settings import METHODS, Method, PipelineConfig
from react_pipeline.stage import STAGES, left_out_stages
from react_pipeline.store import ReactError

ASSETS = {
    build.__name__: build
    for build in (
        corpus.corpus,
        corpus.base_checkpoint,
        corpus.retrieval_checkpoint,
        corpus.corpus_embeddings,
        corpus.faiss_index,
        domains.evaluation_set,
        domains.few_shot_set,
        domains.retrieved_set,
        domains.control_set,
        training.customized_checkpoint,
        evaluation.domain_results,
        evaluation.comparison,
        evaluation.promotion,
    )
}
"""The assets of the core; those of extensions are made of their rows."""


@contextmanager
def without_warnings() -> Iterator[None]:
    """Hide Dagster's warnings of what is used here on purpose: backfill policies, mappings between
    multi-partitions, partitioned checks. constraints.txt pins their version.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        yield


@without_warnings()
def build_defs(
    methods: Sequence[str] = (),
    project: ProjectResource | None = None,
    executor: dg.ExecutorDefinition | None = in_process,
) -> dg.Definitions:
    """All definitions, of the stages that have keys for the methods, and data where they measure on
    data of their own.

    Args:
        methods: Partitions in addition to those that `methods` of pipeline.yaml names, for one
            launch.
        project: Unset: what the environment names, with no prefix.
        executor: By default all in one process: one for each step and check would load torch and
            these definitions again and again.
    """
    project = project or ProjectResource()
    answers(lambda extension: extension.declare_assets())
    configured: Collection[str]
    table: Mapping[str, Method]
    owners: Sequence[str]
    try:
        config = project.load().config
        configured = config.methods
        table = config.all_methods
        left_out = left_out_stages(config)
        two_encoders = config.two_encoders
        owners = config.owners
    except ReactError:  # no asset or partition disappears then
        configured = table = METHODS
        left_out = set()
        two_encoders = True
        owners = PipelineConfig.model_fields["owners"].default
    chosen = {*configured, *methods}
    partitioned = {name: method for name, method in table.items() if name in chosen}
    rows = [
        row
        for row in STAGES.values()
        if row.name not in left_out and row.keys(["any"], partitioned, two_encoders, table)
    ]
    policies = policies_of(project, rows)
    by_name = {row.name: row for row in rows}
    assets = [
        ASSETS.get(row.name, extension_asset)(
            StageOptions(row, project, by_name, partitioned, owners, policies.get(row.name))
        )
        for row in rows
    ]
    instigators = instigators_of(project, rows)
    return dg.Definitions(
        assets=dg.with_source_code_references([domains.domain_file(project), *assets]),
        asset_checks=checks_of(rows, partitioned, project),
        schedules=[one for one in instigators if isinstance(one, dg.ScheduleDefinition)],
        sensors=[one for one in instigators if isinstance(one, dg.SensorDefinition)],
        jobs=jobs_of(project, rows),
        resources={project.name("project"): project.shown()},
        executor=executor,
    )


defs = build_defs()

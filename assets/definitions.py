"""The entry point of the code location: `defs` is what Dagster loads.

Belongs here: the list of what there is, and the jobs. Does not belong here: any asset, check,
sensor or resource itself.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from react_pipeline.assets import corpus, domains, evaluation, training  # noqa: F401
from react_pipeline.assets.declared import Scope, make_asset, make_checks, make_instigators
from react_pipeline.assets.domain_files import domain_file
from react_pipeline.assets.reporting import publish
from react_pipeline.assets.resources import Context, ProjectResource
from react_pipeline.assets.runs import in_process
from react_pipeline.extension import answers
from react_pipeline.settings import METHODS
from react_pipeline.stage import STAGES, Stage, left_out_stages
from react_pipeline.store import ReactError


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
    try:
        config = project.load().config
    except ReactError:
        config = None  # no asset or partition disappears then
    table = config.all_methods if config else METHODS
    names = {*(config.methods if config else METHODS), *methods}
    partitioned = {name: method for name, method in table.items() if name in names}
    left_out = left_out_stages(config) if config else set()
    rows = [
        row
        for row in STAGES.values()
        if row.name not in left_out and row.keys(["any"], partitioned)
    ]
    scope = Scope(project, {row.name: row for row in rows}, partitioned, config)
    assets = [make_asset(row, publish_row, scope) for row in rows]
    instigators = make_instigators(project, rows)
    return dg.Definitions(
        assets=[domain_file(project), *dg.with_source_code_references(assets)],
        asset_checks=make_checks(scope),
        jobs=declare_jobs(project, rows),
        schedules=[one for one in instigators if isinstance(one, dg.ScheduleDefinition)],
        sensors=[one for one in instigators if isinstance(one, dg.SensorDefinition)],
        resources={project.name("project"): project.shown()},
        executor=executor,
    )


def publish_row(context: Context) -> dg.MaterializeResult:
    """Run the step of a row that an extension adds."""
    return publish(context)


def declare_jobs(project: ProjectResource, stages: Sequence[Stage]) -> list[Any]:
    """Return what a person launches as a whole, one for each scope of partitions.

    A job takes its partitions from one definition, so what comes after the pairs of a domain, one
    partition for each method, is launched from the graph of the assets or asked for by `upkeep`.
    """
    jobs = {
        "refresh_corpus": (
            "all",
            "Reads the corpus and the checkpoints again, and embeds and indexes what is new.",
        ),
        "customize_domain": (
            "domain",
            "Reads the labelled images of a domain again, and retrieves its pairs and their "
            "control, from which its models are then trained.",
        ),
    }
    return [
        dg.define_asset_job(
            project.name(name),
            [project.key(row.name) for row in stages if row.scope == scope and not row.gathers],
            description=description,
        )
        for name, (scope, description) in jobs.items()
    ]


defs = build_defs()

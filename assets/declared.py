"""Declaring assets, checks, sensors and schedules, which become Dagster's for each project of a
code location.

Belongs here: the decorators, and what all assets have. Does not belong here: any asset, check or
sensor itself.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import getdoc
from itertools import chain
from typing import Any

import dagster as dg

from react_pipeline.assets.partitions import library_key, make_mapping, make_partitions
from react_pipeline.assets.resources import CheckContext, Context, ProjectResource
from react_pipeline.assets.retries import RETRIES, readable_failures
from react_pipeline.failures import note_check
from react_pipeline.project import Project
from react_pipeline.settings import Method, PipelineConfig
from react_pipeline.stage import (
    DOMAIN_FILE,
    RETRIEVAL_CHECKPOINT,
    STAGES,
    Stage,
    configured_parents,
)
from react_pipeline.store import Artifact

Body = Callable[[Context], dg.MaterializeResult]
ArtifactCheck = Callable[[Project, Artifact], dg.AssetCheckResult]
Instigator = dg.ScheduleDefinition | dg.SensorDefinition
Instigators = Callable[[ProjectResource, Sequence[Stage]], Iterable[Instigator]]

ONE_PARTITION_A_RUN = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)
"""Several in one run would share one data version, and their checks would name no partition."""


@dataclass(frozen=True)
class Scope:
    """Holds what the assets of one project share. Projects of one code location differ in their
    methods, their settings and the prefix of their keys.

    Attributes:
        rows: The stages that are assets of the project.
        methods: Those with partitions.
        config: Its `pipeline.yaml`; None if that is wrong.
    """

    project: ProjectResource
    rows: Mapping[str, Stage]
    methods: Mapping[str, Method]
    config: PipelineConfig | None

    def deps(self, row: Stage) -> list[dg.AssetDep]:
        """Return what artifacts of a stage for the project's methods are made from, each with its
        partitions.
        """
        methods = filter(row.is_for, self.methods.values())
        parents = configured_parents(
            chain(row.gathers, *map(row.parents_for, methods)), RETRIEVAL_CHECKPOINT in self.rows
        )
        names = [name for name in dict.fromkeys(parents) if name in self.rows]
        return [
            dg.AssetDep(
                self.project.key(name), partition_mapping=make_mapping(name, row, self.methods)
            )
            for name in [DOMAIN_FILE] * row.reads_domain + names
        ]


_assets: dict[str, tuple[Body, dict[str, Any]]] = {}
_checks: dict[tuple[str, str], tuple[ArtifactCheck, dict[str, Any]]] = {}
"""By stage and name; the options are those of `dagster.asset_check`."""
_instigators: dict[str, Instigators] = {}


def stage_asset(**options: Any) -> Callable[[Body], Body]:
    """Declare the asset of the stage that has the name of the function.

    Args:
        options: Of `dagster.asset`: `group_name` is without the prefix of the project, and `pool`
            may be a function of its configuration, in place of that of the row. What it is made
            from and its partitions follow from the row; the backfill policy, owners and retries are
            the same for all.
    """

    def declared(body: Body) -> Body:
        _assets[body.__name__] = body, options
        return body

    return declared


def make_asset(row: Stage, body: Body, scope: Scope) -> dg.AssetsDefinition:
    """Return the asset of a stage in one project; without a declaration that of its row."""
    of_row: dict[str, Any] = {
        "description": row.about,
        "group_name": row.group,
        "kinds": set(row.kinds),
    }
    body, options = _assets.get(row.name) or (body, of_row)
    config, partitions = scope.config, make_partitions(row, scope.methods, scope.project)
    pool = options.get("pool", row.pool)
    common = {
        "deps": scope.deps(row),
        "group_name": scope.project.name(options["group_name"]),
        "pool": (config and pool(config)) if callable(pool) else pool,
        "required_resource_keys": {scope.project.name("project")},
        "partitions_def": partitions,
        "backfill_policy": ONE_PARTITION_A_RUN if partitions else None,
        "owners": config.owners if config else PipelineConfig.model_fields["owners"].default,
        "code_version": row.version,
        "retry_policy": RETRIES,
    }
    return dg.asset(key=scope.project.key(row.name), **{**options, **common})(body)


def artifact_check(stage: str, **options: Any) -> Callable[[ArtifactCheck], ArtifactCheck]:
    """Declare a check of each artifact of a stage, called with the project and the artifact; it
    fails, and is tried again, as the body of an asset is.

    Args:
        options: Of `dagster.asset_check`, such as `blocking`.
    """

    def declared(body: ArtifactCheck) -> ArtifactCheck:
        name = (stage, body.__name__)
        known, _ = _checks.get(name, (body, {}))
        # Definitions may be loaded twice in a process; a check then replaces itself.
        if (known.__module__, known.__qualname__) != (body.__module__, body.__qualname__):
            raise ValueError(f"`{body.__name__}` is a check of `{stage}` already")
        _checks[name] = body, options
        return body

    return declared


def unmeasured(reason: str) -> dg.AssetCheckResult:
    """Return the verdict that nothing can be compared: no fault, and no success either."""
    return dg.AssetCheckResult(
        passed=True, description=f"not measured: {reason}", metadata={"measured": False}
    )


def warning_below(
    difference: float, what: str, *, tolerance: float, remedy: str = ""
) -> dg.AssetCheckResult:
    """Pass if `difference` is above minus the tolerance; else warn, with what to do."""
    passed = difference > -tolerance
    description = f"{what}: {100 * difference:+.1f} points"
    return dg.AssetCheckResult(
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"difference": difference},
        description=f"{description}; {remedy}" if remedy and not passed else description,
    )


def make_checks(scope: Scope) -> list[dg.AssetChecksDefinition]:
    """Return the checks of a project's stages, in the order of declaration."""
    return [
        dg.asset_check(
            asset=scope.project.key(stage),
            name=name,
            description=getdoc(body),
            retry_policy=RETRIES,
            partitions_def=make_partitions(STAGES[stage], scope.methods, scope.project),
            **options,
        )(_checking(stage, name, scope.project))
        for (stage, name), (body, options) in _checks.items()
        if stage in scope.rows
    ]


def _checking(
    stage: str, name: str, project: ProjectResource
) -> Callable[[CheckContext], dg.AssetCheckResult]:
    """Return the body of a check in Dagster, which notes in the store what blocks."""
    body, options = _checks[stage, name]

    def checked(context: CheckContext) -> dg.AssetCheckResult:
        with readable_failures():
            pipeline = project.load()
            artifact = pipeline.store.current(stage, library_key(context))
            result = body(pipeline, artifact)
            if options.get("blocking"):
                problem = "" if result.passed else result.description or "see its metadata"
                note_check(pipeline, artifact, name, problem)
            return result

    return checked


def blocking_checks(stage: str) -> list[str]:
    """Return the checks of a stage that must pass before anything is built on its artifact."""
    return [
        name
        for (of, name), (_, options) in _checks.items()
        if of == stage and options.get("blocking")
    ]


def declare_instigators(build: Instigators) -> Instigators:
    """Add the sensors or schedules that a function with their name builds of each project, from the
    project and the stages that are its assets.
    """
    _instigators[build.__name__] = build
    return build


def make_instigators(project: ProjectResource, stages: Sequence[Stage]) -> list[Instigator]:
    """Return the declared sensors and schedules of one project."""
    return [one for build in _instigators.values() for one in build(project, stages)]

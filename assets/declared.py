"""Declaring: checks, sensors, schedules and freshness policies, which become Dagster's for each
project of a code location.

Belongs here: the decorators. Does not belong here: any check or sensor itself, assets (`options`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from inspect import getdoc, unwrap
from typing import Any

import dagster as dg

from react_pipeline.assets.partitions import key_of, partitions_of
from react_pipeline.assets.reporting import RETRIES, readable_failures
from react_pipeline.assets.resources import CheckContext, ProjectResource
from react_pipeline.project import Project
from react_pipeline.settings import Method
from react_pipeline.stage import STAGES, Stage
from react_pipeline.store import Artifact

ArtifactCheck = Callable[[Project, Artifact], dg.AssetCheckResult]
SensorContext = dg.SensorEvaluationContext
SensorBody = Callable[[SensorContext, ProjectResource], dg.SensorResult]
Instigator = dg.ScheduleDefinition | dg.SensorDefinition
Instigators = Callable[[ProjectResource, Sequence[Stage]], Iterable[Instigator]]
Policies = Callable[[ProjectResource, Sequence[Stage]], Mapping[str, dg.FreshnessPolicy]]


@dataclass(frozen=True)
class Check:
    """A check as it was declared; `options` are those of `dagster.asset_check`."""

    stage: str
    body: Callable[..., dg.AssetCheckResult]
    partitioned: bool
    options: dict[str, Any]


_checks: dict[tuple[str, str], Check] = {}
_instigators: dict[str, Instigators] = {}
_policies: dict[str, Policies] = {}


def check(stage: str, *, partitioned: bool = True, **options: Any) -> Callable[[Any], Any]:
    """Declare a check of a stage's asset; it fails, and is tried again, as the body of an asset is.

    Args:
        partitioned: Whether each partition of the asset is checked separately.
        options: Of `dagster.asset_check`, such as `blocking`.
    """

    def declared(body: Callable[..., dg.AssetCheckResult]) -> Callable[..., dg.AssetCheckResult]:
        name = (stage, body.__name__)
        # Definitions may be loaded twice in a process; a check then replaces itself.
        if name in _checks and _origin(_checks[name].body) != _origin(body):
            raise ValueError(f"`{body.__name__}` is a check of `{stage}` already")
        _checks[name] = Check(stage, body, partitioned, options)
        return body

    return declared


def _origin(body: Any) -> tuple[str, str, int]:
    """Where a function is written: its module, its name there, and its line."""
    written = unwrap(body)
    return written.__module__, written.__qualname__, written.__code__.co_firstlineno


def declare_sensor(**options: Any) -> Callable[[SensorBody], SensorBody]:
    """Make a function of context and project a sensor with its name; options of
    `dagster.sensor`.
    """

    def declared(body: SensorBody) -> SensorBody:
        @wraps(body)
        def build(project: ProjectResource, _stages: Sequence[Stage]) -> Iterable[Instigator]:
            sensor = dg.sensor(name=project.name(body.__name__), **options)
            return [sensor(_of_project(body, project, SensorContext))]

        _instigators[body.__name__] = build
        return body

    return declared


def declare_instigators(build: Instigators) -> Instigators:
    """Add the sensors or schedules that a function with their name builds of each project, from the
    project and the stages that are its assets.
    """
    _instigators[build.__name__] = build
    return build


def declare_policies(build: Policies) -> Policies:
    """Add the freshness policies, by stage, that a function with their name builds of each project,
    from the project and the stages that are its assets.
    """
    _policies[build.__name__] = build
    return build


def policies_of(project: ProjectResource, stages: Sequence[Stage]) -> dict[str, dg.FreshnessPolicy]:
    """The declared freshness policies by stage, for one project."""
    return {
        name: policy
        for build in _policies.values()
        for name, policy in build(project, stages).items()
    }


def instigators_of(project: ProjectResource, stages: Sequence[Stage]) -> list[Instigator]:
    """The declared sensors and schedules, for one project."""
    return [one for build in _instigators.values() for one in build(project, stages)]


def instigator_names(project: ProjectResource) -> set[str]:
    """The names of the sensors and schedules of a project."""
    return set(map(project.name, _instigators))


def artifact_check(stage: str, **options: Any) -> Callable[[ArtifactCheck], ArtifactCheck]:
    """Declare a check of each artifact of a stage, called with the project and the artifact.

    `options` are those of `check`.
    """

    def declared(body: ArtifactCheck) -> ArtifactCheck:
        @wraps(body)
        def checked(context: CheckContext, project: ProjectResource) -> dg.AssetCheckResult:
            pipeline = project.load()
            return body(pipeline, pipeline.store.current(stage, key_of(context)))

        check(stage, **options)(checked)
        return body

    return declared


def _of_project(
    body: Callable[..., Any], project: ProjectResource, context_type: type
) -> Callable[..., Any]:
    """The body for Dagster, which takes every argument but the context for an input."""

    def run(context: Any) -> Any:
        return body(context, project)

    run.__annotations__ = {"context": context_type}
    return run


def checks_of(
    stages: Iterable[Stage], methods: Mapping[str, Method], project: ProjectResource
) -> list[dg.AssetChecksDefinition]:
    """The checks of these stages, in the order of declaration."""
    names = {stage.name for stage in stages}
    checks = []
    for declared in _checks.values():
        if declared.stage not in names:
            continue
        partitions = partitions_of(STAGES[declared.stage], methods, project)
        declare = dg.asset_check(
            asset=project.key(declared.stage),
            name=declared.body.__name__,
            description=getdoc(declared.body),
            retry_policy=RETRIES,
            partitions_def=partitions if declared.partitioned else None,
            **declared.options,
        )
        body = readable_failures()(declared.body)
        checks.append(declare(_of_project(body, project, CheckContext)))
    return checks


def blocking_checks(stage: str, project: ProjectResource) -> list[dg.AssetCheckKey]:
    """The checks of a stage's asset that must pass before anything is built on it."""
    return [
        dg.AssetCheckKey(project.key(stage), declared.body.__name__)
        for declared in _checks.values()
        if declared.stage == stage and declared.options.get("blocking")
    ]

"""Declaring: checks, sensors, schedules and freshness policies, which become Dagster's for each
project of a code location.

Belongs here: the decorators. Does not belong here: any check or sensor itself, assets (`options`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import getdoc, unwrap
from typing import Any

import dagster as dg

from react_pipeline.assets.partitions import key_of, partitions_of
from react_pipeline.assets.resources import CheckContext, ProjectResource
from react_pipeline.assets.retries import RETRIES, readable_failures
from react_pipeline.failures import note_check
from react_pipeline.project import Project
from react_pipeline.settings import Method
from react_pipeline.stage import STAGES, Stage
from react_pipeline.store import Artifact

ArtifactCheck = Callable[[Project, Artifact], dg.AssetCheckResult]
Instigator = dg.ScheduleDefinition | dg.SensorDefinition
Instigators = Callable[[ProjectResource, Sequence[Stage]], Iterable[Instigator]]
Policies = Callable[[ProjectResource, Sequence[Stage]], Mapping[str, dg.FreshnessPolicy]]


@dataclass(frozen=True)
class Check:
    """A check as it was declared; `options` are those of `dagster.asset_check`."""

    stage: str
    body: ArtifactCheck
    options: dict[str, Any]

    @property
    def blocks(self) -> bool:
        """Whether it must pass before anything is built on the artifact."""
        return bool(self.options.get("blocking"))


_checks: dict[tuple[str, str], Check] = {}
_instigators: dict[str, Instigators] = {}
_policies: dict[str, Policies] = {}


def artifact_check(stage: str, **options: Any) -> Callable[[ArtifactCheck], ArtifactCheck]:
    """Declare a check of each artifact of a stage, called with the project and the artifact; it
    fails, and is tried again, as the body of an asset is.

    Args:
        options: Of `dagster.asset_check`, such as `blocking`.
    """

    def declared(body: ArtifactCheck) -> ArtifactCheck:
        name = (stage, body.__name__)
        # Definitions may be loaded twice in a process; a check then replaces itself.
        if name in _checks and _origin(_checks[name].body) != _origin(body):
            raise ValueError(f"`{body.__name__}` is a check of `{stage}` already")
        _checks[name] = Check(stage, body, options)
        return body

    return declared


def _origin(body: Any) -> tuple[str, str, int]:
    """Where a function is written: its module, its name there, and its line."""
    written = unwrap(body)
    return written.__module__, written.__qualname__, written.__code__.co_firstlineno


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


def checks_of(
    stages: Iterable[Stage], methods: Mapping[str, Method], project: ProjectResource
) -> list[dg.AssetChecksDefinition]:
    """The checks of these stages, in the order of declaration."""
    names = {stage.name for stage in stages}
    return [
        dg.asset_check(
            asset=project.key(declared.stage),
            name=declared.body.__name__,
            description=getdoc(declared.body),
            retry_policy=RETRIES,
            partitions_def=partitions_of(STAGES[declared.stage], methods, project),
            **declared.options,
        )(_checking(declared, project))
        for declared in _checks.values()
        if declared.stage in names
    ]


def _checking(
    declared: Check, project: ProjectResource
) -> Callable[[CheckContext], dg.AssetCheckResult]:
    """The body of a check in Dagster, which notes in the store what blocks."""

    def checked(context: CheckContext) -> dg.AssetCheckResult:
        with readable_failures():
            pipeline = project.load()
            artifact = pipeline.store.current(declared.stage, key_of(context))
            result = declared.body(pipeline, artifact)
            if declared.blocks:
                problem = "" if result.passed else result.description or "see its metadata"
                note_check(pipeline, artifact, declared.body.__name__, problem)
            return result

    return checked


def blocking_checks(stage: str) -> list[str]:
    """The checks of a stage's asset that must pass before anything is built on it."""
    return [one.body.__name__ for one in _checks.values() if one.stage == stage and one.blocks]

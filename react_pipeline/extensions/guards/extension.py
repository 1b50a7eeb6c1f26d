"""Guard sets: labelled sets outside the domains, `guards:` of `pipeline.yaml`, and their stage; the
results are evidence for comparison and promotion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import SerializeAsAny, model_validator

from react_pipeline.extension import Extension
from react_pipeline.project import Look, Project, look_at
from react_pipeline.settings import SLUG, SLUG_RULE, EvaluationSetConfig, Name, Section
from react_pipeline.stage import (
    BASE_CHECKPOINT,
    CUSTOMIZED_CHECKPOINT,
    OwnData,
    Stage,
    model_parents,
)
from react_pipeline.store import Artifact

GUARD_RESULTS = "guard_results"


class GuardSet(Section):
    """A labelled set outside the domains: the fields of `evaluation` of a domain file, and how its
    classes are asked for.
    """

    evaluation: SerializeAsAny[EvaluationSetConfig]
    classes: tuple[Name, ...] = ()
    templates: tuple[Name, ...] | Literal["imagenet", "simple"] = "simple"

    @model_validator(mode="before")
    @classmethod
    def _gather_fields_of_kind(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping) or "evaluation" in raw:
            return raw
        own = {name: raw[name] for name in ("classes", "templates") if name in raw}
        return {**own, "evaluation": {name: raw[name] for name in raw if name not in own}}

    @model_validator(mode="after")
    def _has_name_and_classes(self) -> Self:
        if not SLUG.fullmatch(self.name):
            raise ValueError(f"`name` {self.name!r}: {SLUG_RULE}")
        if not self.classes and self.evaluation.kind != "folder":
            raise ValueError(
                "`classes` is missing: only of a folder they are the subfolders' names"
            )
        return self

    @property
    def name(self) -> str:
        """What the set is called."""
        return self.evaluation.name


class GuardsConfig(Section):
    """The guard sets."""

    sets: tuple[GuardSet, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len({guard.name for guard in self.sets}) < len(self.sets):
            raise ValueError("two sets have one `name`")
        return self


def guard_sets(project: Project) -> tuple[GuardSet, ...]:
    """Return the guard sets of a project."""
    return project.config.section(GuardsConfig).sets


def _results(project: Project, slug: str, method: str) -> Artifact:
    from react_pipeline.extensions.guards.results import publish_guard_results

    return publish_guard_results(project, slug, method)


def _identity(project: Project, _key: str) -> dict[str, Any]:
    """Return the sets; their images are identified by their bytes (the content of the inputs)."""
    asked = {"classes", "templates"}
    return {
        "sets": [
            {**guard.evaluation.identity(), **guard.model_dump(mode="json", include=asked)}
            for guard in guard_sets(project)
        ]
    }


def _outside(project: Project, _key: str) -> Look:
    sets = [guard.evaluation for guard in guard_sets(project)]
    names = tuple(name for one in sets for name in one.files())
    return look_at(project, names, complete=all(one.is_watched for one in sets))


STAGES = (
    Stage(
        GUARD_RESULTS,
        "zero-shot accuracy of one checkpoint on labelled sets outside the domain: what it forgot",
        "encoder",
        step=_results,
        parents=(BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT),
        parents_of_method=model_parents,
        identity=_identity,
        outside=_outside,
        version="2",
        data=OwnData(
            "guards.sets",
            lambda config: bool(config.section(GuardsConfig).sets),
            is_benchmark=False,
        ),
        group="guards",
        kinds=("torch", "parquet"),
        pool="gpu",
        priority=60,
    ),
)


class Guards(Extension):
    """Labelled sets outside the domains."""

    def sections(self) -> Mapping[str, type[Section]]:
        """`guards`."""
        return {"guards": GuardsConfig}

    def stages(self) -> Iterable[Stage]:
        """`guard_results`."""
        return STAGES

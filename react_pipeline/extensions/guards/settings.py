"""Configuration of guard sets: `guards:` of `pipeline.yaml`."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import SerializeAsAny, model_validator

from react_pipeline.settings import SLUG, SLUG_RULE, EvaluationSetConfig, Name, Section


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

"""Configuration of guard sets: `guards:` of `pipeline.yaml`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from react_pipeline.settings import SLUG, SLUG_RULE, EvaluationSetConfig, Name, Section


class GuardSet(EvaluationSetConfig):
    """A labelled set outside the domains, with the fields of `evaluation` of a domain file."""

    classes: tuple[Name, ...] = ()
    templates: tuple[Name, ...] | Literal["imagenet", "simple"] = Field(
        default="simple",
        description="a list of prompts with {} for the name, or one of imagenet, simple",
    )

    @model_validator(mode="after")
    def _has_name_and_classes(self) -> Self:
        if not SLUG.fullmatch(self.name):
            raise ValueError(f"`name` {self.name!r}: {SLUG_RULE}")
        if not self.classes and self.kind != "folder":
            raise ValueError(
                "`classes` is missing: only of a folder they are the subfolders' names"
            )
        return self


class GuardsConfig(Section):
    """The guard sets."""

    sets: tuple[GuardSet, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len({guard.name for guard in self.sets}) < len(self.sets):
            raise ValueError("two sets have one `name`")
        return self

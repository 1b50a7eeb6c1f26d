"""Configuration of a domain's labelled images.

Which kinds there are, and what a kind needs, is said by `labelled.LabelledKind`. Does not belong
here: reading the images (`labelled`).
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import field_validator, model_validator

from react_pipeline.extension import brought_by_name
from react_pipeline.settings.near_names import did_you_mean
from react_pipeline.settings.training import Name, Section

if TYPE_CHECKING:
    from react_pipeline.labelled import LabelledKind


@cache
def labelled_kinds() -> Mapping[str, "LabelledKind"]:
    """Every kind of labelled images, by name."""
    return brought_by_name(
        lambda extension: {kind.name: kind for kind in extension.labelled_kinds()}
    )


class EvaluationSetConfig(Section):
    """A labelled set of images, used to evaluate and to keep its images out of the retrieved set."""

    name: Name
    kind: str
    path: Path | None = None
    dataset: str | None = None

    @field_validator("kind")
    @classmethod
    def _kind_exists(cls, kind: str) -> str:
        kinds = labelled_kinds()
        if kind not in kinds:
            meant = did_you_mean(kind, kinds, f"choose from {', '.join(kinds)}")
            raise ValueError(f"{kind!r} is no kind of labelled images; {meant}")
        return kind

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> Self:
        needed = labelled_kinds()[self.kind].fields
        for field in ("path", "dataset"):
            is_set = getattr(self, field) is not None
            if is_set != (field in needed):
                fault = "does nothing for" if is_set else "is missing for"
                remedy = "remove" if is_set else "add"
                raise ValueError(
                    f"`{field}` {fault} kind `{self.kind}`: {remedy} it, or set another kind"
                )
        if problem := labelled_kinds()[self.kind].problem(self):
            raise ValueError(problem)
        return self

    @property
    def squash(self) -> bool:
        """Whether images are squashed to a square rather than cropped, as ELEVATER does for one
        data set.
        """
        return labelled_kinds()[self.kind].squash(self)

"""Kinds: a section of a configuration file whose field `kind` says what other fields it has.

Belongs here: how a kind is found by its name, and what is said of one that is not. Does not belong
here: what is asked of a kind (`corpus`, `evaluation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import field_validator

from react_pipeline.extension import Extension, joined
from react_pipeline.settings.near_names import did_you_mean
from react_pipeline.settings.training import Section

OneKind = TypeVar("OneKind", bound="Kind")


class Kind(Section):
    """A subclass is named by the default of its field `kind`."""

    kind: str

    @classmethod
    def kinds(cls) -> Mapping[str, type[Kind]]:
        """Every kind of this section, by name."""
        raise NotImplementedError

    @classmethod
    def unknown_field(cls, name: str) -> str:
        """What to say of a field of other kinds."""
        kinds = [kind for kind, model in cls.kinds().items() if name in model.model_fields]
        if not kinds:
            return ""
        others = " or ".join(f"`{kind}`" for kind in kinds)
        own = cls.model_fields["kind"].default
        return f"`{name}` does nothing for kind `{own}`: remove it, or set kind {others}"


class UnknownKind(Kind):
    """A `kind` that nothing brings, so that its other fields cannot be checked: a subclass sets
    `extra="ignore"`, as its last base decides.
    """

    @field_validator("kind")
    @classmethod
    def _no_such_kind(cls, kind: str) -> str:
        kinds = cls.kinds()
        others = f"choose from {', '.join(kinds)}, or install the extension that brings it"
        meant = did_you_mean(kind, kinds, others)
        raise ValueError(f"there is no kind {kind!r}; {meant}")


def kinds_of_extensions(
    ask: Callable[[Extension], Iterable[type[OneKind]]],
) -> Mapping[str, type[OneKind]]:
    """The kinds that all extensions answer, by name."""
    return joined(
        lambda extension: {
            str(model.model_fields["kind"].default): model for model in ask(extension)
        }
    )


def name_of_kind(section: Any, kinds: Mapping[str, type[OneKind]], default: str = "") -> str:
    """The name of the kind in a section as it was read; "" if it names none that there is."""
    name = section.get("kind", default) if isinstance(section, dict) else default
    return name if isinstance(name, str) and name in kinds else ""

"""Sections: what every part of a configuration file is, and those whose fields a `kind` chooses.

Does not belong here: any section, or what is asked of a kind (`corpus`, `evaluation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    NonNegativeInt,
    model_validator,
)

from react_pipeline.extension import Extension, joined
from react_pipeline.settings.names import did_you_mean

Fraction = Annotated[float, Field(ge=0, le=1)]
Workers = NonNegativeInt | Literal["auto"]
"""How many processes decode images."""
Value = TypeVar("Value")
OneKind = TypeVar("OneKind", bound="Kind")


def each_once(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return the values of a list, unless one is listed twice."""
    if again := [str(value) for value in dict.fromkeys(values) if values.count(value) > 1]:
        raise ValueError(f"{', '.join(again)} listed more than once")
    return values


def count_workers(workers: Workers, processes: int = 1) -> int:
    """Return the decoding processes of each of `processes`; `auto` leaves one core to compute."""
    if workers != "auto":
        return workers
    from joblib import cpu_count  # heeds affinity and the limits of containers

    return max(cpu_count() // processes - 1, 1)


class Section(BaseModel):
    """Base of every part of the configuration: frozen, unknown fields and non-finite numbers
    refused.

    docs/configuration.md describes every field of every part; tests/house/test_docs.py compares the
    names.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    @property
    def overrides(self) -> dict[str, Any]:
        """The fields that were given, without those that have their defaults."""
        return {name: value for name, value in self if name in self.model_fields_set}

    def places(self) -> dict[str, Path]:
        """Return the fields that name a file or a folder."""
        return {name: value for name, value in self if isinstance(value, Path)}

    def located(self, absolute: Callable[[Path], Path]) -> Self:
        """Return a copy with absolute paths, those of inner sections too."""
        places: dict[str, Any] = {name: absolute(path) for name, path in self.places().items()}
        inner = {name: part.located(absolute) for name, part in self if isinstance(part, Section)}
        return self.model_copy(update=places | inner)


class Kind(Section):
    """A section with fields of its own for each `kind`.

    A subclass with a default of `kind`, such as `kind: Literal["webdataset"] = "webdataset"`, is a
    kind; one without is the union of its `kinds`.
    """

    kind: str

    default_kind: ClassVar[str | None] = None

    def packages(self) -> Mapping[str, str]:
        """Return versions of the installed packages that it is made from."""
        return {}

    @classmethod
    def kinds(cls) -> Mapping[str, type[Kind]]:
        """Return every kind of this section, by name."""
        raise NotImplementedError

    @model_validator(mode="wrap")
    @classmethod
    def _choose_kind(cls, fields: Any, handler: ModelWrapValidatorHandler[Kind]) -> Kind:
        # Not a discriminated union: it names the kind in the place of each error, where it reads
        # as a field: the kind `urls` has a field `urls`.
        is_union = cls.model_fields["kind"].is_required()
        if not is_union or not isinstance(fields, dict):
            return handler(fields)
        kinds, name = cls.kinds(), str(fields.get("kind", cls.default_kind))
        if name not in kinds:
            hint = did_you_mean(name, kinds, "or install what brings it")
            raise ValueError(f"`kind` should be one of {', '.join(kinds)} (found {name!r}); {hint}")
        return kinds[name].model_validate(fields)


def kinds_of_extensions(
    ask: Callable[[Extension], Iterable[type[OneKind]]],
) -> Mapping[str, type[OneKind]]:
    """Return the kinds that all extensions answer, by name."""
    return joined(
        lambda extension: {
            str(model.model_fields["kind"].default): model for model in ask(extension)
        }
    )

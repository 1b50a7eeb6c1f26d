"""Sections: what every part of a configuration file is, those whose fields a `kind` chooses, and
the names that people write in them.

A name can be seen, differs from the others as it is read, and is plain text in a spreadsheet. Does
not belong here: any section, or what is asked of a kind (`corpus`, `evaluation`); slugs, which are
folders too (`config`).
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    NonNegativeInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from react_pipeline.extension import joined

_FORMULA = re.compile(r"[=@].|[+-](.*[|!]|\s*\w+\()")
_CUTOFF = 0.7
"""The least similarity of a near name: `gpu` is no misspelt `cpu`."""
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They change the order in which a text is shown."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Workers = NonNegativeInt | Literal["auto"]
"""How many processes decode images."""
Value = TypeVar("Value")


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


def folded(name: str) -> str:
    """Return a name as people compare it: without case, extra blanks, and what is not seen."""
    visible = "".join(mark for mark in name if unicodedata.category(mark) != "Cf")
    return " ".join(unicodedata.normalize("NFC", visible).lower().split())


def _require_visible(name: str) -> str:
    if any(unicodedata.category(mark) == "Cc" or mark in _BIDI for mark in name):
        raise ValueError(f"{name!r}: holds control characters; write it without")
    if not folded(name):
        raise ValueError(f"{name!r}: holds nothing that can be seen; write a name")
    return name


def _require_no_formula(name: str) -> str:
    if _FORMULA.match(name.lstrip()):
        raise ValueError(
            f"{name!r}: a spreadsheet runs it as a formula, in the tables of results; write it in "
            "another way"
        )
    return name


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_require_visible)]
ClassName = Annotated[Name, AfterValidator(_require_no_formula)]


def did_you_mean(name: str, names: Iterable[str], otherwise: str = "") -> str:
    """Return a question that names the nearest of `names`, whatever their case; `otherwise` if none
    is near.
    """
    by_folded = {other.casefold(): other for other in sorted(names)}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=_CUTOFF)
    meant = " or ".join(by_folded[folded] for folded in close)
    return f"did you mean {meant}?" if close else otherwise


def absolute_path(base: Path | None, name: Path | str) -> Path:
    """Return a path that is relative to a folder without links, from which `..` at the front
    therefore lead to parents: messages show a path without them. `~` is the home directory, as in a
    shell; without a folder the path stays.
    """
    path = Path(name)
    if base is None:
        return path
    with suppress(RuntimeError):  # no user is called so, but a file may be
        path = path.expanduser()
    while path.parts[:1] == ("..",):
        base, path = base.parent, Path(*path.parts[1:])
    return base / path


class Section(BaseModel):
    """Base of every part of the configuration: frozen, unknown fields and non-finite numbers
    refused.

    docs/configuration.md describes every field of every part; tests/house/test_docs.py compares the
    names.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        allow_inf_nan=False,
        validate_default=True,
    )

    @property
    def overrides(self) -> dict[str, Any]:
        """The fields that were given, without those that have their defaults."""
        return self.model_dump(exclude_unset=True)

    def places(self) -> dict[str, Path]:
        """Return the fields that name a file or a folder."""
        return {name: value for name, value in self if isinstance(value, Path)}

    @field_validator("*")
    @classmethod
    def _is_absolute(cls, value: Any, info: ValidationInfo) -> Any:
        """Make a path of a file absolute: the context is the folder of that file."""
        return absolute_path(info.context, value) if isinstance(value, Path) else value


class Kind(Section):
    """A section with fields of its own for each `kind`.

    A subclass with a default of `kind`, such as `kind: Literal["webdataset"] = "webdataset"`, is a
    kind; one without is the union of those that a `hook` of extensions brings.
    """

    kind: str

    hook: ClassVar[str] = ""
    default_kind: ClassVar[str | None] = None

    def packages(self) -> Mapping[str, str]:
        """Return versions of the installed packages that it is made from."""
        return {}

    def files(self) -> tuple[str, ...]:
        """Return the files and folders to look at for a change."""
        return tuple(map(str, self.places().values()))

    @model_validator(mode="wrap")
    @classmethod
    def _choose_kind(
        cls, fields: Any, handler: ModelWrapValidatorHandler[Kind], info: ValidationInfo
    ) -> Kind:
        # Not a discriminated union: it names the kind in the place of each error, where it reads
        # as a field: the kind `urls` has a field `urls`.
        is_union = cls.model_fields["kind"].is_required()
        if not is_union or not isinstance(fields, dict):
            return handler(fields)
        kinds, name = kinds_of_extensions(cls.hook), str(fields.get("kind", cls.default_kind))
        if name not in kinds:
            hint = did_you_mean(name, kinds, "or install what brings it")
            raise ValueError(f"`kind` should be one of {', '.join(kinds)} (found {name!r}); {hint}")
        return kinds[name].model_validate(fields, context=info.context)


@cache
def kinds_of_extensions(hook: str) -> Mapping[str, type[Any]]:
    """Return the kinds that all extensions answer to a hook, by name."""
    return joined(
        lambda extension: {
            str(model.model_fields["kind"].default): model for model in getattr(extension, hook)()
        }
    )

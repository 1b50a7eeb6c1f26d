"""Failures: what the store remembers of what could not be built, or must not be built on.

Two notes of a place are beside its artifacts and in none, so no fingerprint depends on them: how
its last run failed that automation asked for, and which blocking checks have not passed. Does not
belong here: which errors may pass (`assets.retries`), asking for runs (`extensions.automation`).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from react_pipeline.project import Project
from react_pipeline.settings import without_secrets
from react_pipeline.stage import STAGES, Place
from react_pipeline.store import Artifact, ReactError, hash_value


class Kind(StrEnum):
    """Whether trying again may help."""

    LASTING = "lasting"
    """The same inputs fail the same way again."""
    TRANSIENT = "transient"
    """A network or a disk, which may take hours."""
    PASSING = "passing"
    """An input changed for a moment."""
    INTERRUPTED = "interrupted"
    """The step itself was fine."""


@dataclass(frozen=True)
class Failure:
    """How a place failed.

    Attributes:
        inputs: Digest of all that it would have been built from.
    """

    inputs: str
    kind: Kind
    text: str


def read_failure(project: Project, place: Place) -> Failure | None:
    """Return how the last requested run of a place failed; None if it did not."""
    note = _read(project, "failures", place)
    with suppress(KeyError, ValueError):
        return Failure(note["inputs"], Kind(note["kind"]), note["text"])
    return None


@contextmanager
def remembered(
    project: Project, place: Place, inputs: str, kind_of: Callable[[BaseException], Kind]
) -> Iterator[None]:
    """Note how a step fails, until it succeeds. Without inputs, as in a run that a person started,
    a failure is not noted.
    """
    try:
        yield
    except BaseException as error:
        if inputs:
            text = without_secrets(" ".join(str(error).split())) or type(error).__name__
            _write(project, "failures", place, asdict(Failure(inputs, kind_of(error), text)))
        raise
    if _read(project, "failures", place):
        _write(project, "failures", place, {})


def open_checks(project: Project, artifact: Artifact) -> dict[str, str | None]:
    """Return the blocking checks that an artifact has not passed: why it failed them, or None if
    they were not evaluated; nothing of what no run of Dagster ever made.
    """
    note = _read(project, "checks", (artifact.stage, artifact.key))
    found = note.get("open")
    if note and (note.get("fingerprint") != artifact.fingerprint or not isinstance(found, dict)):
        return {"a check": None}  # the process ended between the step and its checks
    return found or {}


def is_checked(project: Project, artifact: Artifact) -> bool:
    """Return whether an artifact passed its blocking checks with today's thresholds."""
    note = _read(project, "checks", (artifact.stage, artifact.key))
    return note == _checks(project, artifact, {})


def expect_checks(project: Project, place: Place) -> None:
    """Note, before a place is first built, that its artifact has to pass checks."""
    if not _read(project, "checks", place):
        _write(project, "checks", place, {"fingerprint": ""})


def await_checks(project: Project, artifact: Artifact, names: Iterable[str]) -> None:
    """Note that nothing may be built on an artifact before these checks have passed."""
    waiting, place = dict.fromkeys(names), (artifact.stage, artifact.key)
    if waiting or _read(project, "checks", place):  # of a check that is gone, too
        _write(project, "checks", place, _checks(project, artifact, waiting))


def note_check(project: Project, artifact: Artifact, name: str, problem: str) -> None:
    """Note that an artifact has passed a check, or what its problem is.

    Of two checks at once one may forget what the other found, and leaves it as not evaluated.
    """
    checks = {**open_checks(project, artifact), name: problem}
    found = {name: problem for name, problem in checks.items() if problem != ""}
    _write(project, "checks", (artifact.stage, artifact.key), _checks(project, artifact, found))


def _checks(
    project: Project, artifact: Artifact, found: Mapping[str, str | None]
) -> dict[str, Any]:
    thresholds = STAGES[artifact.stage].thresholds(project, artifact.key)
    fingerprint = artifact.fingerprint
    return {"fingerprint": fingerprint, "thresholds": hash_value(thresholds), "open": found}


def _read(project: Project, kind: str, place: Place) -> dict[str, Any]:
    if (text := project.store.read_note(_name(kind, place))) is None:
        return {}
    with suppress(ValueError, RecursionError):  # cut, or written by hand
        note = json.loads(text)
        if isinstance(note, dict):
            return note
    return {"damaged": text}


def _write(project: Project, kind: str, place: Place, note: dict[str, Any]) -> None:
    # On a full disk the step fails by its own error, which says more.
    with suppress(OSError, ReactError):
        project.store.write_note(_name(kind, place), json.dumps(note))


def _name(kind: str, place: Place) -> str:
    return f"{kind}/{place[0]}--{place[1].replace('/', '--')}"

"""Survey: which artifacts are missing or out of date, which of them can be built right now, and
which are held back.

Belongs here: one look at the whole pipeline and the policy of training (`automation:` of
pipeline.yaml). Does not belong here: asking anybody to build something (`assets.upkeep`), how
freshness is judged (`lineage` and the `is_current` of the stages that gather results), what is
remembered of failures (`react_pipeline.failures`).

A look depends on nothing but the files, so that it comes to the same result however often, and by
whomever, it is taken. It reads manifests and never hashes an artifact: the step that reads it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline import __version__
from react_pipeline.extensions.automation.extension import AutomationConfig
from react_pipeline.failures import Failure, open_checks, read_failure
from react_pipeline.lineage import fresh, is_current, look_outside, parents_of, resolve
from react_pipeline.project import Manifests, Project, changed_since_run
from react_pipeline.stage import ALL, STAGES, Place, Stage, left_out_stages
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    InputError,
    Inputs,
    MissingArtifact,
    StaleArtifact,
    hash_value,
)

_OUTDATED = (MissingArtifact, StaleArtifact, CorruptArtifact)


class State(StrEnum):
    """The state of a place."""

    FRESH = "fresh"
    DUE = "due"
    """Outdated, and all that it needs is fresh."""
    WAITING = "waiting"
    """For something before it that is due."""
    HELD = "held"
    """Outdated, itself or something before it, and the policy keeps it so."""
    FAILED = "failed"
    """Not available: building or checking it, or something before it, has failed."""


@dataclass(frozen=True)
class Task:
    """One artifact to build.

    Attributes:
        key: `all`, a domain's slug, or `<domain>/<method>`.
        reason: Why it is out of date.
        inputs: Digest of all that it would be built from, and of this package's version, which may
            cure what failed: equal digests, equal work.
    """

    stage: str
    key: str
    reason: str
    inputs: str

    @property
    def place(self) -> Place:
        """Where the artifact belongs."""
        return self.stage, self.key


Judge = Callable[[Task, Failure | None], str | None]
"""Called with what can be built and how it failed before; returns why it is not asked for now, ""
while a run of it is under way, None if it is asked for.
"""


def _unless_failed(_task: Task, failure: Failure | None) -> str | None:
    return failure.text if failure else None


def survey(project: Project, slugs: Sequence[str], judge: Judge = _unless_failed) -> Survey:
    """Look at everything that is kept up for these domains.

    Args:
        slugs: Domains to keep up. One whose file is broken or gone is left out and harms no other.
        judge: Decides what is asked for now; by default what has not failed.
    """
    found = Survey(Manifests.of(project), judge)
    readable = []
    for slug in slugs:
        try:
            found.project.domain(slug)
            readable.append(slug)
        except InputError as error:
            found.unreadable[slug] = str(error)
    for place in places(project, readable):
        found.look_at(place)
    return found


def places(project: Project, slugs: Sequence[str]) -> Iterator[Place]:
    """What is kept up for these domains, in the order of the data."""
    config = project.config
    kept_up = config.section(AutomationConfig).extensions
    left_out = left_out_stages(config) | {
        row.name
        for row in STAGES.values()
        if row.data and row.data.is_benchmark and row.data.section not in kept_up
    }
    for row in STAGES.values():
        if row.name in left_out or (row.gathers and not slugs):
            continue
        for key in row.keys(slugs, config.measured):
            yield row.name, key


@lru_cache(maxsize=10_000)
def pairs_distance(*tables: Path) -> float:
    """Return the Jaccard distance of the images of two tables of pairs: 0 the same, 1 nothing in
    common. Published tables never change, and what is held back is compared at each tick.
    """
    left, right = (
        set(pd.read_parquet(table, columns=["image_sha256"])["image_sha256"]) for table in tables
    )
    return 1 - len(left & right) / len(left | right) if left | right else 0.0


@dataclass
class Survey:
    """One look, and what it found.

    Attributes:
        tasks: What to ask for now, in the order of the data.
        states: Of every place that is kept up.
        reasons: Why a place is not fresh, or was not renewed; not of what waits for others.
        unreadable: Domains left out, with the reason.
    """

    project: Project
    judge: Judge
    tasks: list[Task] = field(default_factory=list)
    states: dict[Place, State] = field(default_factory=dict)
    reasons: dict[Place, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    _checked: set[Place] = field(default_factory=set)
    _results: dict[Place, list[Place]] = field(default_factory=dict)
    """Places by stage and domain, and by stage and `all`."""

    def look_at(self, place: Place) -> None:
        """Find the state of a place, after those of its parents."""
        stage, key = place
        row, slug = STAGES[stage], key.split("/")[0]
        try:
            state = self._gathered(row, key) if row.gathers else self._made(row, key)
        except Exception as error:  # noqa: BLE001 - of an extension's row it may be any
            # Such as conflicting fields of training, or a damaged table: no other domain waits for
            # it.
            self.unreadable[slug] = f"{stage}: {' '.join(str(error).split())}"
            state = State.FAILED
        self.states[place] = state
        for of in {slug, ALL}:
            self._results.setdefault((stage, of), []).append(place)

    def _made(self, row: Stage, key: str) -> State:
        stage = row.name
        parents = parents_of(self.project, stage, key).values()
        if blocked := self._blocked(parents):
            return blocked
        look = look_outside(self.project, stage, key)
        artifact = None
        try:
            artifact = fresh(self.project, stage, key)
            reason = "" if look is None else changed_since_run(self.project, artifact, look)
            if not reason:
                return State.FRESH
        except _OUTDATED as error:
            reason = str(error)
        inputs = resolve(self.project, stage, key)
        if row.scope == "trained" and (why := self._keeps(inputs, reason)):
            self.reasons[stage, key] = why
            return State.HELD
        for parent in inputs.parents.values():
            self._require_checks(parent)
        if blocked := self._blocked(parents):
            return blocked
        state = self._ask(stage, key, reason, [inputs.fingerprint, look.seen if look else ""])
        # The previous corpus is still a corpus.
        return State.FRESH if artifact and state is State.FAILED else state

    def _blocked(self, before: Iterable[Place]) -> State | None:
        """Return what follows for a place from those before it; None if all of them are fresh."""
        states = {self.states.get(place, State.FAILED) for place in before}
        if State.HELD in states:
            return State.HELD
        if states & {State.DUE, State.WAITING}:
            return State.WAITING
        return State.FAILED if State.FAILED in states else None

    def _keeps(self, inputs: Inputs, reason: str) -> str:
        """Why the policy of training keeps a checkpoint as it is; "" if it does not."""
        slug, method = inputs.key.split("/")
        policy = self.project.config.section(AutomationConfig)
        self.project.training(slug, method)  # its fields may contradict each other
        if policy.training == "never":
            return f"`automation.training` is `never` ({reason})"
        old = self._current((inputs.stage, inputs.key))
        if old is None or policy.training == "always":
            return ""
        pairs = self.project.method(method).pairs
        is_same = old.manifest["config"] == inputs.config and all(
            name == pairs or old.parents.get(name) == one.fingerprint
            for name, one in inputs.parents.items()
        )
        if not is_same or old.manifest["code_version"] != inputs.code_version:
            return ""
        try:
            before = self.project.store.open(pairs, slug, old.parents.get(pairs, ""))
        except (MissingArtifact, CorruptArtifact):  # pruned
            return ""
        tables = (one.file("pairs.parquet") for one in (before, inputs.parents[pairs]))
        if (distance := pairs_distance(*tables)) <= policy.changed_fraction:
            return (
                f"{distance:.1%} of its pairs changed; `automation.changed_fraction` is "
                f"{policy.changed_fraction:.1%}"
            )
        return ""

    def _require_checks(self, parent: Artifact) -> None:
        """Count an artifact, from which something would be built, as failed if a blocking check has
        failed; ask for it where one was not evaluated, as it is reused then.
        """
        place = parent.stage, parent.key
        if place in self._checked:  # many trainings share a parent
            return
        self._checked.add(place)
        if not (checks := open_checks(self.project, parent)):
            return
        check, problem = next(iter(checks.items()))
        what = f"{check} of {parent.stage}"
        if problem is None:
            reason = f"{what} was not evaluated"
            self.states[place] = self._ask(*place, reason, parent.fingerprint)
        else:
            self.states[place] = State.FAILED
            self.reasons[place] = f"{what} has failed: {problem}"

    def _gathered(self, row: Stage, key: str) -> State:
        """Stages whose parents are whichever results there are."""
        stage = row.name
        results = [place for one in row.gathers for place in self._results.get((one, key), [])]
        states = {self.states[place] for place in results}
        shown = [one for one in results if not (row.compares and one[1].endswith("/base"))]
        if not any(self.states[place] is State.FRESH for place in shown):
            return self._blocked(results) or State.FAILED
        if states & {State.DUE, State.WAITING}:
            return State.WAITING
        # A comparison does not need what was never built; an older result would drop out of it.
        held = [place for place in results if self.states[place] is State.HELD]
        if row.scope != "all" and any(map(self._current, held)):
            return State.HELD
        try:
            is_current(self.project, stage, key)
        except _OUTDATED as error:
            there = {"/".join(place): self._current(place) for place in results}
            gathered = {name: one.fingerprint if one else "" for name, one in there.items()}
            today = error.today if isinstance(error, StaleArtifact) else ""
            identity = row.identity(self.project, key)
            inputs = [identity, row.version, gathered, str(error), today]
            return self._ask(stage, key, str(error), inputs)
        return State.FRESH

    def _current(self, place: Place) -> Artifact | None:
        try:
            return self.project.store.current(*place)
        except (MissingArtifact, CorruptArtifact):
            return None

    def _ask(self, stage: str, key: str, reason: str, inputs: Any) -> State:
        """Judge what can be built now."""
        task = Task(stage, key, reason, hash_value([stage, key, inputs, __version__]))
        failure = read_failure(self.project, task.place)
        if failure and failure.inputs != task.inputs:
            failure = None
        why = self.judge(task, failure)
        if why is None:
            self.tasks.append(task)
        self.reasons[task.place] = why or (failure.text if failure else reason)
        # What waits for a person or an hour keeps no comparison of others waiting.
        return State.FAILED if failure or why else State.DUE

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

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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
    """Not available: building it, or something before it, has failed."""


@dataclass(frozen=True)
class Task:
    """One artifact to build, or held back.

    Attributes:
        key: `all`, a domain's slug, or `<domain>/<method>`.
        reason: Why it is out of date; of a held one, why it stays so.
        inputs: Digest of all that it would be built from, and of this package's version, which may
            cure what failed: equal digests, equal work.
    """

    stage: str
    key: str
    reason: str
    inputs: str = ""

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
    for stage, key in places(project, readable):
        found.look_at(stage, key)
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
        waiting: What could be built and is not asked for now, with the answer of the `Judge`.
        failed: What failed with today's inputs.
        held: What the policy holds back, with the reason.
        states: Of every place that is kept up.
        unreadable: Domains left out, with the reason.
    """

    project: Project
    judge: Judge
    tasks: list[Task] = field(default_factory=list)
    waiting: dict[Task, str] = field(default_factory=dict)
    failed: dict[Task, Failure] = field(default_factory=dict)
    held: list[Task] = field(default_factory=list)
    states: dict[Place, State] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    _checks: dict[Place, dict[str, str | None]] = field(default_factory=dict)
    _judged: dict[Task, State] = field(default_factory=dict)
    _results: dict[Place, list[Place]] = field(default_factory=dict)
    """Places by stage and domain, and by stage and `all`."""

    def look_at(self, stage: str, key: str) -> None:
        """Find the state of a place, after those of its parents."""
        row, slug = STAGES[stage], key.split("/")[0]
        try:
            state = self._gathered(row, key) if row.gathers else self._made(row, key)
        except Exception as error:  # noqa: BLE001 - of an extension's row it may be any
            # Such as conflicting fields of training, or a damaged table: no other domain waits for
            # it.
            self.unreadable[slug] = f"{stage}: {' '.join(str(error).split())}"
            state = State.FAILED
        self.states[stage, key] = state
        for of in {slug, ALL}:
            self._results.setdefault((stage, of), []).append((stage, key))

    def _made(self, row: Stage, key: str) -> State:
        stage = row.name
        parents = parents_of(self.project, stage, key).values()
        if blocked := _joined([self.states.get(one, State.FAILED) for one in parents]):
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
        seen = look.seen if look else ""
        task = _task(stage, key, reason, [inputs.fingerprint, seen])
        if row.scope == "trained" and (why := self._keeps(inputs, reason)):
            self.held.append(Task(stage, key, why))
            return State.HELD
        state = self._due(task, inputs.parents.values())
        # The previous corpus is still a corpus.
        return State.FRESH if artifact and state is State.FAILED else state

    def _keeps(self, inputs: Inputs, reason: str) -> str:
        """Why the policy of training keeps a checkpoint as it is; "" if it does not."""
        slug, method = inputs.key.split("/")
        policy = self.project.config.section(AutomationConfig)
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

    def _gathered(self, row: Stage, key: str) -> State:
        """Stages whose parents are whichever results there are."""
        stage = row.name
        names = [place for one in row.gathers for place in self._results.get((one, key), [])]
        states = [self.states[name] for name in names]
        shown = [name for name in names if not (row.compares and name[1].endswith("/base"))]
        if not any(self.states[name] is State.FRESH for name in shown):
            return _joined(states) or State.FAILED
        if State.DUE in states or State.WAITING in states:
            return State.WAITING
        # A comparison does not need what was never built; an older result would drop out of it.
        held = [name for name, state in zip(names, states, strict=True) if state is State.HELD]
        if row.scope != "all" and any(map(self._current, held)):
            return State.HELD
        try:
            is_current(self.project, stage, key)
        except _OUTDATED as error:
            gathered = [(*name, self.project.store.pointer(*name)) for name in names]
            today = error.today if isinstance(error, StaleArtifact) else ""
            identity = row.identity(self.project, key)
            inputs = [identity, row.version, gathered, str(error), today]
            return self._due(_task(stage, key, str(error), inputs))
        return State.FRESH

    def _current(self, place: Place) -> Artifact | None:
        try:
            return self.project.store.current(*place)
        except (MissingArtifact, CorruptArtifact):
            return None

    def _due(self, task: Task, parents: Iterable[Artifact] = ()) -> State:
        """Ask for a task, unless a blocking check of a parent has not passed. One that was not
        evaluated is asked for, with its artifact, which is reused.
        """
        for parent in parents:
            place = (parent.stage, parent.key)
            if place not in self._checks:  # many trainings share a parent
                self._checks[place] = open_checks(self.project, parent)
            for check, problem in self._checks[place].items():
                what = f"{check} of {parent.stage}"
                if problem is not None:
                    text = f"not asked for: {what} has failed: {problem}"
                    self.waiting[task] = text
                    return State.FAILED
                again = Task(*place, f"{what} was not evaluated", parent.fingerprint)
                return State.FAILED if self._ask(again) is State.FAILED else State.WAITING
        return self._ask(task)

    def _ask(self, task: Task) -> State:
        """Judge a task, once."""
        if task not in self._judged:
            failure = read_failure(self.project, task.place)
            if failure and failure.inputs == task.inputs:
                self.failed[task] = failure
            else:
                failure = None
            why = self.judge(task, failure)
            if why is None:
                self.tasks.append(task)
            else:
                self.waiting[task] = why
            # What waits for a person or an hour keeps no comparison of others waiting.
            self._judged[task] = State.FAILED if failure or why else State.DUE
        return self._judged[task]


def _task(stage: str, key: str, reason: str, inputs: Any) -> Task:
    return Task(stage, key, reason, hash_value([stage, key, inputs, __version__]))


def _joined(states: Collection[State]) -> State | None:
    """What follows for a place from those before it; None if all of them are fresh."""
    if State.HELD in states:
        return State.HELD
    if State.DUE in states or State.WAITING in states:
        return State.WAITING
    return State.FAILED if State.FAILED in states else None

"""Survey: which artifacts are missing or out of date, which of them can be built right now, and
which are held back.

Belongs here: one look at the whole pipeline and the policy of training (`automation:` of
pipeline.yaml). Does not belong here: asking anybody to build something (`assets.upkeep`), how
freshness is judged (`lineage` and the `is_current` of the stages that gather results), what is
remembered of failures (`react_pipeline.failures`).

A look depends on nothing but the files, so that it comes to the same result however often, and by
whomever, it is taken. It reads manifests and never hashes an artifact: the step that reads it does.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline import __version__
from react_pipeline.extensions.automation.settings import AutomationConfig
from react_pipeline.failures import Failure, Kind, failure_of, open_checks
from react_pipeline.lineage import fresh, is_current, look_outside, parents_of
from react_pipeline.project import Manifests, Project, changed_since_run
from react_pipeline.stage import ALL, STAGES, Place, Stage, left_out_stages
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    InputError,
    MissingArtifact,
    StaleArtifact,
    Store,
    digest_of,
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
        images: How many images a training would see; 0 for other stages.
    """

    stage: str
    key: str
    reason: str
    inputs: str = ""
    images: int = 0

    @property
    def place(self) -> Place:
        """Where the artifact belongs."""
        return self.stage, self.key


@dataclass
class Survey:
    """What one look found.

    Attributes:
        tasks: What can be built right now, in the order of the data.
        failed: What failed with today's inputs, or must not be built on what failed a check.
        held: What the policy holds back, with the reason.
        states: Of every place that is kept up.
        unreadable: Domains left out, with the reason.
    """

    tasks: list[Task] = field(default_factory=list)
    failed: dict[Task, Failure] = field(default_factory=dict)
    held: list[Task] = field(default_factory=list)
    states: dict[Place, State] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


def survey(
    project: Project, slugs: Sequence[str], failed: Collection[Place] = frozenset()
) -> Survey:
    """Look at everything that is kept up for these domains.

    Args:
        slugs: Domains to keep up. One whose file is broken or gone is left out and harms no other.
        failed: Places that ended without a result and left no note, as a killed run does: they are
            not tasks again, and a comparison does not wait for them.
    """
    look = _Look(Manifests.of(project), frozenset(failed))
    for slug in slugs:
        try:
            look.project.domain(slug)
        except InputError as error:
            look.survey.unreadable[slug] = str(error)
    readable = [slug for slug in slugs if slug not in look.survey.unreadable]
    for stage, key in places(project, readable):
        look.at(stage, key)
    return look.survey


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
        for key in row.keys(slugs, config.methods, config.two_encoders, config.all_methods):
            yield row.name, key


def pairs_distance(store: Store, stage: str, slug: str, before: str, today: Artifact) -> float:
    """Jaccard distance of the images of two sets of pairs: 0 the same, 1 nothing in common.

    `before` is the fingerprint of the older one; one that was pruned counts as nothing in common.
    """
    try:
        old = store.open(stage, slug, before)
    except (MissingArtifact, CorruptArtifact):
        return 1.0
    return _distance(old.file("pairs.parquet"), today.file("pairs.parquet"))


@lru_cache(maxsize=10_000)
def _distance(*tables: Path) -> float:
    """Of published tables, which never change: what is held back is compared at each tick."""
    left, right = (
        set(pd.read_parquet(table, columns=["image_sha256"])["image_sha256"]) for table in tables
    )
    return 1 - len(left & right) / len(left | right) if left | right else 0.0


@dataclass
class _Look:
    project: Project
    failed: frozenset[Place]
    survey: Survey = field(default_factory=Survey)
    artifacts: dict[Place, Artifact] = field(default_factory=dict)
    checks: dict[Place, dict[str, str | None]] = field(default_factory=dict)
    asked: set[Task] = field(default_factory=set)
    results: dict[Place, list[Place]] = field(default_factory=dict)
    """Places by stage and domain, and by stage and `all`."""

    def at(self, stage: str, key: str) -> None:
        try:
            state = (
                self._gathered(STAGES[stage], key)
                if STAGES[stage].gathers
                else self._made(STAGES[stage], key)
            )
        except Exception as error:  # noqa: BLE001 - of an extension's row it may be any
            # Such as conflicting fields of training, or a damaged table: no other domain waits for
            # it.
            self.survey.unreadable[key.split("/")[0]] = f"{stage}: {' '.join(str(error).split())}"
            state = State.FAILED
        self.survey.states[stage, key] = state
        for of in {key.split("/")[0], ALL}:
            self.results.setdefault((stage, of), []).append((stage, key))

    def _made(self, row: Stage, key: str) -> State:
        stage = row.name
        parents = parents_of(self.project, stage, key)
        states = [self.survey.states.get(place, State.FAILED) for place in parents.values()]
        if blocked := _joined(states):
            return blocked
        look = look_outside(self.project, stage, key)
        try:
            self.artifacts[stage, key] = artifact = fresh(self.project, stage, key)
        except _OUTDATED as error:
            reason = str(error)
        else:
            reason = "" if look is None else changed_since_run(self.project, artifact, look)
            if not reason:
                return State.FRESH
        inputs = {
            "config": row.identity(self.project, key),
            "code": row.version,
            "parents": {name: self.artifacts[place].fingerprint for name, place in parents.items()},
            "outside": look.seen if look else "",
        }
        if row.scope == "trained":
            return self._trained(stage, key, reason, inputs)
        state = self._due(stage, key, reason, inputs)
        is_fresh = (stage, key) in self.artifacts
        # The previous corpus is still a corpus.
        return State.FRESH if is_fresh and state is State.FAILED else state

    def _trained(self, stage: str, key: str, reason: str, inputs: Mapping[str, Any]) -> State:
        slug, method = key.split("/")
        policy = self.project.config.section(AutomationConfig)
        chosen = self.project.method(method)
        pairs = chosen.pairs
        images = chosen.images(
            self.project.training(slug, method),
            lambda: self.artifacts[pairs, slug].counts["pairs"],
        )
        if policy.training == "never":
            return self._hold(stage, key, f"`automation.training` is `never` ({reason})", images)
        try:
            old = self.project.store.current(stage, key)
        except (MissingArtifact, CorruptArtifact):
            return self._due(stage, key, reason, inputs, images)
        others = {
            name for name, value in inputs["parents"].items() if old.parents.get(name) != value
        } - {pairs}
        other_settings = (
            old.manifest["config"] != inputs["config"]
            or old.manifest["code_version"] != inputs["code"]
        )
        if policy.training == "always" or others or other_settings:
            return self._due(stage, key, reason, inputs, images)
        before = old.parents.get(pairs, "")
        today = self.artifacts[pairs, slug]
        distance = pairs_distance(self.project.store, pairs, slug, before, today)
        reason = (
            f"{distance:.1%} of its pairs changed; `automation.changed_fraction` is "
            f"{policy.changed_fraction:.1%}"
        )
        if distance > policy.changed_fraction:
            return self._due(stage, key, reason, inputs, images)
        return self._hold(stage, key, reason, images)

    def _gathered(self, row: Stage, key: str) -> State:
        """Stages whose parents are whichever results there are."""
        stage = row.name
        names = self._gathered_from(row, key)
        states = [self.survey.states.get(name, State.FAILED) for name in names]
        shown = [name for name in names if not (row.compares and name[1].endswith("/base"))]
        if not any(self.survey.states.get(name) is State.FRESH for name in shown):
            return _joined(states) or State.FAILED
        if (State.DUE in states or State.WAITING in states) and not self._is_much_new(row, names):
            return State.WAITING
        # A comparison does not need what was never built; an older result would drop out of it.
        held = [name for name, state in zip(names, states, strict=True) if state is State.HELD]
        if row.scope != "all" and any(self._fingerprint(name) for name in held):
            return State.HELD
        try:
            self.artifacts[stage, key] = is_current(self.project, stage, key)
        except _OUTDATED as error:
            inputs = {
                "config": row.identity(self.project, key),
                "code": row.version,
                "gathered": {"/".join(name): self._fingerprint(name) for name in names},
                "reason": str(error),
                "today": error.today if isinstance(error, StaleArtifact) else "",
            }
            return self._due(stage, key, str(error), inputs)
        return State.FRESH

    def _gathered_from(self, row: Stage, key: str) -> list[Place]:
        """The results of this domain, or of all of them."""
        return [place for stage in row.gathers for place in self.results.get((stage, key), [])]

    def _is_much_new(self, row: Stage, names: Sequence[Place]) -> bool:
        """Whether what gathers all domains lacks a tenth of what is there: of a thousand domains
        some comparison is always due.
        """
        if row.scope != "all":
            return False
        try:
            shown = set(self.project.store.current(row.name, ALL).parents.values())
        except (MissingArtifact, CorruptArtifact):
            shown = set()
        states = self.survey.states
        new = [
            name
            for name in names
            if states.get(name) is State.FRESH and self._fingerprint(name) not in shown
        ]
        return 10 * len(new) >= len(names)

    def _fingerprint(self, place: Place) -> str:
        try:
            return self.project.store.current(*place).fingerprint
        except (MissingArtifact, CorruptArtifact):
            return ""

    def _due(
        self, stage: str, key: str, reason: str, inputs: Mapping[str, Any], images: int = 0
    ) -> State:
        digest = digest_of([stage, key, inputs, __version__])
        task = Task(stage, key, reason, digest, images)
        for place in parents_of(self.project, stage, key).values():
            if state := self._unchecked(task, self.artifacts[place]):
                return state
        return self._ask(task)

    def _unchecked(self, task: Task, parent: Artifact) -> State | None:
        """What a blocking check keeps a task from; None if there is none.

        A check that was not evaluated is asked for, with the artifact, which is reused.
        """
        place = (parent.stage, parent.key)
        if place not in self.checks:  # many trainings share a parent
            self.checks[place] = open_checks(self.project, parent)
        for check, problem in self.checks[place].items():
            what = f"{check} of {parent.stage}"
            if problem is not None:
                text = f"not asked for: {what} has failed: {problem}"
                self.survey.failed[task] = Failure(task.inputs, Kind.LASTING, text)
                return State.FAILED
            again = Task(parent.stage, parent.key, f"{what} was not evaluated", parent.fingerprint)
            return State.FAILED if self._ask(again) is State.FAILED else State.WAITING
        return None

    def _ask(self, task: Task) -> State:
        if task.place in self.failed:
            return State.FAILED
        failure = failure_of(self.project, task.place)
        if failure and failure.inputs == task.inputs:
            self.survey.failed[task] = failure
            return State.FAILED
        if task not in self.asked:
            self.asked.add(task)
            self.survey.tasks.append(task)
        return State.DUE

    def _hold(self, stage: str, key: str, reason: str, images: int) -> State:
        self.survey.held.append(Task(stage, key, reason, images=images))
        return State.HELD


def _joined(states: Collection[State]) -> State | None:
    """What follows for a place from those before it; None if all of them are fresh."""
    if State.HELD in states:
        return State.HELD
    if State.DUE in states or State.WAITING in states:
        return State.WAITING
    return State.FAILED if State.FAILED in states else None

"""Results on guard sets: each checkpoint is measured as `domain_results` measures it, and what the
models of a domain lost is evidence for comparison and promotion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from react_pipeline.corpus import IMAGE_SUFFIXES
from react_pipeline.evaluation import (
    MUST_AGREE,
    EvalResult,
    Evidence,
    count_gains,
    paired_interval,
    percent,
    points,
    read_correct,
    write_evaluation,
)
from react_pipeline.extensions.guards.extension import GUARD_RESULTS, GuardSet, guard_sets
from react_pipeline.labelled import images_by_folder, publish_labelled_set
from react_pipeline.lineage import fresh_or_none, resolve
from react_pipeline.project import Project, identity
from react_pipeline.promotion import Contender
from react_pipeline.settings import DomainConfig
from react_pipeline.stage import BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT, STAGES, method_key
from react_pipeline.store import Artifact, InputError, Inputs, Scratch

GUARD_SET = "guard_set"
"""Stage of the artifact of one set, by its name; each result publishes what it is measured on."""
GUARD_DROPS = "guard_drops"
"""Stage of the artifact, by domain; comparison and promotion publish it."""


def _domain(guard: GuardSet) -> DomainConfig:
    """Return the set as a domain; folders name the classes if nothing else does."""
    names = list(guard.classes)
    root = guard.evaluation.root()
    if not names and root is not None and root.is_dir():
        folders, _, _ = images_by_folder(root, IMAGE_SUFFIXES)
        names = [name.replace("_", " ") for name in folders]
    # A set that is not there is published as unavailable, whatever its classes are.
    fields: dict[str, Any] = {"classes": names or [guard.name], "templates": guard.templates}
    try:
        return DomainConfig(slug=guard.name, evaluation=guard.evaluation, **fields)
    except ValidationError as error:
        raise InputError(f"guards.sets: {guard.name}: {error.errors()[0]['msg']}") from error


def publish_guard_results(project: Project, slug: str, method: str) -> Artifact:
    """Measure the checkpoint of a method on every guard set.

    Files: `<set>/result.json` and more, as of `domain_results`. A set that is not there has a
    reason in place of values.

    Raises:
        InputError: If a set is wrong, as `publish_evaluation_set` says.
        CorruptArtifact: If the checkpoint gives features that are not finite.
    """
    domains = {guard.name: _domain(guard) for guard in guard_sets(project)}
    sets = {}
    for name, domain in domains.items():
        inputs_of = partial(Inputs, GUARD_SET, name, identity.labelled_set(domain), {}, "1")
        sets[name] = publish_labelled_set(project, domain, inputs_of)
    content = {name: images.fingerprint for name, images in sets.items()}
    inputs = resolve(project, GUARD_RESULTS, method_key(slug, method), content=content)
    checkpoint = inputs.parents.get(CUSTOMIZED_CHECKPOINT) or inputs.parents[BASE_CHECKPOINT]

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        counts = {}
        for name, domain in domains.items():
            (directory / name).mkdir()
            images = {"evaluation_set": sets[name]}
            counts[name] = write_evaluation(
                project, domain, method, checkpoint, images, directory / name
            )
        return counts

    return project.store.build(inputs, write)


@dataclass(frozen=True)
class Change:
    """Top-1 of one model on one set, and of the base.

    Attributes:
        delta, low, high: Less the base's, a fraction, and its interval (95%).
        unavailable: Why there are no values; "" if there are.
    """

    method: str
    checkpoint: str
    guard: str
    top1: float | None = None
    base: float | None = None
    delta: float = 0.0
    low: float = 0.0
    high: float = 0.0
    n: int = 0
    unavailable: str = ""

    def __str__(self) -> str:
        where = f"{self.method} on the guard set {self.guard}"
        if self.unavailable:
            return f"{where}: unavailable: {self.unavailable}"
        return (
            f"{where}: top-1 {percent(self.top1)}%, base {percent(self.base)}%, "
            f"{points(self.delta)} points ({points(self.low)} to {points(self.high)}), "
            f"{self.n:,} images"
        )


@dataclass(frozen=True)
class Drops(Evidence):
    """Changes against the base on every set, of the models whose results are fresh.

    Attributes:
        results: Of `guard_results`, by method; the base's too.
    """

    inputs: Inputs
    results: dict[str, Artifact]
    columns = ("guard_delta",)
    title = "Outside the domain"
    explanation = (
        "Guard sets are labelled images of other things. Top-1 among their own classes less that "
        "of the base says what customizing cost there; the table shows the worst set. Intervals "
        "(95%) cover the sampling of images."
    )

    @cached_property
    def changes(self) -> list[Change]:
        """One for each method and set."""
        base = self.results.get("base")
        return [
            _change(method, guard, own, base)
            for method, own in self.results.items()
            for guard in own.manifest["content"]
            if method != "base"
        ]

    def publish(self, project: Project) -> Artifact:
        """Publish the worst change of each method; return the artifact that is there if nothing new
        was measured.
        """
        worst = {method: change.delta for method, change in self._worst.items()}
        return project.store.build(self.inputs, lambda *_: {"worst": worst})

    def rows(self, checkpoints: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Return the worst change of each of these checkpoints."""
        return {
            method: {
                "guard_delta": change.delta,
                "guard_delta_low": change.low,
                "guard_delta_high": change.high,
            }
            for method, change in self._worst.items()
            if checkpoints.get(method) == change.checkpoint
        }

    @property
    def _worst(self) -> dict[str, Change]:
        """The largest loss of each method on a set that was measured."""
        measured = [change for change in self.changes if not change.unavailable]
        measured.sort(key=lambda change: -change.delta)
        return {change.method: change for change in measured}  # the last one stays

    def sentences(self, checkpoint: str = "") -> list[str]:
        """Return a sentence for each change; of one checkpoint, or of all."""
        return [str(one) for one in self.changes if checkpoint in ("", one.checkpoint)]

    def objection(self, project: Project, contender: Contender) -> str:
        """Say that a model loses more than `promotion.max_drop`, or may; "" if it does not."""
        limit = project.config.promotion.max_drop
        if limit is None or not _is_measured(project, contender.method):
            return ""
        changes = [one for one in self.changes if one.checkpoint == contender.checkpoint]
        if not changes:
            return f"what it lost on the guard sets is not known; materialize `{GUARD_RESULTS}`"
        for one in sorted(changes, key=lambda change: change.delta):
            if one.unavailable:
                return f"what it lost on the guard set {one.guard} is not known: {one.unavailable}"
            if round(-one.delta - limit, 12) > 0:  # 75% less 73% is a little more than 2%
                return (
                    f"it loses {100 * -one.delta:.1f} points of top-1 on the guard set "
                    f"{one.guard}, and `promotion.max_drop` allows {100 * limit:.1f}"
                )
        return ""


def read_drops(project: Project, slug: str) -> Drops:
    """Return what is known today; publishes nothing."""
    results = {
        method: artifact
        for method in project.config.all_methods
        if _is_measured(project, method)
        and (artifact := fresh_or_none(project, GUARD_RESULTS, method_key(slug, method)))
    }
    return Drops(Inputs(GUARD_DROPS, slug, {}, results, "2"), results)


def _is_measured(project: Project, method: str) -> bool:
    """Return whether guard sets are for a method; a head leaves the base's model as it is."""
    return STAGES[GUARD_RESULTS].is_for(project.method(method))


def _change(method: str, guard: str, own: Artifact, base: Artifact | None) -> Change:
    folder = f"{guard}/"
    result = EvalResult.read(own, folder)
    of_base = EvalResult.read(base, folder) if base else None
    change = partial(Change, method, result.checkpoint_fingerprint, guard)
    if result.top1 is None:
        return change(unavailable=result.unavailable or "no reason given")
    if base is None or of_base is None or of_base.top1 is None:
        return change(unavailable="the base was not measured on it")
    if any(getattr(result, field) != getattr(of_base, field) for field in MUST_AGREE):
        reason = f"the base was measured on other images; materialize `{GUARD_RESULTS}` again"
        return change(unavailable=reason)
    right = [read_correct(artifact, folder).to_numpy() for artifact in (own, base)]
    interval = paired_interval(count_gains(*right))
    delta = result.top1 - of_base.top1
    return change(result.top1, of_base.top1, delta, *interval, result.n)
